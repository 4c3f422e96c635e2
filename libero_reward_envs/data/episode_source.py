"""What a dataset takes its episodes from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # that module needs this one
    from libero_reward_envs.data.episodes import Episode, EpisodeSummary


class EpisodeSource(Protocol):
    """Where a dataset takes its episodes from: a list in memory, or a file.

    Two things more a source may have: `keep_open`, which returns a context manager, as long as
    which files may stay open between reads, and the `read_steps` of a `StepSource`.
    """

    def __len__(self) -> int:
        """The number of episodes."""
        ...

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> "Episode":
        """Read episode `index`, with all observations or only those named."""
        ...

    def summaries(self) -> "Sequence[EpisodeSummary]":
        """Return one summary an episode, without reading observations."""
        ...
