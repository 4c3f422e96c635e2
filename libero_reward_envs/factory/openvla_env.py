"""`LiberoOpenVLA-v0`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.factory.stacking import (
    RegisteredEncode,
    RegisteredReward,
    fit_images,
    leave_time_for_success,
    limit_steps,
    split_mix,
    with_metadata,
)


@with_metadata
def make_openvla_env(
    suite: str | None = None,
    task: int | str = 0,
    reward_model: str | Path | None = None,
    *,
    features: str | Path | None = None,
    device: str = "auto",
    reward_type: str | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """`LiberoOpenVLA-v0`: a LIBERO task whose reward is computed from OpenVLA's features.

    Cameras, image size, orientation and pooling are those that the reward model was trained with;
    they need not be said again. Features are observations, "openvla/vision" and
    "openvla/language", beside the state; images are dropped.

    Args:
        suite: See `LiberoEnv`.
        task: See `LiberoEnv`.
        reward_model: Folder or Hub id of a reward model on OpenVLA's features; needed.
        features: Folder or Hub id of the OpenVLA checkpoint; None for the one that the reward model
            was trained with, where it was then.
        device: Where features are computed; "auto" for a GPU if there is one.
        reward_type: "binary" or "continuous" for a success classifier; None for what was saved.
        kwargs: The arguments of `RewardMix`, such as `mode`, and the other ones of `LiberoEnv`.
            `obs_type` is "pixels_state" by default, or "pixels".

    Raises:
        FileNotFoundError: If there is no such reward model or checkpoint.
        ImportError: If timm is not installed.
        MemoryError: If the device has no room for the checkpoint.
        ValueError: If no reward model is given, it is of another kind or was trained on other
            features, or an argument contradicts it. For what else is wrong, see `LiberoEnv` and
            `LearnedReward`.
    """
    from libero_reward_envs.encoders.openvla_record import find_record, load_recorded_encoders

    if reward_model is None:
        raise ValueError(
            "Expected a reward model on OpenVLA's features for LiberoOpenVLA-v0, got none. Train "
            "one with\n"
            "  libero-reward train-rrd --use-openvla-features --openvla-model ... --data ... "
            "--out reward\n"
            "and pass `reward_model='reward'`."
        )
    record = find_record(reward_model)
    if record is None:
        raise ValueError(
            f"Expected a reward model on OpenVLA's features, {str(reward_model)!r} reads none. Use "
            "LiberoRRD-v0 or LiberoClassifier-v0 for it, or train with --use-openvla-features."
        )
    mix, env_kwargs = split_mix(kwargs)
    leave_time_for_success(mix, env_kwargs)
    images = choose_feature_images(record, env_kwargs)
    encoders = load_recorded_encoders(record, features, device=device)
    env = LiberoEnv(suite, task, **{**env_kwargs, **images})
    encoded = RegisteredEncode(limit_steps(env, mix), encoders)
    return RegisteredReward(encoded, reward_model, reward_type=reward_type, **mix)


def choose_feature_images(
    record: Mapping[str, Any], env_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of `LiberoEnv` that give OpenVLA the images of the training.

    Args:
        record: What `describe_openvla_features` returned.
        env_kwargs: The arguments that were given; they win where they fit.

    Raises:
        ValueError: If they do not fit, or no LIBERO env has such images.
    """
    return fit_images(
        record["image_keys"],
        [record["image_sizes"][key] for key in record["image_keys"]],
        env_kwargs,
        obs_type="pixels_state",
        orientation=record["orientation"],
        trained="reward model",
    )
