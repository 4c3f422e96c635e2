"""A learned reward as a Gymnasium wrapper."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from typing_extensions import Unpack

from libero_reward_envs.reward_models.base import RewardModel, Transitions
from libero_reward_envs.wrappers.episode_rewards import EpisodeRewards
from libero_reward_envs.wrappers.lazy_reward_model import (
    LazyRewardModel,
    check_action_space,
    select_observations,
    warn_of_another_task,
)
from libero_reward_envs.wrappers.online_training import LazyOnlineTraining, OnlineTraining
from libero_reward_envs.wrappers.reward_mix import RewardMix, RewardMixArguments
from libero_reward_envs.wrappers.taken_actions import get_taken_action


class LearnedReward(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Replaces the reward of an env by that of a reward model, or mixes the two.

    Every step's info gains "reward/env", "reward/model" and "reward/total", and with
    mode="success" "predicted_success", whether success was seen in this episode; nothing else in
    it changes, `is_success` least of all. A `Monitor` inside this wrapper goes on logging the env's
    own return.

    With `online=True` the model goes on learning from the episodes that pass: every step is
    followed by a reward step, and infos gain "reward/model_version". A reset within an episode
    counts as its time-out. See `VecLearnedReward`.

    Args:
        env: An env with actions in [-1, 1]. A Box observation stands under "state".
        reward_model: The model, or the folder, Hub id or `.pt` checkpoint of a saved one, loaded at
            the first reset in the process that steps. Given as a string, `env.spec` stays JSON with
            this wrapper.
        reward_type: "binary" or "continuous", for success classifiers; None for what was saved.
        online: Whether the model is trained on the steps that pass.
        online_kwargs: Further arguments of `make_online_training`, such as `trainer_kwargs`.
        mix: The arguments of `RewardMix`: `mode` ("replace", "mix", "terminal", "success",
            "difference" or "potential"), `env_weight`, `model_weight`, `step_cost`, `gamma`,
            `success_window`, `success_threshold`.

    Attributes:
        reward_mix: The rule, with `n_rewards`, `n_changed` and `check_used()`.

    Raises:
        ValueError: If the env already has a learned reward, its actions are not in [-1, 1], it
            lacks an observation the model reads, or the rule is not valid.

    Example:
        >>> class ActionCost:
        ...     observation_keys = ("state",)
        ...     def compute_reward(self, transitions):
        ...         return -np.square(transitions.actions).sum(1)
        >>> env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
        >>> env = LearnedReward(env, ActionCost())
        >>> _ = env.reset(seed=0)
        >>> float(env.step(np.array([0.5], np.float32))[1])
        -0.25
    """

    def __init__(
        self,
        env: gym.Env,
        reward_model: RewardModel | str | Path,
        *,
        reward_type: str | None = None,
        online: bool = False,
        online_kwargs: Mapping[str, Any] | None = None,
        **mix: Unpack[RewardMixArguments],
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,  # a model object is shared, not copied
            reward_model=str(reward_model) if isinstance(reward_model, Path) else reward_model,
            reward_type=reward_type,
            online=online,
            online_kwargs=online_kwargs,
            **mix,
        )
        gym.Wrapper.__init__(self, env)
        inner = env
        while isinstance(inner, gym.Wrapper):
            if isinstance(inner, LearnedReward):
                raise ValueError("The env already has a learned reward. Wrap it once.")
            inner = inner.env
        check_action_space(env.action_space)
        self.reward_mix = RewardMix(**mix)
        self._rewards = EpisodeRewards(self.reward_mix, 1, model_learns=online)
        self._lazy_model = LazyRewardModel(
            reward_model, env.observation_space, reward_type=reward_type
        )
        self._online = LazyOnlineTraining(self._lazy_model, 1, online, online_kwargs)
        self._observation: Any = None
        self._has_ended = True

    @property
    def reward_model(self) -> RewardModel:
        """The model; loaded by the first access if it was given as a path."""
        return self._lazy_model.get()

    @property
    def online_training(self) -> OnlineTraining | None:
        """What trains the model; None without `online=True`."""
        return self._online.get()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._observation is None:
            warn_of_another_task(self.reward_model, info.get("task"))
        self._observation = self._select(observation)
        self._rewards.forget()
        if not self._has_ended and self.reward_mix.mode == "terminal":
            warnings.warn(
                "An episode was reset before this wrapper saw it end, so mode 'terminal' paid "
                "nothing for it. Put time limits inside the learned reward.",
                stacklevel=2,
            )
        self._has_ended = True
        if training := self.online_training:
            training.finish_open_episodes()  # a time limit outside this wrapper is not seen here
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env and return the total reward.

        Raises:
            RuntimeError: If the env was not reset.
            ValueError: If the model returns anything but one finite float32 number.
        """
        if self._observation is None:
            raise RuntimeError("Call reset before step.")
        given = np.array(action, np.float32)  # the env may clip its argument in place
        observation, env_reward, terminated, truncated, info = self.env.step(action)
        next_observation = self._select(observation)
        transitions = Transitions(
            observations=self._observation,
            actions=get_taken_action(given, info)[None],
            next_observations=next_observation,
            terminated=np.array([terminated], bool),
        )
        ended = np.array([terminated or truncated])
        self._has_ended = bool(ended[0])
        total, known = self._rewards.compute(self.reward_model, transitions, [env_reward], ended)
        self._observation = next_observation
        version = self._online.record(transitions, np.array([env_reward]), ended)
        info = {**info, **known[0], **version}
        return observation, float(total[0]), terminated, truncated, info

    def _select(self, observation: Any) -> dict[str, np.ndarray]:
        selected = select_observations(observation, self.reward_model.observation_keys)
        return {key: value[None] for key, value in selected.items()}
