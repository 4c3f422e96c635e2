"""How the env's own reward and the model's become the reward an agent sees."""

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from libero_reward_envs.reward_models.base import (
    BOX_OBSERVATION_KEY,
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    RewardModel,
    check_rewards,
    load_reward_model,
)
from libero_reward_envs.reward_models.saving import read_config

ENV_REWARD_KEY = "reward/env"
MODEL_REWARD_KEY = "reward/model"
TOTAL_REWARD_KEY = "reward/total"
REWARD_MODES = ("replace", "mix")

RewardMode = Literal["replace", "mix"]


class RewardMix:
    """Computes the reward an agent sees, and counts how often it is not the env's own.

    replace: total = model_weight * model - step_cost
    mix:     total = env_weight * env + model_weight * model - step_cost

    One rule for the Gymnasium wrapper, the vector wrapper and relabelling: a transition has the
    same reward in all of them.

    A reward that is positive at every step makes an agent linger rather than finish a task that
    ends on success. `step_cost` puts the reward below zero; `fit_rrd` already does so through its
    `offset_margin`, and then `step_cost` stays 0.

    Args:
        mode: "replace" or "mix".
        env_weight: Weight of the env's own reward, for "mix".
        model_weight: Weight of the model's reward.
        step_cost: What is subtracted at every step, the last one too.

    Attributes:
        n_rewards: How many rewards were computed.
        n_changed: How many of them were not the env's own.

    Raises:
        ValueError: If `mode` is unknown or a number is not finite.
    """

    def __init__(
        self,
        mode: RewardMode = "replace",
        env_weight: float = 1.0,
        model_weight: float = 1.0,
        step_cost: float = 0.0,
    ) -> None:
        if mode not in REWARD_MODES:
            raise ValueError(f"Unknown mode {mode!r}. Choose one of: {', '.join(REWARD_MODES)}.")
        numbers = {"env_weight": env_weight, "model_weight": model_weight, "step_cost": step_cost}
        for name, number in numbers.items():
            if not np.isfinite(number):
                raise ValueError(f"`{name}` must be finite, got {number}.")
        self.mode = mode
        self.env_weight = env_weight
        self.model_weight = model_weight
        self.step_cost = step_cost
        self.n_rewards = 0
        self.n_changed = 0

    def combine(self, env_rewards: Any, model_rewards: Any, model: object) -> np.ndarray:
        """Return the total rewards, shape (n,), float32.

        Args:
            env_rewards: The env's own, shape (n,).
            model_rewards: What `model` computed, checked here.
            model: Named when its rewards are not n finite float32 numbers.

        Raises:
            ValueError: If they are not.
        """
        env = np.asarray(env_rewards, np.float32)
        total = self.model_weight * check_rewards(model_rewards, len(env), model).astype(float)
        if self.mode == "mix":
            total = self.env_weight * env.astype(float) + total
        total = (total - self.step_cost).astype(np.float32)
        self.n_rewards += len(total)
        self.n_changed += int(np.count_nonzero(total != env))
        return total

    def check_used(self) -> None:
        """Raise RuntimeError if the model never changed a reward, as after a run it should have."""
        if self.n_changed == 0:
            raise RuntimeError(
                f"The reward model changed none of {self.n_rewards} rewards: the agent saw the "
                "env's own. Check the weights of the mix, and that the model is a trained one."
            )


class LazyRewardModel:
    """A reward model, or the folder or Hub id of one that is loaded when first used.

    What holds it can then be made cheaply, described as JSON and sent to another process.

    Args:
        reward_model: The model, its folder, or its Hub id.
        observation_space: Where the model's observations must be found.
        extra_keys: Observations that are there besides those of the space.

    Raises:
        FileNotFoundError: If it is the path of a folder that is not there or holds no model.
        TypeError: If it is neither a path nor a reward model.
        ValueError: If the space lacks an observation that the model reads.
    """

    def __init__(
        self,
        reward_model: RewardModel | str | Path,
        observation_space: gym.Space,
        extra_keys: Collection[str] = (),
    ) -> None:
        self._given = reward_model
        self._where = observation_space, extra_keys
        self._model: RewardModel | None = None
        if isinstance(reward_model, str | Path):
            if Path(reward_model).is_dir():
                check_observation_keys(
                    read_config(Path(reward_model))["observation_keys"], *self._where
                )
            elif isinstance(reward_model, Path):
                raise FileNotFoundError(
                    f"No folder {str(reward_model)!r} with a saved reward model."
                )
        elif isinstance(reward_model, RewardModel):
            check_observation_keys(reward_model.observation_keys, *self._where)
            self._model = reward_model
        else:
            kind = type(reward_model).__name__
            raise TypeError(f"Expected a reward model or the path of a saved one, got {kind}.")

    def get(self) -> RewardModel:
        """Return the model, loading it the first time."""
        if self._model is None:
            model = load_reward_model(self._given)  # pyright: ignore[reportArgumentType]  # else it is there
            check_observation_keys(model.observation_keys, *self._where)
            self._model = model
        return self._model


def select_observations(observation: Any, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Return copies of the observations named, so that an env may reuse its arrays."""
    found = observation if isinstance(observation, dict) else {BOX_OBSERVATION_KEY: observation}
    return {key: np.array(found[key]) for key in keys}


def check_observation_keys(keys: Any, space: gym.Space, extra_keys: Collection[str] = ()) -> None:
    """Raise ValueError unless all observations named are in the space or among `extra_keys`.

    A Box has only "state".
    """
    if isinstance(space, gym.spaces.Dict):
        available = list(space.spaces)
    elif isinstance(space, gym.spaces.Box):
        available = [BOX_OBSERVATION_KEY]
    else:
        raise ValueError(f"Expected a Dict or Box observation space, got {space}.")
    missing = [key for key in keys if key not in available and key not in extra_keys]
    if late := [key for key in missing if key in (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)]:
        raise ValueError(
            f"The reward model reads {', '.join(map(repr, late))}, known only when an episode has "
            "ended, too late for the reward of a step. Use RelabelReplayBuffer instead."
        )
    if missing:
        raise ValueError(
            f"The reward model reads {', '.join(map(repr, missing))}, which is not among the "
            f"observations: {', '.join(available)}."
        )


def warn_of_another_task(model: object, task: Any) -> None:
    """Warn if the model says what it was fitted to, and `task` is none of it.

    Args:
        model: A reward model, whose `training["tasks"]` may name tasks.
        task: What the env's info calls its task, or None.
    """
    known = [name for name in getattr(model, "training", {}).get("tasks", ()) if name]
    if task and known and task not in known:
        warnings.warn(
            f"The reward model was fitted to {', '.join(known)}, the env is {task}. Its rewards "
            "mean nothing there, unless it was made to carry over.",
            stacklevel=3,
        )


def check_action_space(space: gym.Space) -> None:
    """Raise ValueError unless actions are vectors in [-1, 1], the scale that reward models see."""
    if (
        not isinstance(space, gym.spaces.Box)
        or len(space.shape) != 1
        or not (np.all(space.low == -1) and np.all(space.high == 1))
    ):
        raise ValueError(
            f"Expected an action space of vectors in [-1, 1], got {space}. "
            "Wrap the env in gymnasium.wrappers.RescaleAction(env, -1, 1) first."
        )
