"""Where the finished episodes lie in a replay buffer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_MOST_PENDING = 1024  # episodes that may wait until the arrays are made anew
_FIELDS = {"starts": np.int64, "lengths": np.int64, "columns": np.int64, "returns": np.float64}


class EpisodeIndex:
    """Knows the finished episodes that are still whole in a ring of rows, one column an env.

    Steps are counted from the first one on and never wrap: step s lies in row s % n_rows. An
    episode leaves the index when its first step is overwritten. Adding a step costs the same
    however many episodes there are; the arrays are made anew only when they are read after an
    episode came or went, and are the same objects until then.

    Args:
        n_rows: Rows of the ring.
        n_columns: Its columns.

    Attributes:
        n_added: How many rows were added.
    """

    def __init__(self, n_rows: int, n_columns: int) -> None:
        self.n_added = 0
        self._n_rows = n_rows
        self._running_starts = np.zeros(n_columns, np.int64)
        self._running_returns = np.zeros(n_columns, np.float64)
        self._pending: list[tuple[int, int, int, float]] = []  # in the order of the fields
        self._set_episodes({name: np.empty(0, dtype) for name, dtype in _FIELDS.items()})

    def add(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Take note of one step of every env.

        Args:
            rewards: The envs' own, shape (n_columns,).
            dones: Whether the step was the last of its episode, for any reason, (n_columns,) bool.
        """
        self._running_returns += rewards
        self.n_added += 1
        for column in np.flatnonzero(dones).tolist():
            start = int(self._running_starts[column])
            episode_return = float(self._running_returns[column])
            self._pending.append((start, self.n_added - start, column, episode_return))
        self.abandon(dones)
        if len(self._pending) > _MOST_PENDING:
            self._update()

    def abandon(self, columns: np.ndarray) -> None:
        """Begin new episodes in some columns, (n_columns,) bool; those that run never finish."""
        self._running_starts[columns] = self.n_added
        self._running_returns[columns] = 0.0

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, shape (E,), int64, in the order in which they finished."""
        return self._update()["lengths"]

    @property
    def returns(self) -> np.ndarray:
        """Sum of the rewards of each episode, shape (E,), float64."""
        return self._update()["returns"]

    @property
    def n_steps(self) -> int:
        """Steps of all episodes."""
        self._update()
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, episodes: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of some steps, of the shape that the arguments broadcast to."""
        known = self._update()
        rows = (known["starts"][episodes] + steps) % self._n_rows
        return rows, np.broadcast_to(known["columns"][episodes], rows.shape)

    def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return episodes and steps by number, where 0 .. n_steps - 1 run over all episodes."""
        lengths = self.lengths
        episodes = np.searchsorted(self._ends, numbers, side="right")
        return episodes, numbers - self._ends[episodes] + lengths[episodes]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that it knows, as arrays and JSON values."""
        running = {"running_starts": self._running_starts, "running_returns": self._running_returns}
        return {**self._update(), **running}, {"n_added": self.n_added}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: If sizes or types are not those that `get_state` gives.
        """
        n_columns, n_episodes = len(self._running_starts), np.size(arrays["lengths"])
        for name, own in self.get_state()[0].items():
            expected = (n_episodes if name in _FIELDS else n_columns,)
            found = arrays[name]
            if found.shape != expected or found.dtype != own.dtype:
                raise ValueError(
                    f"Expected {name} of episodes of shape {expected} and {own.dtype}, got "
                    f"{found.shape} and {found.dtype}."
                )
        self.n_added = int(values["n_added"])
        self._running_starts = arrays["running_starts"].copy()
        self._running_returns = arrays["running_returns"].copy()
        self._pending = []
        self._set_episodes({name: arrays[name].copy() for name in _FIELDS})

    def _update(self) -> dict[str, np.ndarray]:
        oldest = self.n_added - self._n_rows
        if self._pending or oldest > self._first_start:
            new = np.array(self._pending, np.dtype(list(_FIELDS.items())))
            self._pending = []
            joined = {
                name: np.concatenate((array, new[name])) for name, array in self._episodes.items()
            }
            whole = joined["starts"] >= oldest
            self._set_episodes({name: array[whole] for name, array in joined.items()})
        return self._episodes

    def _set_episodes(self, episodes: dict[str, np.ndarray]) -> None:
        starts = episodes["starts"]
        self._episodes = episodes
        self._ends = np.cumsum(episodes["lengths"])
        self._first_start = int(starts.min()) if len(starts) else np.iinfo(np.int64).max
