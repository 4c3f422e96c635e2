"""The agent of a configuration: what it needs of memory and images, and making it."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from libero_reward_envs.agent_config import AgentConfig

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

_DEFAULT_BUFFER_BYTES = 10**9  # SB3's million of transitions would be 25 GB of 64 x 64 images
_LEAST_BUFFER = 1_000
_MIN_IMAGE_SIZE = 36  # pixels, of SB3's NatureCNN


def settle_agent(
    agent: AgentConfig, n_envs: int, space: gym.Space[Any], notes: list[str]
) -> AgentConfig:
    """Return the settings with policy and buffer size; what was chosen is told in `notes`.

    Raises:
        ValueError: If the buffer does not fit into memory, or images are too small for the policy.
    """
    hyperparameters = dict(agent.hyperparameters)
    if agent.algorithm == "SAC":
        name, row = "buffer_size", 2 * _count_bytes(space)
        if name not in hyperparameters:
            fitting = _DEFAULT_BUFFER_BYTES // max(row, 1)
            hyperparameters[name] = max(_LEAST_BUFFER, min(10**6, fitting))
            size = hyperparameters[name] * row / 1e9
            notes.append(f"Replay buffer: {hyperparameters[name]} transitions, {size:.2f} GB.")
    else:
        name, row = "n_steps", n_envs * _count_bytes(space)
    _check_memory(name, hyperparameters.get(name, 2048), row)
    default = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    policy = agent.policy or default
    _check_image_size(policy, hyperparameters, space)
    return dataclasses.replace(agent, policy=policy, hyperparameters=hyperparameters)


def make_agent(settings: AgentConfig, venv: "VecEnv") -> "BaseAlgorithm":
    """Return an untrained agent.

    Raises:
        ValueError: If SB3 does not take a setting.
    """
    import stable_baselines3

    algorithm: Any = getattr(stable_baselines3, settings.algorithm)
    hyperparameters = _as_sb3_takes_them(settings.hyperparameters)
    chosen = {"seed": settings.seed, "device": settings.device}
    try:
        return algorithm(settings.policy, venv, **chosen, **hyperparameters)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{settings.algorithm} cannot be made with the settings under `agent`: {error}"
        ) from error


def find_memory_bytes() -> int:
    """Return the memory of this machine, or what its container may use of it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory


def _check_memory(name: str, rows: Any, bytes_per_row: int) -> None:
    memory = find_memory_bytes()
    if isinstance(rows, int) and rows * bytes_per_row > memory:
        raise ValueError(
            f"`agent.{name}` of {rows} takes {rows * bytes_per_row / 1e9:.1f} GB of observations, "
            f"this machine has {memory / 1e9:.1f} GB. Set it to at most "
            f"{int(memory / 2 // bytes_per_row)}, or make images smaller."
        )


def _count_bytes(space: gym.Space[Any]) -> int:
    """Return the size of one observation."""
    parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    return sum(math.prod(part.shape or ()) * getattr(part.dtype, "itemsize", 0) for part in parts)


def _check_image_size(
    policy: str, hyperparameters: Mapping[str, Any], space: gym.Space[Any]
) -> None:
    from stable_baselines3.common.preprocessing import is_image_space

    own = (hyperparameters.get("policy_kwargs") or {}).get("features_extractor_class")
    if policy == "MlpPolicy" or own is not None or not isinstance(space, gym.spaces.Dict):
        return
    for key, part in space.spaces.items():
        if is_image_space(part) and min((part.shape or (0,))[:2]) < _MIN_IMAGE_SIZE:
            raise ValueError(
                f"Expected images of at least {_MIN_IMAGE_SIZE} pixels a side for SB3's {policy}, "
                f"got {key!r} of {part.shape}. Set `env.image_size`."
            )


def _as_sb3_takes_them(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with what YAML cannot say: tuples, and classes of torch.nn."""
    taken = dict(hyperparameters)
    if isinstance(taken.get("train_freq"), list):
        taken["train_freq"] = tuple(taken["train_freq"])
    policy_kwargs = dict(taken.get("policy_kwargs") or {})
    name = policy_kwargs.get("activation_fn")
    if isinstance(name, str):
        import torch

        if not hasattr(torch.nn, name):
            raise ValueError(f"Unknown `activation_fn` {name!r}. Give a name of torch.nn: ReLU.")
        policy_kwargs["activation_fn"] = getattr(torch.nn, name)
    if policy_kwargs:
        taken["policy_kwargs"] = policy_kwargs
    return taken
