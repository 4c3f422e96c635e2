"""`LiberoClassifier-v0`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.factory.stacking import (
    RegisteredReward,
    fit_images,
    leave_time_for_success,
    limit_steps,
    split_mix,
    with_metadata,
)


@with_metadata
def make_classifier_env(
    suite: str | None = None,
    task: int | str = 0,
    reward_model: str | Path | None = None,
    *,
    reward_type: str | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """`LiberoClassifier-v0`: a LIBERO task whose reward a success classifier computes from pixels.

    Cameras, image size and orientation are those that the classifier was trained on; they need not
    be said again.

    Args:
        suite: See `LiberoEnv`.
        task: See `LiberoEnv`.
        reward_model: Folder, Hub id or `.pt` checkpoint of a success classifier; needed.
        reward_type: "binary" or "continuous"; None for what was saved.
        kwargs: The arguments of `RewardMix`, such as `mode`, and the other ones of `LiberoEnv`.
            `obs_type` is "pixels" by default, or "pixels_state".

    Raises:
        FileNotFoundError: If there is no such classifier.
        ValueError: If none is given, or an argument contradicts it. For what else is wrong, see
            `LiberoEnv` and `LearnedReward`.
    """
    from libero_reward_envs.reward_models.classifier_files import read_classifier_config

    if reward_model is None:
        raise ValueError(
            "Expected a success classifier for LiberoClassifier-v0, got none. Train one with\n"
            "  libero-reward train-classifier --positive-dir ... --negative-dir ... "
            "--output-checkpoint classifier.pt\n"
            "and pass `reward_model='classifier'`."
        )
    mix, env_kwargs = split_mix(kwargs)
    images = choose_images(read_classifier_config(reward_model), env_kwargs)
    leave_time_for_success(mix, env_kwargs)
    env = LiberoEnv(suite, task, **{**env_kwargs, **images})
    return RegisteredReward(limit_steps(env, mix), reward_model, reward_type=reward_type, **mix)


def choose_images(config: Mapping[str, Any], env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LiberoEnv` that give a success classifier its images.

    Args:
        config: What `read_classifier_config` returns.
        env_kwargs: The arguments that were given; they win where they fit.

    Raises:
        ValueError: If they do not fit, or no LIBERO env has such images.
    """
    orientation = config["training"].get("orientation")
    if orientation is None and "orientation" not in env_kwargs:
        warnings.warn(
            "The classifier does not say how its pictures lay; they are shown upright. Give "
            "`orientation`, or save the model as a folder, which keeps what its data say.",
            stacklevel=4,
        )
    keys = config["image_keys"]
    return fit_images(
        keys,
        [config["image_size"][1:]] * len(keys),
        env_kwargs,
        obs_type="pixels",
        orientation=orientation,
        trained="classifier",
    )
