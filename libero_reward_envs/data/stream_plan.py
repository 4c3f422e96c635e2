"""The order in which a stream of episodes gives its items; nothing is read to know it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from libero_reward_envs.data.episode_reader import EpisodeReader
from libero_reward_envs.data.step_arrays import StepArrays

ITEMS = ("transitions", "frames", "subsequences")


@dataclass(frozen=True)
class StreamSettings:
    """What decides the batches of an `EpisodeStream`, where the arguments are described.

    Raises:
        ValueError: If an argument is not valid.
    """

    items: str
    length: int | None
    stride: int
    batch_size: int
    buffer_steps: int
    shuffle: bool
    seed: int
    drop_last: bool

    def __post_init__(self) -> None:
        if self.items not in ITEMS:
            raise ValueError(f"Unknown items {self.items!r}. Choose one of: {', '.join(ITEMS)}.")
        if (self.items == "subsequences") != (self.length is not None):
            raise ValueError(
                "`length` is for items='subsequences' and needed there, got "
                f"{self.length} for {self.items!r}."
            )
        if self.length is None and self.stride != 1:
            raise ValueError(
                f"`stride` is for items='subsequences', got {self.stride} for {self.items!r}."
            )
        for name in ("n_steps", "stride", "batch_size", "buffer_steps"):
            if getattr(self, name) < 1:
                name, number = name.replace("n_steps", "length"), getattr(self, name)
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {self.seed}.")

    @property
    def n_steps(self) -> int:
        """Steps of an item."""
        return 1 if self.length is None else self.length

    def count_items(self, lengths: np.ndarray) -> np.ndarray:
        """Return how many items begin in episodes of these lengths, each (E,)."""
        return np.where(
            lengths >= self.n_steps, (lengths - self.n_steps) // self.stride + 1, 0
        ).astype(np.int64)


class Position(NamedTuple):
    """Where a worker is in a pass, or the one process where there are none.

    Attributes:
        epoch: Number of the pass.
        start: Batches that all workers together gave before it was begun again.
        yielded: Those that this worker gave since then.
        n_workers: How many workers there are; 0 without.
    """

    epoch: int
    start: int
    yielded: int
    n_workers: int

    def list_batches(self, n_batches: int, worker: int) -> range:
        """Return the numbers of the batches, of all of the pass, that a worker is still to give.

        A pass is cut into a part for each worker. The DataLoader takes from the workers in turn,
        so with parts that differ by a batch at most, the earlier ones being the longer, the i-th
        that it gives is of part i % n. A pass that starts late is one in which the turns moved on.
        """
        n = max(1, self.n_workers)
        part = (self.start + worker) % n
        size, rest = divmod(n_batches, n)
        first = part * size + min(part, rest)
        n_used = -(-max(0, self.start - part) // n) + self.yielded
        return range(first + n_used, first + size + (part < rest))


class StepBlock(NamedTuple):
    """Items that are shuffled together.

    Attributes:
        begin: Position of the first one in the pass.
        end: Position after the last one.
        rows: Where in `steps` each of them begins, shape (end - begin,).
        steps: Their episodes.
    """

    begin: int
    end: int
    rows: np.ndarray
    steps: StepArrays


class StreamPlan:
    """Which items come when in a pass.

    Args:
        settings: The settings; of them the workers' number is no part.
        lengths: T of each episode, shape (E,).
        epoch: Number of the pass.

    Attributes:
        n_items: Items of the pass.
    """

    def __init__(self, settings: StreamSettings, lengths: np.ndarray, epoch: int) -> None:
        self._settings, self._lengths = settings, lengths
        self._entropy = (settings.seed, epoch)
        self._items_of = settings.count_items(lengths)
        order = np.flatnonzero(self._items_of)
        if settings.shuffle:
            order = np.random.default_rng(self._entropy).permutation(order)
        self._blocks = _cut(order.tolist(), lengths[order].tolist(), settings.buffer_steps)
        self._ends = np.cumsum([self._items_of[block].sum() for block in self._blocks])
        self.n_items = int(self._ends[-1])

    def read_block(self, position: int, reader: EpisodeReader) -> StepBlock:
        """Read the episodes of the block in which an item of the pass lies."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        episodes, end = self._blocks[number], int(self._ends[number])
        steps = StepArrays(reader, episodes, self._lengths[episodes].tolist())
        rows = np.concatenate(
            [
                first + self._settings.stride * np.arange(self._items_of[episode])
                for first, episode in zip(steps.first_rows, episodes, strict=True)
            ]
        )
        if self._settings.shuffle:
            rows = np.random.default_rng([*self._entropy, number]).permutation(rows)
        return StepBlock(end - len(rows), end, rows, steps)


def _cut(episodes: Sequence[int], lengths: Sequence[int], buffer_steps: int) -> list[list[int]]:
    """Return as many episodes together as have `buffer_steps` steps, at least one."""
    blocks: list[list[int]] = []
    room = 0
    for episode, length in zip(episodes, lengths, strict=True):
        if length > room:
            blocks.append([])
            room = buffer_steps
        blocks[-1].append(episode)
        room -= length
    return blocks
