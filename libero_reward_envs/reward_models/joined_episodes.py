"""Several sources of episodes as one, for a reward that learns from more than its own agent."""

from collections.abc import Sequence

import numpy as np

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd_data import SubsequenceSource


class JoinedEpisodes:
    """The episodes of several sources, one source after the other.

    So a reward model can go on learning from recorded episodes and from those of an agent whose
    replay buffer holds only its own. Sources may grow and shrink; they are read, never changed.

    Args:
        sources: At least one. All that have episodes must give the same observations and actions.

    Raises:
        ValueError: If there is no source; in `gather`, if the sources' observations differ.

    Example:
        >>> class Source:
        ...     def __init__(self, lengths, returns):
        ...         self.lengths, self.returns = np.array(lengths), np.array(returns)
        >>> JoinedEpisodes([Source([3, 4], [0.0, 1.0]), Source([5], [2.0])]).lengths
        array([3, 4, 5])
    """

    def __init__(self, sources: Sequence[SubsequenceSource]) -> None:
        if not sources:
            raise ValueError("Expected at least one source of episodes, got none.")
        self._sources = tuple(sources)
        self._parts: tuple[np.ndarray, ...] = ()
        self._lengths = np.empty(0, np.int64)
        self._returns = np.empty(0, np.float64)

    @property
    def lengths(self) -> np.ndarray:
        """T of each episode, shape (E,), int64; another array whenever one of the sources' is."""
        self._update()
        return self._lengths

    @property
    def returns(self) -> np.ndarray:
        """Sum of the env's own rewards of each episode, shape (E,), float64."""
        self._update()
        return self._returns

    def gather(self, episodes: np.ndarray, steps: np.ndarray) -> Transitions:
        """Return steps (n, K) of episodes (n,) as n * K transitions, episode after episode."""
        self._update()
        ends = np.cumsum([len(part) for part in self._parts])
        owners = np.searchsorted(ends, episodes, side="right")
        found, rows = [], []
        for owner, source in enumerate(self._sources):
            mine = np.flatnonzero(owners == owner)
            if len(mine):
                first = ends[owner] - len(self._parts[owner])
                found.append(source.gather(episodes[mine] - first, steps[mine]))
                rows.append(mine)
        if len(found) == 1:
            return found[0]
        # Row k of the joined parts belongs to the episode that was asked for at `order[k]`.
        order = np.repeat(np.concatenate(rows), steps.shape[1]) * steps.shape[1]
        order += np.tile(np.arange(steps.shape[1]), len(episodes))
        return _concatenate(found).rows(np.argsort(order))

    def _update(self) -> None:
        parts = tuple(source.lengths for source in self._sources)
        # Sources give another array when they change, so identity tells; the old ones are kept,
        # lest a new one come to lie at the address of an old one.
        if len(parts) == len(self._parts) and all(
            new is old for new, old in zip(parts, self._parts, strict=True)
        ):
            return
        self._parts = parts
        self._lengths = np.concatenate(parts).astype(np.int64)
        self._returns = np.concatenate([source.returns for source in self._sources], dtype=float)


def _concatenate(parts: Sequence[Transitions]) -> Transitions:
    for part in parts[1:]:
        if part.observations.keys() != parts[0].observations.keys():
            raise ValueError(
                f"Expected the observations {sorted(parts[0].observations)} of all sources, got "
                f"{sorted(part.observations)} of another. Let them keep the same."
            )
    observations, following = (
        {
            key: np.concatenate([getattr(part, name)[key] for part in parts])
            for key in parts[0].observations
        }
        for name in ("observations", "next_observations")
    )
    return Transitions(
        observations,
        np.concatenate([part.actions for part in parts]),
        following,
        np.concatenate([part.terminated for part in parts]),
    )
