"""Where the records of an RLDS set lie, over all its shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libero_reward_envs.data.rlds.files import INFO_FILE, Shard
from libero_reward_envs.data.rlds.tfrecord import ShardIndex, index_shard


class Place(NamedTuple):
    """Where a record lies: its file, and first byte and number of bytes of its payload there."""

    path: Path
    offset: int
    length: int


class RecordTable:
    """Finds records by their number in the set; a shard is looked through when it is needed.

    16 bytes a record stay in memory, of the shards that were looked through.

    Args:
        shards: The files, in order.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = tuple(shards)
        # Record `_starts[i]` is the first of shard i.
        self._starts = np.cumsum([0, *(shard.n_episodes for shard in shards)])
        self._indices: dict[int, ShardIndex] = {}

    def __len__(self) -> int:
        """The number of records that are declared."""
        return int(self._starts[-1])

    @property
    def n_shards(self) -> int:
        """The number of files."""
        return len(self._shards)

    def shard_number(self, position: int) -> int:
        """Return the number of a record's file."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def shard_path(self, position: int) -> Path:
        """Return a record's file."""
        return self._shards[self.shard_number(position)].path

    def find(self, position: int) -> Place:
        """Return where a record lies.

        Raises:
            ValueError: If it is not in its file.
        """
        number = self.shard_number(position)
        record = position - int(self._starts[number])
        shard, index = self._shards[number], self._index(number)
        if record >= len(index):
            declared = f"{shard.n_episodes} episodes are declared, {len(index)} are there"
            raise ValueError(index.damage or f"{declared}: it was cut short, or is being written")
        return Place(shard.path, int(index.offsets[record]), int(index.lengths[record]))

    def find_sound(self, number: int) -> tuple[range, range]:
        """Return the records of a shard that are where they should be, and those that are not."""
        start, stop = int(self._starts[number]), int(self._starts[number + 1])
        middle = min(start + len(self._index(number)), stop)
        return range(start, middle), range(middle, stop)

    def check_surplus(self, number: int) -> None:
        """Check that a shard has no more records than declared.

        Raises:
            ValueError: If it has.
        """
        shard = self._shards[number]
        if len(self._index(number)) > shard.n_episodes:
            raise ValueError(
                f"{shard.n_episodes} episodes are declared, more are there: {INFO_FILE} and this "
                "file do not belong together"
            )

    def _index(self, number: int) -> ShardIndex:
        if number not in self._indices:
            shard = self._shards[number]
            nothing = np.zeros(0, np.int64)
            self._indices[number] = (
                ShardIndex(nothing, nothing, shard.damage)
                if shard.damage is not None
                else index_shard(shard.path, limit=shard.n_episodes + 1)
            )
        return self._indices[number]
