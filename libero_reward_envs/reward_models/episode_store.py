"""Finished episodes in flat arrays, from which any steps are gathered at once."""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.reward_models.base import Transitions


class EpisodeStore:
    """Episodes end to end in flat arrays, so that any steps are gathered at once.

    Beyond its capacity the oldest episodes go, whole. Images keep their type, other
    observations become float32.

    Args:
        observation_keys: The observations that are kept.
        capacity: Rows; an episode of T steps takes T + 1.

    Attributes:
        observation_shapes: The shape of one observation by key, known from the first episode on.
        action_size: a, likewise.

    Raises:
        ValueError: If `observation_keys` is not a list of names or `capacity` not positive.
    """

    def __init__(self, observation_keys: Sequence[str], capacity: int) -> None:
        if not observation_keys or isinstance(observation_keys, str):
            raise ValueError(f"Expected a list of observation keys, got {observation_keys!r}.")
        if capacity < 2:
            raise ValueError(f"`capacity` must be at least 2 rows, got {capacity}.")
        self.observation_keys = tuple(observation_keys)
        self.observation_shapes: dict[str, tuple[int, ...]] = {}
        self.action_size = 0
        self._capacity = capacity
        self._observations: dict[str, np.ndarray] = {}
        self._actions = np.empty((0, 0), np.float32)
        self._end_row = 0
        self._episodes: deque[tuple[int, int, float, bool]] = deque()  # start, T, return, end
        self._arrays: tuple[np.ndarray, ...] | None = None

    @classmethod
    def from_dataset(
        cls, dataset: Sequence[Episode] | EpisodeDataset, observation_keys: Sequence[str]
    ) -> "EpisodeStore":
        """Read all episodes of a dataset; of their observations only those named.

        Raises:
            ValueError: If there is no episode, an observation is missing, or sizes differ.
        """
        if not len(dataset):
            raise ValueError("Expected at least one episode, got an empty dataset.")
        source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
        n_rows = sum(summary.length + 1 for summary in source.summaries())
        store = cls(observation_keys, n_rows)
        for index in range(len(source)):
            store.append(source.read(index, observation_keys))
        return store

    def append(self, episode: Episode) -> None:
        """Add a finished episode, and drop the oldest ones where there is no room.

        Raises:
            ValueError: If its sizes differ from the first one's, or it is longer than the capacity.
        """
        kept = episode.select(self.observation_keys).observations
        self._add(kept, episode.actions, episode.episode_return, episode.terminated)

    @property
    def lengths(self) -> np.ndarray:
        """T of each episode, shape (E,), oldest first."""
        return self._index()[1]

    @property
    def returns(self) -> np.ndarray:
        """Sum of the env's own rewards of each episode, shape (E,), float64."""
        return self._index()[2]

    def __len__(self) -> int:
        """The number of steps of all episodes."""
        return int(self.lengths.sum())

    def gather(self, episodes: np.ndarray, steps: np.ndarray) -> Transitions:
        """Return steps (n, K) of episodes (n,) as n * K transitions, episode after episode."""
        starts, lengths, _, terminated = self._index()
        rows = (starts[episodes][:, None] + steps).ravel()
        last = (steps == lengths[episodes][:, None] - 1) & terminated[episodes][:, None]
        return Transitions(
            {key: array[rows] for key, array in self._observations.items()},
            self._actions[rows],
            {key: array[rows + 1] for key, array in self._observations.items()},
            last.ravel(),
        )

    def episode(self, index: int) -> Transitions:
        """Return all transitions of one episode."""
        return self.gather(np.array([index]), np.arange(self.lengths[index])[None])

    def all_states(self) -> dict[str, np.ndarray]:
        """Return all observations but images, the last of each episode too, by key."""
        rows = self._rows(extra=1)
        return {key: array[rows] for key, array in self._observations.items() if array.ndim != 4}

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all episodes, as arrays by name."""
        _, lengths, returns, terminated = self._index()
        if not len(lengths):
            return {}
        rows = self._rows(extra=1)
        observations = {f"observations/{k}": a[rows] for k, a in self._observations.items()}
        index = {"lengths": lengths, "returns": returns, "terminated": terminated}
        return {**observations, "actions": self._actions[self._rows(extra=0)], **index}

    def compute_digest(self) -> str:
        """Return the SHA-256 of all episodes."""
        digest = hashlib.sha256()
        for start, n, episode_return, terminated in self._episodes:  # one by one: images are large
            digest.update(repr((n, episode_return, terminated)).encode())
            digest.update(self._actions[start : start + n].data)
            for key in sorted(self._observations):
                digest.update(self._observations[key][start : start + n + 1].data)
        return digest.hexdigest()

    def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Hold the episodes of this state instead of those there are.

        Raises:
            ValueError: If it has other observations, or its sizes do not fit together.
        """
        self._episodes.clear()
        self._arrays, self._end_row = None, 0
        if not arrays:
            return
        keys = {f"observations/{key}": key for key in self.observation_keys}
        expected = {*keys, "actions", "lengths", "returns", "terminated"}
        if set(arrays) != expected:
            raise ValueError(f"Expected arrays {sorted(expected)}, got {sorted(arrays)}.")
        n_steps, n_episodes = int(arrays["lengths"].sum()), len(arrays["lengths"])
        sizes = {len(arrays[name]) - n_episodes for name in keys} | {len(arrays["actions"])}
        if sizes != {n_steps} or (arrays["lengths"] < 1).any():
            raise ValueError(f"Expected {n_steps} steps in each array, got {sorted(sizes)}.")
        first = 0
        for index, length in enumerate(arrays["lengths"].tolist()):
            rows = slice(first + index, first + index + length + 1)
            self._add(
                {key: arrays[name][rows] for name, key in keys.items()},
                arrays["actions"][first : first + length],
                float(arrays["returns"][index]),
                bool(arrays["terminated"][index]),
            )
            first += length

    def _rows(self, extra: int) -> np.ndarray:
        """Rows of all episodes, oldest first, each with `extra` rows beyond its T."""
        parts = [np.arange(start, start + n + extra) for start, n, *_ in self._episodes]
        return np.concatenate(parts)

    def _index(self) -> tuple[np.ndarray, ...]:
        if self._arrays is None:
            columns = zip(*self._episodes, strict=True) if self._episodes else ((), (), (), ())
            types = (np.int64, np.int64, np.float64, bool)
            self._arrays = tuple(np.array(c, t) for c, t in zip(columns, types, strict=True))
        return self._arrays

    def _add(
        self,
        observations: Mapping[str, np.ndarray],
        actions: np.ndarray,
        episode_return: float,
        terminated: bool,
    ) -> None:
        self._check_sizes(observations, actions)
        n_steps, n_rows = len(actions), len(actions) + 1
        if n_rows > self._capacity:
            raise ValueError(
                f"An episode of {n_steps} steps needs {n_rows} rows, the store has "
                f"{self._capacity}. Give it a larger `capacity`."
            )
        start = self._make_room(n_rows)
        for key, array in self._observations.items():
            array[start : start + n_rows] = observations[key]
        self._actions[start : start + n_steps] = actions
        self._end_row = start + n_rows
        self._episodes.append((start, n_steps, episode_return, terminated))
        self._arrays = None

    def _check_sizes(self, observations: Mapping[str, np.ndarray], actions: np.ndarray) -> None:
        found = {key: value.shape[1:] for key, value in observations.items()}, actions.shape[1]
        if not self._observations:
            self.observation_shapes, self.action_size = found
            for key, value in observations.items():
                kind = np.uint8 if value.dtype == np.uint8 else np.float32
                self._observations[key] = np.empty((self._capacity, *value.shape[1:]), kind)
            self._actions = np.empty((self._capacity, self.action_size), np.float32)
        expected = self.observation_shapes, self.action_size
        if found != expected:
            raise ValueError(
                f"Expected observations of shapes {expected[0]} and {expected[1]} actions, as in "
                f"the first episode, got {found[0]} and {found[1]} in episode "
                f"{len(self._episodes)}."
            )

    def _make_room(self, n_rows: int) -> int:
        """Return where n rows are free, dropping the oldest episodes as needed."""
        start = self._end_row
        if start + n_rows > self._capacity:
            while self._episodes and self._episodes[0][0] >= start:
                self._episodes.popleft()  # else they would outlive newer ones at the front
            start = 0
        while self._episodes and start <= self._episodes[0][0] < start + n_rows:
            self._episodes.popleft()
        return start
