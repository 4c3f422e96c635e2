"""Episodes of a dataset that must be alike, read with the labels that come with them."""

from collections.abc import Sequence

import numpy as np

from libero_reward_envs.data.episode_steps import EpisodeSteps, has_fast_steps, read_steps
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY


class EpisodeReader:
    """Reads episodes, and checks that they have the observations and actions of the first one.

    The labels "is_success", where the first episode has them, are read with every episode, but
    count among the observations only if they are asked for.

    Args:
        dataset: The episodes.
        observation_keys: The observations to read; None for all.

    Attributes:
        dataset: The episodes.
        observation_shapes: Shape of one observation by key, of those that were asked for.
        observation_dtypes: Their types, by key.
        action_shape: (a,).

    Raises:
        ValueError: If there is no episode, or the first one lacks an observation.

    Example:
        >>> arrays = {"state": np.zeros((3, 4))}, np.zeros((2, 7)), np.zeros(2)
        >>> reader = EpisodeReader(EpisodeDataset([Episode(*arrays, False, False)]))
        >>> reader.observation_shapes, reader.action_shape
        ({'state': (4,)}, (7,))
    """

    def __init__(
        self, dataset: EpisodeDataset, observation_keys: Sequence[str] | None = None
    ) -> None:
        if isinstance(observation_keys, str) or (
            observation_keys is not None and not len(observation_keys)
        ):
            raise ValueError(
                f"`observation_keys` must be a list of names or None, got {observation_keys!r}."
            )
        if not len(dataset):
            raise ValueError("Expected at least one episode, got an empty dataset.")
        self.dataset = dataset
        first = self._read_first(observation_keys)
        self._keys = tuple(first.observations)
        asked = observation_keys or [key for key in self._keys if key != SUCCESS_KEY]
        missing = [key for key in asked if key not in first.observations]
        if missing or not asked:
            names = ", ".join(map(repr, missing)) or f"but the labels {SUCCESS_KEY!r}"
            raise ValueError(f"No observation {names} in episode 0: {', '.join(self._keys)}.")
        arrays = {key: first.observations[key] for key in asked}
        self.observation_shapes = {key: array.shape[1:] for key, array in arrays.items()}
        self.observation_dtypes: dict[str, np.dtype] = {k: a.dtype for k, a in arrays.items()}
        self.action_shape = first.actions.shape[1:]

    @property
    def image_keys(self) -> frozenset[str]:
        """The observations that are images, (H, W, C) uint8."""
        return frozenset(
            key
            for key, shape in self.observation_shapes.items()
            if len(shape) == 3 and self.observation_dtypes[key] == np.uint8
        )

    def _read_first(self, observation_keys: Sequence[str] | None) -> Episode:
        if observation_keys is None:
            return self.dataset.read(0)
        keys = list(dict.fromkeys(observation_keys))
        if SUCCESS_KEY not in keys:
            try:
                return self.dataset.read(0, [*keys, SUCCESS_KEY])
            except ValueError:  # there are no labels; what else may be wrong the next line tells
                pass
        return self.dataset.read(0, keys)

    def read(self, number: int) -> Episode:
        """Read an episode, with its labels.

        Raises:
            ValueError: If it is not like the first one, or is damaged.
        """
        episode = self.dataset.read(number, self._keys)
        self._check(episode, number)
        return episode

    def has_fast_steps(self, number: int) -> bool:
        """Whether steps of an episode are read without the rest of it."""
        return has_fast_steps(self.dataset, number)

    def read_steps(self, number: int, start: int, stop: int) -> EpisodeSteps:
        """Read some steps of an episode, with their labels, see `episode_steps`.

        Raises:
            ValueError: As `read` does, and if the episode has no such steps.
        """
        steps = read_steps(self.dataset, number, start, stop, self._keys)
        self._check(steps, number)
        return steps

    def _check(self, episode: Episode | EpisodeSteps, number: int) -> None:
        for key, shape in self.observation_shapes.items():
            found, dtype = episode.observations[key], self.observation_dtypes[key]
            if found.shape[1:] != shape or found.dtype != dtype:
                raise ValueError(
                    f"Expected observation {key!r} of {shape} {dtype} as in episode 0, got "
                    f"{found.shape[1:]} {found.dtype} in episode {number}. Give "
                    "`observation_keys` that agree, or a dataset of episodes that do."
                )
        if episode.actions.shape[1:] != self.action_shape:
            raise ValueError(
                f"Expected actions of shape {self.action_shape} as in episode 0, got "
                f"{episode.actions.shape[1:]} in episode {number}. Leave those out with `filter`."
            )
