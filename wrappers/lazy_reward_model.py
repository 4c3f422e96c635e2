"""The reward model of a wrapper: loaded when first used, and fitting the env it is used on."""

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np

from libero_reward_envs.reward_models.base import (
    BOX_OBSERVATION_KEY,
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    RewardModel,
    load_reward_model,
    read_training,
)
from libero_reward_envs.reward_models.saving import read_config


class LazyRewardModel:
    """A reward model, or the path or Hub id of one that is loaded when first used.

    What holds it can then be made cheaply, described as JSON and sent to another process.

    Args:
        reward_model: The model, its folder, its Hub id, or the `.pt` checkpoint of a classifier.
        observation_space: Where the model's observations must be found.
        extra_keys: Observations that are there besides those of the space.
        reward_type: "binary" or "continuous", for success classifiers; None for what it is.

    Raises:
        FileNotFoundError: If it is the path of a folder or file that is not there.
        TypeError: If it is neither a path nor a reward model.
        ValueError: If the space lacks an observation that the model reads, or `reward_type` is
            given and the model has none.
    """

    def __init__(
        self,
        reward_model: RewardModel | str | Path,
        observation_space: gym.Space,
        extra_keys: Collection[str] = (),
        reward_type: str | None = None,
    ) -> None:
        self._given = reward_model
        self._reward_type = reward_type
        self._where = observation_space, extra_keys
        self._model: RewardModel | None = None
        if isinstance(reward_model, str | Path):
            if Path(reward_model).is_dir():
                check_observation_keys(
                    read_config(Path(reward_model))["observation_keys"], *self._where
                )
            elif isinstance(reward_model, Path) and not reward_model.is_file():
                raise FileNotFoundError(
                    f"No folder {str(reward_model)!r} with a saved reward model."
                )
        elif isinstance(reward_model, RewardModel):
            self._take(reward_model)
        else:
            kind = type(reward_model).__name__
            raise TypeError(f"Expected a reward model or the path of a saved one, got {kind}.")

    def get(self) -> RewardModel:
        """Return the model, loading it the first time."""
        if self._model is None:
            self._take(load_reward_model(self._given))  # pyright: ignore[reportArgumentType]  # else it is there
        assert self._model is not None
        return self._model

    def _take(self, model: RewardModel) -> None:
        check_observation_keys(model.observation_keys, *self._where)
        if self._reward_type is not None:
            if not hasattr(model, "with_reward_type"):
                raise ValueError(
                    f"`reward_type` is for success classifiers, got {self._reward_type!r} for "
                    f"{type(model).__name__}. Leave it away."
                )
            model = cast("Any", model).with_reward_type(self._reward_type)
        self._model = model


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
    known = [name for name in read_training(model).get("tasks", ()) if name]
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
