"""Work that goes on in threads while its results are used."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
_POLL_S = 0.1


def prefetch(
    items: Iterable[T], prepare: Callable[[T], U], *, depth: int = 4, n_threads: int = 2
) -> Iterator[U]:
    """Yield `prepare(item)` of each item, in order, a few of them ahead.

    The items are made in one thread and prepared in others. An error of either is raised here, in
    its turn. Threads end when the iterator is used up or closed.

    Args:
        items: What is iterated in a thread of its own.
        prepare: Runs in several threads at once.
        depth: How many results wait at most.
        n_threads: How many threads prepare.

    Example:
        >>> list(prefetch(range(4), lambda number: number * number))
        [0, 1, 4, 9]
    """
    waiting: queue.Queue[Future[U] | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(value: "Future[U] | BaseException | None") -> None:
        while not stopped.is_set():
            try:
                return waiting.put(value, timeout=_POLL_S)
            except queue.Full:
                continue

    def make_items(pool: ThreadPoolExecutor) -> None:
        try:
            for item in items:
                put(pool.submit(prepare, item))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # which belongs to who takes the results
            put(error)

    with ThreadPoolExecutor(n_threads) as pool:
        maker = threading.Thread(target=make_items, args=(pool,), daemon=True)
        maker.start()
        try:
            while (found := waiting.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found.result()
        finally:
            stopped.set()
            maker.join()
