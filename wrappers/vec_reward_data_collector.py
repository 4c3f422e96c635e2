"""Collects labelled images for a success classifier from n environments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from libero_reward_envs.data.trajectory_store import CollectionCounts, OpenEpisode, TrajectoryStore
from libero_reward_envs.wrappers.reward_data_collector import (
    add_step,
    check_spaces,
    select_images,
)


class VecRewardDataCollector(VecEnvWrapper):
    """A `RewardDataCollector` for a Stable-Baselines3 vector of n envs, with a buffer for each.

    Frames, labels, folders and arguments are those of `RewardDataCollector`; the limits count the
    trajectories of all envs together. The last frame of an episode is its `terminal_observation`,
    never the observation that the env was reset to.

    Args:
        venv: The envs.
        positive_dir: Folder of trajectories with success.
        negative_dir: Folder of those without.
        image_keys: The images to save.
        max_positive_trajectories: How many successes this run saves; None for all.
        max_negative_trajectories: How many failures.
        storage: "npy", "hdf5" or "auto".
        image_size: (C, H, W) that the images must have; None for any.
        metadata: Kept with every HDF5 episode, as JSON would hold it.

    Attributes:
        counts: Trajectories saved, dropped and given up so far.

    Raises:
        ValueError: If an image is not observed or has another size, or an argument is not valid;
            at a step, if an info has no `is_success` in [0, 1].
    """

    def __init__(
        self,
        venv: VecEnv,
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
        super().__init__(venv)
        self._store = TrajectoryStore(
            positive_dir,
            negative_dir,
            image_keys,
            max_positive_trajectories=max_positive_trajectories,
            max_negative_trajectories=max_negative_trajectories,
            storage=storage,
            metadata=metadata,
        )
        check_spaces(venv.observation_space, venv.action_space, self._store, image_size)
        self._episodes: list[OpenEpisode] = []
        self._actions = np.empty(0, np.float32)

    @property
    def counts(self) -> CollectionCounts:
        """Trajectories saved, dropped and given up so far."""
        return self._store.counts

    def reset(self) -> VecEnvObs:
        """Reset all envs; episodes that have not ended are discarded and counted."""
        self._give_up()
        observations = self.venv.reset()
        self._episodes = [
            self._store.begin(self._images(observations, index)) for index in range(self.num_envs)
        ]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step.

        Raises:
            RuntimeError: If the envs were not reset.
        """
        if not self._episodes:
            raise RuntimeError("Call reset before step.")
        self._actions = np.array(actions, np.float32)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step; episodes that it ends are saved."""
        observations, rewards, dones, infos = self.venv.step_wait()
        ended = []
        for index, info in enumerate(infos):
            episode, done = self._episodes[index], bool(dones[index])
            observation = info["terminal_observation"] if done else _row(observations, index)
            reward = float(rewards[index])
            add_step(episode, self._store, observation, self._actions[index], reward, info)
            if done:
                ended.append((episode, info))
                self._episodes[index] = self._store.begin(self._images(observations, index))
        for episode, info in ended:  # last, so that a full disk leaves no buffer half changed
            terminated = not info.get("TimeLimit.truncated", False)
            self._store.save(episode, terminated=terminated, info=info)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Discard episodes that have not ended, finish the files and close the envs."""
        self._give_up()
        try:
            self._store.close()
        finally:
            self.venv.close()

    def _give_up(self) -> None:
        for episode in self._episodes:
            self._store.count_unfinished(episode)
        self._episodes = []

    def _images(self, observations: VecEnvObs, index: int) -> dict[str, np.ndarray]:
        return select_images(_row(observations, index), self._store.image_keys)


def _row(observations: VecEnvObs, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    assert isinstance(observations, np.ndarray)  # Stable-Baselines3 has no agent for tuples
    return observations[index]
