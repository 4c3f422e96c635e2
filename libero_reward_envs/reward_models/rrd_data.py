"""Episodes as flat tensors, and subsequences drawn from them, for return decomposition."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from libero_reward_envs.data.episodes import Episode, EpisodeDataset


class FlatEpisodes:
    """E episodes of N steps altogether, end to end, so that any steps are gathered at once.

    Args:
        dataset: The episodes; of their observations only those named are read.
        observation_keys: Several are flattened and joined in this order to the state.
        device: Where the tensors are.

    Attributes:
        states: o_0 .. o_T of each episode, shape (N + E, s).
        actions: Shape (N, a).
        returns: Shape (E,).
        lengths: T of each episode, shape (E,).
        observation_shapes: The shape of one observation by key.

    Raises:
        ValueError: If there is no episode, an observation is missing, or sizes differ.
    """

    def __init__(
        self,
        dataset: Sequence[Episode] | EpisodeDataset,
        observation_keys: Sequence[str],
        device: str | torch.device,
    ) -> None:
        if not observation_keys or isinstance(observation_keys, str):
            raise ValueError(f"Expected a list of observation keys, got {observation_keys!r}.")
        if not len(dataset):
            raise ValueError("Expected at least one episode, got an empty dataset.")
        source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
        states, actions, returns = [], [], []
        sizes = None
        for index in range(len(source)):
            episode = source.read(index, observation_keys)
            shapes = {key: episode.observations[key].shape[1:] for key in observation_keys}
            sizes = sizes or (shapes, episode.actions.shape[1])
            if (shapes, episode.actions.shape[1]) != sizes:
                raise ValueError(
                    f"Expected observations of shapes {sizes[0]} and {sizes[1]} actions, as in "
                    f"episode 0, got {shapes} and {episode.actions.shape[1]} in episode {index}."
                )
            parts = [episode.observations[key].reshape(len(episode) + 1, -1) for key in shapes]
            states.append(np.concatenate(parts, 1).astype(np.float32))
            actions.append(episode.actions)
            returns.append(episode.episode_return)
        assert sizes is not None
        self.observation_shapes: dict[str, tuple[int, ...]] = sizes[0]
        self.summaries = source.summaries()
        lengths = np.array([len(part) for part in actions])
        self.lengths = torch.from_numpy(lengths).to(device)
        self.states = torch.from_numpy(np.concatenate(states)).to(device)
        self.actions = torch.from_numpy(np.concatenate(actions)).to(device)
        self.returns = torch.tensor(returns, dtype=torch.float32, device=device)
        self._starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)
        self._episode_of_step = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), self.lengths
        )

    def __len__(self) -> int:
        """The number of steps N."""
        return len(self.actions)

    def check_same_sizes(self, other: "FlatEpisodes") -> None:
        """Raise ValueError if the other episodes have other observations or actions."""
        expected = self.observation_shapes, self.actions.shape[1]
        found = other.observation_shapes, other.actions.shape[1]
        if found != expected:
            raise ValueError(f"Expected held-out episodes of sizes {expected}, got {found}.")

    def gather(
        self, episodes: torch.Tensor, steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return s, a, s' of steps (n, K) of episodes (n,), each of shape (n, K, ...)."""
        return self.rows(self._starts[episodes][:, None] + steps)

    def rows(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return s, a, s' of steps numbered from 0 to N - 1, in the shape of `steps`."""
        # Each episode has one state more than steps, so the states of episode e begin e rows later.
        first = steps + self._episode_of_step[steps]
        return self.states[first], self.actions[steps], self.states[first + 1]

    def episode_means(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of values (N,) over the steps of each episode, shape (E,)."""
        sums = torch.zeros(len(self.returns), dtype=torch.float64, device=values.device)
        sums.index_add_(0, self._episode_of_step, values.double())
        return sums / self.lengths


class SubsequenceSampler:
    """Draws episodes, and K steps within each, without a loop over episodes.

    Args:
        lengths: T of each episode, shape (E,).
        steps_per_episode: K. Drawn without replacement where T >= K, with it elsewhere.
        episode_sampling: "length" draws an episode in proportion to its length, "uniform" does not.
        seed: Of the sampler's own generator.

    Raises:
        ValueError: If `steps_per_episode` or `episode_sampling` is not valid.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        steps_per_episode: int,
        episode_sampling: Literal["length", "uniform"],
        seed: int,
    ) -> None:
        if steps_per_episode < 1:
            raise ValueError(f"`steps_per_episode` must be at least 1, got {steps_per_episode}.")
        if episode_sampling not in ("length", "uniform"):
            raise ValueError(
                f"`episode_sampling` must be 'length' or 'uniform', got {episode_sampling!r}."
            )
        self._lengths = np.asarray(lengths)
        self._ends = np.cumsum(self._lengths)
        self._n_sampled = steps_per_episode
        self._by_length = episode_sampling == "length"
        self._rng = np.random.default_rng(seed)

    def draw(
        self, n_episodes: int, device: str | torch.device = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return episodes, shape (n_episodes,), and their steps, shape (n_episodes, K)."""
        if self._by_length:
            transitions = self._rng.integers(self._ends[-1], size=n_episodes)
            episodes = np.searchsorted(self._ends, transitions, side="right")
        else:
            episodes = self._rng.integers(len(self._lengths), size=n_episodes)
        lengths = self._lengths[episodes][:, None]
        steps = (self._rng.random((n_episodes, self._n_sampled)) * lengths).astype(np.int64)
        longest = int(lengths.max())
        if longest >= self._n_sampled:
            # The K smallest of T random numbers are K of T steps without replacement.
            order = self._rng.random((n_episodes, longest))
            order[np.arange(longest) >= lengths] = 2.0
            chosen = np.argpartition(order, self._n_sampled - 1)[:, : self._n_sampled]
            steps = np.where(lengths >= self._n_sampled, chosen, steps)
        return torch.from_numpy(episodes).to(device), torch.from_numpy(steps).to(device)
