"""What the environments with a learned reward of their own have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.wrappers.encode import Encode
from libero_reward_envs.wrappers.learned_reward import LearnedReward
from libero_reward_envs.wrappers.reward_mix import RewardMixArguments
from libero_reward_envs.wrappers.suite_time_limit import SuiteTimeLimit

_IMAGE_SUFFIX = "_image"


def limit_steps(env: LiberoEnv, mix: RewardMixArguments) -> gym.Env[Any, Any]:
    """Return the env with its suite's limit inside the reward, if the reward is paid at the end.

    The limit of an id stands outside, where a learned reward does not see it.
    """
    return SuiteTimeLimit(env) if mix.get("mode") == "terminal" else env


def split_mix(kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of `RewardMix`, and the others."""
    mix = {name: kwargs[name] for name in RewardMixArguments.__annotations__ if name in kwargs}
    return mix, {name: value for name, value in kwargs.items() if name not in mix}


def fit_images(
    image_keys: Sequence[str],
    sizes: Sequence[Sequence[int]],
    env_kwargs: Mapping[str, Any],
    *,
    obs_type: str,
    orientation: str | None,
    trained: str,
) -> dict[str, Any]:
    """Return the arguments of `LiberoEnv` that give a reward model the images it was trained on.

    Args:
        image_keys: Names of the images.
        sizes: Height and width of each, in pixels.
        env_kwargs: The arguments that were given; they win where they fit.
        obs_type: The one to take if none is given.
        orientation: How the images were turned, if that is known.
        trained: What was trained, for messages.

    Raises:
        ValueError: If the arguments do not fit, or no LIBERO env has such images.
    """
    foreign = [key for key in image_keys if not key.endswith(_IMAGE_SUFFIX)]
    side = sizes[0][0]
    if foreign or any(list(size) != [side, side] for size in sizes):
        shown = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ValueError(
            f"Expected square images '<camera>{_IMAGE_SUFFIX}' of one size for {trained}, got "
            f"{shown} pixels of {', '.join(map(repr, image_keys))}. Put VecLearnedReward around an "
            "env that has such images, or collect with the names that this one gives them."
        )
    cameras = [key.removesuffix(_IMAGE_SUFFIX) for key in image_keys]
    chosen: dict[str, Any] = {"obs_type": obs_type, "cameras": cameras, "image_size": side}
    if orientation is not None:
        chosen["orientation"] = orientation
    for name, needed in chosen.items():
        given = env_kwargs.get(name, needed)
        fits = given == needed
        if name == "obs_type":
            fits = given in ("pixels", "pixels_state")
        elif name == "cameras":
            fits = set(cameras) <= set(given)
        if not fits:
            raise ValueError(
                f"The {trained} was trained with {name}={needed!r}, got {given!r}. Leave it away, "
                f"or train a {trained} for it."
            )
        chosen[name] = given
    return chosen


def leave_time_for_success(mix: RewardMixArguments, env_kwargs: dict[str, Any]) -> None:
    """Let episodes go on after success where several frames must show it, in mode "success".

    Raises:
        ValueError: If they were asked to end with it.
    """
    needs_time = mix.get("mode") == "success" and mix.get("success_window", (2, 3))[0] > 1
    if needs_time and env_kwargs.setdefault("terminate_on_success", False):
        raise ValueError(
            "Expected terminate_on_success=False with mode 'success' and a window of more than one "
            "frame: the env would end before success is seen. Leave it away, or give "
            "success_window=(1, 1)."
        )


class _PartOfId:
    """A wrapper that the entry point of an id adds, so that the spec must not list it."""

    env: gym.Env[Any, Any]

    @property
    def spec(self) -> Any:
        """The spec of the environment inside."""
        return self.env.spec


class RegisteredReward(_PartOfId, LearnedReward):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`LearnedReward` as a part of an id."""


class RegisteredEncode(_PartOfId, Encode):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`Encode` as a part of an id."""


def with_metadata(entry_point: Any) -> Any:
    """Give an entry point LIBERO's metadata: `render_mode="human"` finds its wrapper by them."""
    entry_point.metadata = LiberoEnv.metadata
    return entry_point
