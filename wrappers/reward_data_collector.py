"""Collects labelled images for a success classifier."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.data.trajectory_store import (
    CollectionCounts,
    OpenEpisode,
    TrajectoryStore,
    as_frame,
)
from libero_reward_envs.wrappers.taken_actions import get_taken_action


class RewardDataCollector(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Saves the images of whole episodes, with a success label each, while any policy acts.

    An episode of T steps gives T frames: the observations after each step, o_1 .. o_T, each
    labelled with `info["is_success"]` of the step that led to it. The first observation o_0 is no
    frame. A trajectory goes into `positive_dir` if a label is at least 0.5 or the env says
    `info["success_once"]`, else into `negative_dir`; an episode that is reset or closed before its
    end is discarded and counted. Rewards, observations and infos pass unchanged.

    Put it outside the time limit and inside whatever changes images, actions or rewards. For
    several envs in one process use `VecRewardDataCollector`, which shares the limits. A second run
    into the same folders adds to them. HDF5 files are finished by `close`; what a killed process
    leaves is read all the same.

    Args:
        env: The environment.
        positive_dir: Folder of trajectories with success.
        negative_dir: Folder of those without.
        image_keys: The images to save. A Box observation is the image of the only key.
        max_positive_trajectories: How many successes this run saves; None for all. Further ones
            are dropped and counted.
        max_negative_trajectories: How many failures.
        storage: "npy", float32 (T, C, H, W) in [0, 1], one file each; "hdf5", uint8 episodes,
            compressed, one file a run; "auto" for "npy" if both limits are set and add up to at
            most 1000, else "hdf5".
        image_size: (C, H, W) that the images must have; None for any.
        metadata: Kept with every HDF5 episode, as JSON would hold it.

    Attributes:
        counts: Trajectories saved, dropped and given up so far.

    Raises:
        ValueError: If an image is not observed or has another size, or an argument is not valid;
            at a step, if `info` has no `is_success` in [0, 1].

    Example:
        >>> import tempfile
        >>> env = gym.make("Libero-v0", obs_type="pixels", image_size=64)
        >>> folder = tempfile.mkdtemp()
        >>> env = RewardDataCollector(
        ...     env, folder + "/positive", folder + "/negative", ["agentview_image"]
        ... )
        >>> env.counts.positive_saved
        0
    """

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        positive_dir: str | Path,
        negative_dir: str | Path,
        image_keys: Sequence[str],
        *,
        max_positive_trajectories: int | None = None,
        max_negative_trajectories: int | None = None,
        storage: str = "auto",
        image_size: Sequence[int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(env)
        self._store = TrajectoryStore(
            positive_dir,
            negative_dir,
            image_keys,
            max_positive_trajectories=max_positive_trajectories,
            max_negative_trajectories=max_negative_trajectories,
            storage=storage,
            metadata=metadata,
        )
        check_spaces(env.observation_space, env.action_space, self._store, image_size)
        self._episode: OpenEpisode | None = None

    @property
    def counts(self) -> CollectionCounts:
        """Trajectories saved, dropped and given up so far."""
        return self._store.counts

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that has not ended is discarded and counted."""
        self._give_up()
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = self._store.begin(select_images(observation, self._store.image_keys))
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by one step; the one that ends the episode saves it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode = self._episode
        if episode is not None:  # none after the end of an episode, until the next reset
            add_step(episode, self._store, observation, action, float(reward), info)
            if terminated or truncated:
                self._episode = None  # first, so that a full disk does not leave it here
                self._store.save(episode, terminated=bool(terminated), info=info)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Discard an episode that has not ended, finish the files and close the environment."""
        self._give_up()
        try:
            self._store.close()
        finally:
            self.env.close()

    def _give_up(self) -> None:
        self._store.count_unfinished(self._episode)
        self._episode = None


def add_step(
    episode: OpenEpisode,
    store: TrajectoryStore,
    observation: Any,
    action: np.ndarray,
    reward: float,
    info: Mapping[str, Any],
) -> None:
    """Add a step, and the observation after it, to an episode.

    Raises:
        ValueError: If the info has no `is_success` in [0, 1], or an image is not one.
    """
    label = float(info.get("is_success", math.nan))
    if not 0 <= label <= 1:
        raise ValueError(
            "Expected `info['is_success']` in [0, 1] at every step, got "
            f"{info.get('is_success')!r}. Collect from an env that tells success."
        )
    if episode.frames is not None:
        for key, image in select_images(observation, store.image_keys).items():
            episode.frames[key].append(image)
        episode.actions.append(np.array(get_taken_action(action, info), np.float32).reshape(-1))
        episode.rewards.append(float(info.get("reward/env", reward)))
    episode.labels.append(label)
    # As the env says it at this step: kept from an earlier step it could be a former episode's.
    episode.success_once = bool(info.get("success_once", False))


def select_images(observation: Any, image_keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return copies of the images of one observation, (H, W, C) uint8, by key."""
    if not isinstance(observation, Mapping):
        return {image_keys[0]: as_frame(image_keys[0], observation)}
    return {key: as_frame(key, observation[key]) for key in image_keys}


def check_spaces(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    store: TrajectoryStore,
    image_size: Sequence[int] | None,
) -> None:
    """Raise ValueError if an env of these spaces cannot be collected from."""
    spaces: Mapping[str, gym.Space[Any]] = {store.image_keys[0]: observation_space}
    if isinstance(observation_space, gym.spaces.Dict):
        spaces = observation_space.spaces
    missing = [key for key in store.image_keys if key not in spaces]
    if missing:
        raise ValueError(
            f"Expected images {', '.join(map(repr, missing))} in the observation, it has: "
            f"{', '.join(spaces)}. Choose `image_keys` among them, or another `obs_type`."
        )
    for key in store.image_keys:
        space = spaces[key]
        if not isinstance(space, gym.spaces.Box):
            raise ValueError(f"Expected image {key!r} in a Box, got {space}.")
        height, width, channels = as_frame(key, np.zeros(space.shape, space.dtype)).shape
        if image_size is not None and (channels, height, width) != tuple(image_size):
            raise ValueError(
                f"Expected image {key!r} of (C, H, W) = {tuple(image_size)}, the environment's is "
                f"{(channels, height, width)}. Change `image_size` here or there."
            )
    if store.storage == "hdf5" and (
        not isinstance(action_space, gym.spaces.Box)
        or action_space.low.min() < -1
        or action_space.high.max() > 1
    ):
        raise ValueError(
            f"Expected actions in a Box within [-1, 1] for storage 'hdf5', got {action_space}. "
            "Rescale them with gymnasium.wrappers.RescaleAction, or use storage 'npy'."
        )
