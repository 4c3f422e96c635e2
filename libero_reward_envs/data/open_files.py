"""Files that stay open for the next read."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

CAPACITY = 32


class Closable(Protocol):
    """A file that is open."""

    def close(self) -> None:
        """Close it."""
        ...


Opened = TypeVar("Opened", bound=Closable)


class OpenFiles:
    """The files that were read last, each used by one reader at a time.

    What is open stays in its process: a pickled copy begins with nothing open, and so does a
    forked process, whose files would share their positions with those of the other.

    Args:
        capacity: How many stay open.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._idle: OrderedDict[tuple[Any, Path], Any] = OrderedDict()
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @contextlib.contextmanager
    def borrow(self, opener: Callable[[Path], Opened], path: Path) -> Iterator[Opened]:
        """Yield an open file, which is opened if none is idle; after an error it is closed."""
        if self._process != os.getpid():
            self._idle, self._process = OrderedDict(), os.getpid()
            self._lock = threading.Lock()
        with self._lock:
            file = self._idle.pop((opener, path), None)
        file = opener(path) if file is None else file
        try:
            yield file
        except BaseException:
            file.close()
            raise
        with self._lock:
            replaced = [self._idle.pop((opener, path), None)]
            self._idle[opener, path] = file
            while len(self._idle) > self._capacity:
                replaced.append(self._idle.popitem(last=False)[1])
        for other in replaced:
            if other is not None:
                other.close()

    def close(self) -> None:
        """Close the files that nobody reads."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for file in idle.values() if self._process == os.getpid() else ():
            file.close()
