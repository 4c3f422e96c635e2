"""The configuration of `libero-reward train-agent`: which env, agent and reward, and where to."""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from libero_reward_envs.reward_config import RewardConfig, check_reward_config
from libero_reward_envs.yaml_config import (
    apply_overrides,
    build_settings,
    check_known,
    other_keys,
    read_yaml,
)

# Of the arguments of SB3's algorithms, those that are no plain values or that are decided here.
_NOT_SETTINGS = {
    *("self", "env", "tensorboard_log", "verbose", "action_noise", "_init_setup_model"),
    *("replay_buffer_class", "replay_buffer_kwargs"),
    *("rollout_buffer_class", "rollout_buffer_kwargs"),
}
_OF_GYM_MAKE = {"max_episode_steps", "disable_env_checker"}


@dataclass(frozen=True)
class EnvConfig:
    """The `env:` block; `arguments` are the keyword arguments of `gym.make`."""

    id: str = "Libero-v0"
    n_envs: int = 1
    subprocesses: bool | None = None  # None: if there is more than one env
    arguments: Mapping[str, Any] = other_keys()


@dataclass(frozen=True)
class AgentConfig:
    """The `agent:` block; `hyperparameters` are those of SB3's algorithm, by its own names."""

    algorithm: Literal["SAC", "PPO"] = "SAC"
    policy: str | None = None  # None: "MultiInputPolicy" for a dict of observations
    total_timesteps: int = 100_000
    seed: int = 0
    device: str = "auto"
    log_interval: int | None = None  # SB3's unit: episodes for SAC, rollouts for PPO
    hyperparameters: Mapping[str, Any] = other_keys()

    @property
    def gamma(self) -> float:
        """The agent's discount."""
        default = _get_algorithm_parameters(self.algorithm)["gamma"].default
        return float(self.hyperparameters.get("gamma", default))


@dataclass(frozen=True)
class EvaluationConfig:
    """The `evaluation:` block: true success of the trained agent, without a learned reward."""

    episodes: int = 10  # 0: none
    seed: int = 10_000  # far from those of training


@dataclass(frozen=True)
class CheckpointsConfig:
    """The `checkpoints:` block, see `SaveCheckpoints`; each holds the replay buffer."""

    save_freq: int | None = 10_000  # env steps; None: no checkpoints
    keep: int = 1


@dataclass(frozen=True)
class TrainAgentConfig:
    """A whole file."""

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    out: str = "runs/agent"


def load_agent_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainAgentConfig:
    """Read a configuration file.

    Args:
        path: A YAML file with some of the blocks `env`, `agent`, `reward`, `evaluation` and
            `checkpoints`, and the folder `out`.
        overrides: Values of the command line such as "agent.total_timesteps=2000", which win.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, a key is unknown, a value has the wrong type or is out of
            range, or what is switched on lacks what it needs; the message names the key.
    """
    document = read_yaml(path)
    try:
        return parse_agent_config(document, overrides)
    except ValueError as error:
        raise ValueError(f"In {str(path)!r}: {error}") from error


def parse_agent_config(document: Any, overrides: Sequence[str] = ()) -> TrainAgentConfig:
    """Read what a YAML file holds.

    Args:
        document: A mapping of blocks.
        overrides: As for `load_agent_config`.

    Raises:
        ValueError: As for `load_agent_config`.

    Example:
        >>> config = parse_agent_config({"agent": {"algorithm": "PPO"}}, ["agent.n_steps=64"])
        >>> config.agent.algorithm, config.agent.hyperparameters
        ('PPO', {'n_steps': 64})
    """
    names = [part.name for part in dataclasses.fields(TrainAgentConfig)]
    config = build_settings(TrainAgentConfig, apply_overrides(document, overrides, names), "")
    check_reward_config(config.reward)
    _check_env(config.env)
    _check_agent(config.agent)
    for name, number, least in (
        ("evaluation.episodes", config.evaluation.episodes, 0),
        ("checkpoints.save_freq", config.checkpoints.save_freq, 1),
        ("checkpoints.keep", config.checkpoints.keep, 1),
    ):
        if number is not None and number < least:
            raise ValueError(f"`{name}` must be at least {least}, got {number}.")
    return config


def describe_config(config: TrainAgentConfig) -> dict[str, Any]:
    """Return the configuration as `parse_agent_config` takes it, all defaults written out."""
    document = _to_plain(config)
    for name, others in (("env", "arguments"), ("agent", "hyperparameters")):
        document[name] |= document[name].pop(others)
    return document


def get_env_parameters(env_id: str) -> set[str] | None:
    """Return the keyword arguments of `gym.make` for an id, None if not all are known by name.

    Args:
        env_id: The id, or "<module that registers it>:<id>".

    Raises:
        ImportError: If there is no such module.
        ValueError: If there is no such id.
    """
    import gymnasium as gym
    from gymnasium.envs.registration import load_env_creator

    import libero_reward_envs

    libero_reward_envs.register_envs()
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:
        raise ValueError(f"Unknown environment {env_id!r} under `env.id`: {error}") from error
    entry = spec.entry_point
    creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(creator).parameters
    if any(part.kind is inspect.Parameter.VAR_KEYWORD for part in parameters.values()):
        return None
    return {*parameters, *_OF_GYM_MAKE}


def _check_env(env: EnvConfig) -> None:
    if env.n_envs < 1:
        raise ValueError(f"`env.n_envs` must be at least 1, got {env.n_envs}.")
    parameters = get_env_parameters(env.id)
    if parameters is not None:
        known = [part.name for part in dataclasses.fields(EnvConfig) if part.name != "arguments"]
        check_known(env.arguments, [*known, *sorted(parameters)], "env")


def _check_agent(agent: AgentConfig) -> None:
    known = [part.name for part in dataclasses.fields(AgentConfig)]
    settings = _get_algorithm_parameters(agent.algorithm).keys() - _NOT_SETTINGS
    known = [*known, *sorted(settings - set(known))]
    known.remove("hyperparameters")
    check_known(agent.hyperparameters, known, "agent")
    if agent.total_timesteps < 1:
        raise ValueError(
            f"`agent.total_timesteps` must be at least 1, got {agent.total_timesteps}."
        )


def _get_algorithm_parameters(algorithm: str) -> Mapping[str, inspect.Parameter]:
    import stable_baselines3

    return inspect.signature(getattr(stable_baselines3, algorithm).__init__).parameters


def _to_plain(value: Any) -> Any:
    """Return nested settings as YAML and JSON hold them."""
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _to_plain(part) for name, part in value.items()}
    return [_to_plain(part) for part in value] if isinstance(value, list | tuple) else value
