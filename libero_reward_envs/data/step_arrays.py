"""The steps of several episodes in flat arrays, from which any are gathered at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.data.episode_reader import EpisodeReader
from libero_reward_envs.data.episode_steps import EpisodeSteps, cut_steps

_PER_STEP = ("actions", "rewards", "terminated", "success")


class StepArrays:
    """Steps of some episodes of a dataset, with one row more for each one's last observation.

    Images keep their type, other observations become float32.

    Args:
        reader: Reads the episodes, one after the other.
        numbers: Which.
        lengths: T of each, as their summaries say.
        steps: Which steps of each are read; None for whole episodes.

    Attributes:
        first_rows: The row of each episode's first step.

    Raises:
        ValueError: If an episode is damaged, or differs from its summary or from the first one.
    """

    def __init__(
        self,
        reader: EpisodeReader,
        numbers: Sequence[int],
        lengths: Sequence[int],
        steps: range | None = None,
    ) -> None:
        parts = [range(length) for length in lengths] if steps is None else [steps] * len(numbers)
        sizes = np.array([len(part) + 1 for part in parts])
        ends = np.cumsum(sizes)
        self.first_rows = np.concatenate([[0], ends[:-1]])
        n_rows = int(ends[-1])
        self._observations = {
            key: np.empty(
                (n_rows, *shape),
                np.uint8 if reader.observation_dtypes[key] == np.uint8 else np.float32,
            )
            for key, shape in reader.observation_shapes.items()
        }
        self._per_step: dict[str, np.ndarray] = {
            "actions": np.empty((n_rows, *reader.action_shape), np.float32),
            "rewards": np.empty(n_rows, np.float32),
            "terminated": np.empty(n_rows, bool),
            "success": np.empty(n_rows, bool),
        }
        first_steps = [part.start for part in parts]
        self._episodes = np.repeat(numbers, sizes).astype(np.int64)
        self._steps = np.arange(n_rows) - np.repeat(self.first_rows - first_steps, sizes)
        for number, length, part, row in zip(
            numbers, lengths, parts, self.first_rows.tolist(), strict=True
        ):
            if steps is None:
                episode = reader.read(number)
                found = cut_steps(episode, 0, len(episode))
            else:
                found = reader.read_steps(number, part.start, part.stop)
            if found.episode_length != length:
                raise ValueError(
                    f"Expected {length} steps in episode {number} as its summary says, got "
                    f"{found.episode_length}. Load the dataset again if it was changed."
                )
            self._put(found, row)

    def _put(self, found: EpisodeSteps, row: int) -> None:
        for key, array in self._observations.items():
            array[row : row + len(found) + 1] = found.observations[key]
        for name, array in self._per_step.items():
            array[row : row + len(found)] = getattr(found, name)

    def gather(self, rows: np.ndarray, items: str, length: int = 1) -> dict[str, Any]:
        """Return what begins at some rows, as `EpisodeStream` describes it.

        Args:
            rows: Rows of first steps, shape (n,).
            items: "transitions", "frames" or "subsequences".
            length: Steps of a subsequence.
        """
        place = {"episode": self._episodes[rows], "step": self._steps[rows]}
        if items == "frames":
            success = self._per_step["success"][rows]
            return {"observations": self._take(rows + 1), "success": success, **place}
        if items == "transitions":
            per_step = {name: self._per_step[name][rows] for name in _PER_STEP}
            both = {"observations": rows, "next_observations": rows + 1}
            return {**{name: self._take(at) for name, at in both.items()}, **per_step, **place}
        window = rows[:, None] + np.arange(length + 1)
        per_step = {name: self._per_step[name][window[:, :-1]] for name in _PER_STEP}
        return {"observations": self._take(window), **per_step, **place}

    def _take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {key: array[rows] for key, array in self._observations.items()}


def join_batches(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several results of `gather` as one."""
    if len(parts) == 1:
        return dict(parts[0])
    return {
        name: join_batches([part[name] for part in parts])
        if isinstance(value, Mapping)
        else np.concatenate([part[name] for part in parts])
        for name, value in parts[0].items()
    }
