"""A learned reward as a Stable-Baselines3 vector wrapper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from typing_extensions import Unpack

from libero_reward_envs.reward_models.base import RewardModel, Transitions
from libero_reward_envs.wrappers.episode_rewards import EpisodeRewards
from libero_reward_envs.wrappers.lazy_reward_model import (
    LazyRewardModel,
    check_action_space,
    select_observations,
    warn_of_another_task,
)
from libero_reward_envs.wrappers.learned_reward import LearnedReward
from libero_reward_envs.wrappers.online_training import LazyOnlineTraining, OnlineTraining
from libero_reward_envs.wrappers.reward_mix import RewardMix, RewardMixArguments
from libero_reward_envs.wrappers.taken_actions import get_taken_action


class VecLearnedReward(VecEnvWrapper):
    """Replaces the reward of n envs by that of a reward model, or mixes the two.

    One batch of n transitions a step. The next observation of an env that has just ended is its
    `terminal_observation`, not the one it was reset to; a time-out is not an end. Every info gains
    "reward/env", "reward/model" and "reward/total", and with mode="success" "predicted_success",
    whether success was seen in this episode. Put `Monitor` inside, so that it logs the env's own
    return, and `VecNormalize` outside with `norm_reward=False`.

    With `online=True` the model goes on learning from the episodes that pass: every step of the
    envs is followed by a reward step, and infos gain "reward/model_version". An agent that keeps
    old rewards, as PPO does within a rollout, sees those of the weights at that time; for
    off-policy agents a `RelabelReplayBuffer` gives those of the present ones.

    Args:
        venv: Envs with actions in [-1, 1]. A Box observation stands under "state".
        reward_model: The model, or the folder, Hub id or `.pt` checkpoint of a saved one, loaded at
            the first reset.
        reward_type: "binary" or "continuous", for success classifiers; None for what was saved.
        online: Whether the model is trained on the steps that pass.
        online_kwargs: Further arguments of `make_online_training`, such as `trainer_kwargs`.
        mix: The arguments of `RewardMix`, see `LearnedReward`.

    Attributes:
        reward_mix: The rule, with `n_rewards`, `n_changed` and `check_used()`.

    Raises:
        ValueError: If the envs already have a learned reward, their actions are not in [-1, 1],
            they lack an observation the model reads, or the rule is not valid.
    """

    def __init__(
        self,
        venv: VecEnv,
        reward_model: RewardModel | str | Path,
        *,
        reward_type: str | None = None,
        online: bool = False,
        online_kwargs: Mapping[str, Any] | None = None,
        **mix: Unpack[RewardMixArguments],
    ) -> None:
        super().__init__(venv)
        inner, is_normalized = venv, False
        while isinstance(inner, VecEnvWrapper):
            if isinstance(inner, VecLearnedReward):
                raise ValueError("The envs already have a learned reward. Wrap them once.")
            is_normalized |= isinstance(inner, VecNormalize)
            inner = inner.venv
        if is_normalized:
            raise ValueError(
                "Expected raw observations and rewards, got those of VecNormalize. Put it outside "
                "the learned reward, with norm_reward=False."
            )
        if any(venv.env_is_wrapped(LearnedReward)):
            raise ValueError("The envs already have a LearnedReward each. Use one of the two.")
        check_action_space(venv.action_space)
        self.reward_mix = RewardMix(**mix)
        self._rewards = EpisodeRewards(self.reward_mix, venv.num_envs, model_learns=online)
        self._lazy_model = LazyRewardModel(
            reward_model, venv.observation_space, reward_type=reward_type
        )
        self._online = LazyOnlineTraining(self._lazy_model, venv.num_envs, online, online_kwargs)
        self._observations: dict[str, np.ndarray] | None = None
        self._actions = np.empty(0, np.float32)

    @property
    def reward_model(self) -> RewardModel:
        """The model; loaded by the first access if it was given as a path."""
        return self._lazy_model.get()

    @property
    def online_training(self) -> OnlineTraining | None:
        """What trains the model; None without `online=True`."""
        return self._online.get()

    def reset(self) -> VecEnvObs:
        """Reset all envs."""
        observations = self.venv.reset()
        if self._observations is None:
            for task in {info.get("task") for info in self.venv.reset_infos}:
                warn_of_another_task(self.reward_model, task)
        if training := self.online_training:
            training.forget_open_episodes()
        self._rewards.forget()
        self._observations = self._select(observations)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step.

        Raises:
            RuntimeError: If the envs were not reset.
        """
        if self._observations is None:
            raise RuntimeError("Call reset before step.")
        self._actions = np.array(actions, np.float32)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step and return the total rewards.

        Raises:
            ValueError: If the model returns anything but n finite float32 numbers.
        """
        assert self._observations is not None
        observations, env_rewards, dones, infos = self.venv.step_wait()
        next_observations = self._select(observations)
        following = {key: value.copy() for key, value in next_observations.items()}
        terminated = np.array(dones, bool)
        for index in np.flatnonzero(terminated):
            terminated[index] = not infos[index].get("TimeLimit.truncated", False)
            last = self._select(infos[index]["terminal_observation"])
            for key, value in last.items():
                following[key][index] = value
        actions = np.stack(
            [get_taken_action(self._actions[index], info) for index, info in enumerate(infos)]
        )
        transitions = Transitions(self._observations, actions, following, terminated)
        total, known = self._rewards.compute(self.reward_model, transitions, env_rewards, dones)
        self._observations = next_observations
        version = self._online.record(transitions, env_rewards, dones)
        infos = [{**info, **gained, **version} for info, gained in zip(infos, known, strict=True)]
        return observations, total, dones, infos

    def _select(self, observations: VecEnvObs) -> dict[str, np.ndarray]:
        return select_observations(observations, self.reward_model.observation_keys)
