"""Subsequences of finished episodes, drawn at random, for return decomposition."""

import warnings
from typing import Literal, Protocol

import numpy as np

from libero_reward_envs.reward_models.base import Transitions

N_EPISODES_TO_VARY = 20  # finished ones, after which equal returns are worth a warning
EpisodeSampling = Literal["length", "uniform"]

# Up to this length, K steps without replacement are the K smallest of T random numbers. Beyond it
# repeated steps are drawn anew, so that memory does not grow with the length of an episode.
_LONGEST_TO_SHUFFLE = 4096


class SubsequenceSource(Protocol):
    """E finished episodes that subsequences can be drawn from."""

    @property
    def lengths(self) -> np.ndarray:
        """T of each episode, shape (E,), whole numbers; another array whenever they change."""
        ...

    @property
    def returns(self) -> np.ndarray:
        """Sum of the env's own rewards of each episode, shape (E,), float64."""
        ...

    def gather(self, episodes: np.ndarray, steps: np.ndarray) -> Transitions:
        """Return steps (n, K) of episodes (n,) as n * K transitions, episode after episode."""
        ...


def warn_of_equal_returns(returns: np.ndarray) -> bool:
    """Warn if nothing can be learned from returns because they are all the same; say if so."""
    if np.ptp(returns) > 1e-6 * max(1.0, float(np.abs(returns).max())):
        return False
    warnings.warn(
        f"All {len(returns)} episodes have a return of {float(returns[0]):g}, which the same "
        "reward at every step explains: nothing about the task can be learned from them. Add "
        "episodes with other returns, such as failures.",
        stacklevel=3,
    )
    return True


class SubsequenceSampler:
    """Draws episodes, and K steps within each, without a loop over episodes.

    Args:
        steps_per_episode: K. Drawn without replacement where T >= K, with it elsewhere.
        episode_sampling: "length" draws an episode in proportion to its length, "uniform" does not.
        seed: Of the sampler's own generator.

    Raises:
        ValueError: If `steps_per_episode` or `episode_sampling` is not valid.
    """

    def __init__(self, steps_per_episode: int, episode_sampling: EpisodeSampling, seed: int):
        if steps_per_episode < 1:
            raise ValueError(f"`steps_per_episode` must be at least 1, got {steps_per_episode}.")
        if episode_sampling not in ("length", "uniform"):
            raise ValueError(
                f"`episode_sampling` must be 'length' or 'uniform', got {episode_sampling!r}."
            )
        self.rng = np.random.default_rng(seed)
        self._n_sampled = steps_per_episode
        self._by_length = episode_sampling == "length"
        self._lengths = np.empty(0, np.int64)
        self._ends = np.empty(0, np.int64)

    def draw(self, lengths: np.ndarray, n_episodes: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw from episodes of these lengths.

        Args:
            lengths: T of each episode, shape (E,), E > 0.
            n_episodes: n.

        Returns:
            Episodes, shape (n,), and their steps, shape (n, K).
        """
        episodes = self.draw_episodes(lengths, n_episodes)
        return episodes, self._draw_steps(lengths[episodes][:, None])

    def draw_episodes(self, lengths: np.ndarray, n_episodes: int) -> np.ndarray:
        """Draw only episodes, shape (n,)."""
        if not self._by_length:
            return self.rng.integers(len(lengths), size=n_episodes)
        if lengths is not self._lengths:
            self._lengths, self._ends = lengths, np.cumsum(lengths)
        transitions = self.rng.integers(self._ends[-1], size=n_episodes)
        return np.searchsorted(self._ends, transitions, side="right")

    def _draw_steps(self, lengths: np.ndarray) -> np.ndarray:
        n_sampled, longest, shortest = self._n_sampled, int(lengths.max()), int(lengths.min())
        if longest > max(_LONGEST_TO_SHUFFLE, 2 * n_sampled):
            return self._redraw_repeated(self._draw_repeating(lengths), lengths)
        if longest < n_sampled:
            return self._draw_repeating(lengths)
        # The K smallest of T random numbers are K of T steps without replacement.
        order = self.rng.random((len(lengths), longest))
        if shortest < longest:
            order[np.arange(longest) >= lengths] = 2.0
        chosen = np.argpartition(order, n_sampled - 1)[:, :n_sampled]
        if shortest < n_sampled:
            chosen = np.where(lengths >= n_sampled, chosen, self._draw_repeating(lengths))
        return chosen

    def _draw_repeating(self, lengths: np.ndarray) -> np.ndarray:
        return (self.rng.random((len(lengths), self._n_sampled)) * lengths).astype(np.int64)

    def _redraw_repeated(self, steps: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Draw a step anew that came before in its row, until none does; short rows stay.

        A step is kept only if it differs from all kept before it: sequential rejection, which is
        drawing without replacement.
        """
        distinct = lengths >= self._n_sampled
        while True:
            order = np.argsort(steps, 1, kind="stable")
            ordered = np.take_along_axis(steps, order, 1)
            repeated = np.zeros_like(steps, bool)
            np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
            repeated &= distinct
            if not repeated.any():
                return steps
            steps = np.where(repeated, self._draw_repeating(lengths), steps)
