"""Several datasets of episodes one after the other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # that module needs this one
    from libero_reward_envs.data.episodes import (
        Episode,
        EpisodeDataset,
        EpisodeSource,
        EpisodeSummary,
    )


class ChainedSource:
    """The episodes of several datasets, an `EpisodeSource`.

    Args:
        parts: The datasets; how long they are is asked once, when something is read.
    """

    def __init__(self, parts: "Sequence[EpisodeDataset]") -> None:
        self.parts = tuple(parts)
        self._ends: np.ndarray | None = None

    @property
    def skipped(self) -> list[str]:
        """What is wrong with each episode that was left out."""
        return [reason for part in self.parts for reason in part.skipped]

    def __len__(self) -> int:
        ends = self._find_ends()
        return int(ends[-1]) if len(ends) else 0

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> "Episode":
        """Read episode `index`, with all observations or only those named."""
        source, position = self.locate(index)
        return source.read(position, observation_keys)

    def locate(self, index: int) -> "tuple[EpisodeSource, int]":
        """Return the source of an episode, and its number there."""
        ends = self._find_ends()
        place = int(np.searchsorted(ends, index, side="right"))
        if index < 0 or place == len(ends):
            raise IndexError(f"Episode {index} of {len(self)}.")
        part = self.parts[place]
        return part.locate(index - int(ends[place]) + len(part))

    def summaries(self) -> "list[EpisodeSummary]":
        """Return one summary an episode, without reading observations."""
        return [summary for part in self.parts for summary in part.summaries()]

    def _find_ends(self) -> np.ndarray:
        """Return one past the last episode of each part, shape (n parts,)."""
        if self._ends is None:
            self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)
        return self._ends
