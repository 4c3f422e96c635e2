"""Steps of recorded episodes of any format as torch data sets: one at a time, or streamed."""

import dataclasses
import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from libero_reward_envs.data.episode_reader import EpisodeReader
from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.step_arrays import StepArrays, join_batches
from libero_reward_envs.data.step_tensors import Batch, map_leaves, to_tensors
from libero_reward_envs.data.stream_plan import Position, StepBlock, StreamPlan, StreamSettings


class TransitionDataset(Dataset[Batch]):
    """The transitions of all episodes, in any order; item i is one of `EpisodeStream`'s, without B.

    Read is only what is asked for; or, where the format cannot do that or items are asked for in
    their order, the whole episode, of which the last few are kept. To train on shuffled images use
    `EpisodeStream`, which reads each file once a pass.

    Args:
        dataset: The episodes.
        observation_keys: The observations to read; None for all.
        cache_episodes: How many episodes are kept, in each process.

    Raises:
        ValueError: If there is no episode, an observation is missing, or `cache_episodes` is not
            positive; when one is read, if it is damaged or not like the first one.

    Example:
        >>> from libero_reward_envs.data import Episode
        >>> arrays = {"state": np.zeros((4, 2))}, np.zeros((3, 7)), np.array([0, 0, 1])
        >>> steps = TransitionDataset(EpisodeDataset([Episode(*arrays, True, True)]))
        >>> len(steps), steps[2]["rewards"], steps[2]["observations"]["state"].shape
        (3, tensor(1.), torch.Size([2]))
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        observation_keys: Sequence[str] | None = None,
        cache_episodes: int = 4,
    ) -> None:
        if cache_episodes < 1:
            raise ValueError(f"`cache_episodes` must be at least 1, got {cache_episodes}.")
        self._reader = EpisodeReader(dataset, observation_keys)
        self._lengths = [summary.length for summary in dataset.summaries()]
        self._ends = np.cumsum(self._lengths)
        self._n_kept = cache_episodes
        self._kept: OrderedDict[int, StepArrays] = OrderedDict()
        self._last = -2  # the transition that was read last

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": OrderedDict()}  # a worker process reads its own

    def __len__(self) -> int:
        """The number of transitions."""
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Return the episode of a transition and its step there.

        Raises:
            IndexError: If there is no such transition.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"Transition {index} of {len(self)}.")
        index %= len(self)
        episode = int(np.searchsorted(self._ends, index, side="right"))
        return episode, index - int(self._ends[episode]) + self._lengths[episode]

    def __getitem__(self, index: int) -> Batch:
        """Read one transition."""
        episode, step = self.locate(index)
        is_in_order, self._last = index == self._last + 1, index
        if episode not in self._kept:
            if not is_in_order and self._reader.has_fast_steps(episode):
                return self._take(self._read(episode, range(step, step + 1)), 0)
            while len(self._kept) >= self._n_kept:
                self._kept.popitem(last=False)
            self._kept[episode] = self._read(episode)
        self._kept.move_to_end(episode)
        return self._take(self._kept[episode], step)

    def _read(self, episode: int, steps: range | None = None) -> StepArrays:
        return StepArrays(self._reader, [episode], [self._lengths[episode]], steps)

    def _take(self, steps: StepArrays, row: int) -> Batch:
        found = steps.gather(np.array([row]), "transitions")
        return map_leaves(operator.itemgetter(0), to_tensors(found, self._reader.image_keys))


class EpisodeStream(IterableDataset[Batch]):
    """Yields every item of a dataset's episodes once a pass, in shuffled batches.

    A batch is a dictionary of tensors, B items of one of three kinds:

    | name | "transitions" | "frames" | "subsequences" of L steps |
    | --- | --- | --- | --- |
    | observations | o_t by key, (B, ...) | o_{t+1} | o_t .. o_{t+L}, (B, L + 1, ...) |
    | next_observations | o_{t+1} by key | | |
    | actions | a_t, (B, a) | | (B, L, a) |
    | rewards, terminated, success | (B,) | success only | (B, L) |
    | episode, step | its number, t | the same | the same, of the first step |

    Images are (C, H, W) uint8, channels last in memory; other observations, actions and rewards
    float32, flags bool. `success` is that of `find_step_success`. Two trainers read by themselves:
    the classifier's through `FrameStream`, which takes its folders, reads parts of files and goes
    on past damaged ones; RRD's draws steps that do not follow each other.

    Episodes are taken in a shuffled order, as many together as have `buffer_steps` steps, and the
    items of these are shuffled: memory holds so many steps and a batch in each worker, whatever
    the size of the data. Give it to `DataLoader(stream, batch_size=None, num_workers=...)`.
    Workers read different episodes, but for those where their parts meet. The batches of a pass
    depend on `seed` and the epoch alone, their order on the number of workers too.

    To go on within a pass, with as many workers, call `set_epoch(epoch, start)` with the number of
    batches that were used. `state_dict` and `load_state_dict` do the same where the stream itself
    can count: without workers, and with any number in torchdata's `StatefulDataLoader`. Of several
    processes that train one network, give the k-th of n `dataset[k::n]`.

    Args:
        dataset: The episodes.
        items: "transitions", "frames" or "subsequences".
        length: L, needed for subsequences. Episodes shorter than that have none.
        stride: Steps between the beginnings of two subsequences; L lets none overlap, and leaves
            out what remains at the end of an episode.
        observation_keys: The observations to read; None for all.
        batch_size: B; the last of a pass may be smaller.
        buffer_steps: Steps whose items are shuffled together; at least one episode.
        shuffle: Whether to shuffle at all.
        seed: Decides the order, with the epoch.
        drop_last: Whether to leave out a smaller batch.

    Raises:
        ValueError: If an argument is not valid, an observation is missing, or there is no item;
            when read, if an episode is damaged or not like the first one.

    Example:
        stream = EpisodeStream(load_episodes("episodes.h5"), items="subsequences", length=16)
        for epoch in range(10):
            stream.set_epoch(epoch)
            for batch in DataLoader(stream, batch_size=None, num_workers=2):
                ...
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        items: str = "transitions",
        length: int | None = None,
        stride: int = 1,
        observation_keys: Sequence[str] | None = None,
        batch_size: int = 32,
        buffer_steps: int = 2048,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self._settings = StreamSettings(
            items, length, stride, batch_size, buffer_steps, shuffle, seed, drop_last
        )
        self._reader = EpisodeReader(dataset, observation_keys)
        self._lengths = np.array([summary.length for summary in dataset.summaries()])
        n_items = int(self._settings.count_items(self._lengths).sum())
        self._n_batches = n_items // batch_size if drop_last else -(-n_items // batch_size)
        if not self._n_batches:
            raise ValueError(
                f"Expected enough for a batch, got {n_items} {items} of {len(self._lengths)} "
                f"episodes with up to {self._lengths.max()} steps. Lower `batch_size` or `length`."
            )
        # Epoch, start, and whether workers count. Shared with workers that outlive an epoch.
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._position: Position | None = None
        self._loaded: Position | None = None

    def __len__(self) -> int:
        """The number of batches of a whole pass."""
        return self._n_batches

    def set_epoch(self, epoch: int, start: int | None = None) -> None:
        """Choose the next pass; without it every pass is the same.

        Args:
            epoch: Its number.
            start: How many of its batches were used before and are left out; 0 by default, or
                what was loaded for this epoch.

        Raises:
            ValueError: If there are not so many batches.
        """
        if self._loaded is not None and (start is not None or epoch != self._loaded.epoch):
            self._loaded = None
        start = start or 0
        if epoch < 0 or not 0 <= start <= self._n_batches:
            raise ValueError(
                f"Expected an epoch of at least 0 and a start in 0..{self._n_batches}, got "
                f"{epoch} and {start}."
            )
        self._position = None
        self._shared.copy_(torch.tensor([epoch, start, 0]))

    def state_dict(self) -> dict[str, Any]:
        """Return where the pass is, as JSON would hold it.

        Raises:
            RuntimeError: If the batches are made by workers: then only who takes them knows.
        """
        if get_worker_info() is None and self._shared[2]:
            raise RuntimeError(
                "Workers make the batches of this stream, so it cannot tell which were used. Count "
                "them and go on by `set_epoch(epoch, start)`, or use torchdata's "
                "StatefulDataLoader, which asks the workers."
            )
        position = self._loaded or self._position or self._begin()
        return {**position._asdict(), "settings": self._describe()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where another one was.

        Raises:
            ValueError: If it was of other data or settings.
        """
        for name, value in self._describe().items():
            found = state["settings"].get(name)
            if found != value:
                raise ValueError(
                    f"The state is of a stream with {name}={found!r}, this one has {value!r}. "
                    "Make it as it was made then."
                )
        self._loaded = Position(*(int(state[name]) for name in Position._fields))
        self._shared.copy_(torch.tensor([self._loaded.epoch, 0, 0]))

    def __iter__(self) -> Iterator[Batch]:
        """Return the batches of this worker, or all without workers.

        Raises:
            ValueError: If a state was loaded that is of another number of workers.
        """
        here = self._begin()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            if loaded[1:3] != (0, 0) and max(1, loaded.n_workers) != max(1, here.n_workers):
                raise ValueError(
                    f"The state is of {loaded.n_workers} workers, here are {here.n_workers}. The "
                    "order of batches depends on it: give the DataLoader as many."
                )
            here = loaded._replace(n_workers=here.n_workers)
        self._shared[2] = get_worker_info() is not None
        self._position = here
        return self._generate(here)

    def _describe(self) -> dict[str, Any]:
        n_steps = int(self._lengths.sum())
        sizes = {"n_episodes": len(self._lengths), "n_steps": n_steps}
        return {**dataclasses.asdict(self._settings), **sizes}

    def _begin(self) -> Position:
        info = get_worker_info()
        epoch, start = self._shared[:2].tolist()
        return Position(epoch, start, 0, info.num_workers if info else 0)

    def _generate(self, position: Position) -> Iterator[Batch]:
        for batch in self._read(position):
            position = position._replace(yielded=position.yielded + 1)
            self._position = position  # first: who has the batch may ask for the state
            yield batch

    def _read(self, position: Position) -> Iterator[Batch]:
        info = get_worker_info()
        settings, size = self._settings, self._settings.batch_size
        plan = StreamPlan(settings, self._lengths, position.epoch)
        block: StepBlock | None = None
        for number in position.list_batches(self._n_batches, info.id if info else 0):
            begin, end = number * size, min((number + 1) * size, plan.n_items)
            parts = []
            while begin < end:
                if block is None or begin >= block.end:
                    block = None  # first, so that never two of them are in memory
                    block = plan.read_block(begin, self._reader)
                rows = block.rows[begin - block.begin : end - block.begin]
                parts.append(block.steps.gather(rows, settings.items, settings.n_steps))
                begin += len(rows)
            yield to_tensors(join_batches(parts), self._reader.image_keys)
