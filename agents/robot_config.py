"""What a robot and its task are, from YAML files."""

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym

from libero_reward_envs.data.orientations import ORIENTATIONS
from libero_reward_envs.data.provenance import ACTION_CONVENTIONS
from libero_reward_envs.yaml_config import build_settings, read_yaml


@dataclasses.dataclass(frozen=True)
class LimitSettings:
    """What may be sent to the robot, in its own units; a number of each list for each action.

    Args:
        low: Least value.
        high: Greatest value.
        max_change: Greatest change from one step to the next; None for any.
        start: The action that holds the robot where it is after a reset, from which the first
            change counts. The environment's `info["held_action"]` wins.
        on_violation: "refuse" stops the robot, "clip" sends the nearest action that is allowed.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    max_change: tuple[float, ...] | None = None
    start: tuple[float, ...] | None = None
    on_violation: Literal["refuse", "clip"] = "refuse"


@dataclasses.dataclass(frozen=True)
class RobotConfig:
    """A robot, and how it is driven.

    Args:
        env: Its Gymnasium environment, "module:Class".
        env_kwargs: What that class is made with.
        control_freq_hz: Steps a second.
        cameras: By the name of an image that the policy reads, the environment's observation.
        state: The environment's observation that the policy reads as the robot's state, or None.
        orientation: How the images are turned, see `data.orientations`.
        action_low: What -1 of the policy's actions means to the robot; the range that was given
            when its training data were read. None for -1.
        action_high: What 1 means; None for 1.
        action_convention: "delta", "absolute", or None if it is not known.
        limits: What may be sent.
        deadline_s: How long after an observation its action may come; at most a control period.
        max_missed_deadlines: How many missed ones in a row are bridged by the environment's
            `hold()`; the next one stops the robot.
    """

    env: str = ""
    env_kwargs: dict = dataclasses.field(default_factory=dict)  # pyright: ignore[reportMissingTypeArgument]  (read by `build_settings`)
    control_freq_hz: float = 0.0
    cameras: dict = dataclasses.field(default_factory=dict)  # pyright: ignore[reportMissingTypeArgument]
    state: str | None = None
    orientation: str = "upright"
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    action_convention: str | None = None
    limits: LimitSettings = LimitSettings()
    deadline_s: float | None = None
    max_missed_deadlines: int = 0

    @property
    def period_s(self) -> float:
        """Time between two steps."""
        return 1 / self.control_freq_hz

    @property
    def answer_s(self) -> float:
        """How long after an observation its action may come."""
        return self.period_s if self.deadline_s is None else self.deadline_s


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What a robot is to do.

    Args:
        name: Of the task, for the log.
        instruction: What the policy is told; None if it knows.
        max_steps: Steps until an episode ends.
    """

    name: str = ""
    instruction: str | None = None
    max_steps: int = 400


def load_robot_config(path: str | Path) -> RobotConfig:
    """Read a robot's YAML file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown or missing, or a value cannot be.
    """
    return _load(RobotConfig, path, check_robot_config)


def load_task_config(path: str | Path | None, **given: Any) -> TaskConfig:
    """Read a task's YAML file.

    Args:
        path: The file; None for the defaults.
        given: What wins over the file; None for nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown, or a value cannot be.
    """
    task = TaskConfig() if path is None else _load(TaskConfig, path, _check_task)
    task = dataclasses.replace(
        task, **{name: value for name, value in given.items() if value is not None}
    )
    _check_task(task)
    return task


def check_robot_config(config: RobotConfig) -> None:
    """Raise ValueError if a robot cannot be driven so."""
    module, _, name = config.env.partition(":")
    if not module or not name:
        raise ValueError(f"`env` must be 'module:Class', got {config.env!r}.")
    if not 0 < config.control_freq_hz <= 1000:
        raise ValueError(f"`control_freq_hz` must be in (0, 1000], got {config.control_freq_hz}.")
    if not 0 < config.answer_s <= config.period_s * (1 + 1e-9):
        raise ValueError(
            f"`deadline_s` must be above 0 and at most {config.period_s:g}, the time of a step at "
            f"{config.control_freq_hz:g} Hz, got {config.deadline_s}."
        )
    if config.max_missed_deadlines < 0:
        raise ValueError("`max_missed_deadlines` must be at least 0.")
    names = [*config.cameras, *config.cameras.values()]
    if not config.cameras or not all(isinstance(each, str) and each for each in names):
        raise ValueError(
            "`cameras` must give, by the name of each image that the policy reads, the "
            f"environment's observation, got {config.cameras}."
        )
    choices = {"orientation": ORIENTATIONS, "action_convention": (None, *ACTION_CONVENTIONS)}
    for key, known in choices.items():
        if getattr(config, key) not in known:
            listed = ", ".join(map(str, known))
            raise ValueError(f"`{key}` must be one of {listed}, got {getattr(config, key)!r}.")
    _check_lengths(config)


def make_robot_env(config: RobotConfig) -> gym.Env[Any, Any]:
    """Make a robot's environment.

    Raises:
        ImportError: If its module cannot be imported.
        ValueError: If there is no such class, or it takes other arguments.
    """
    module, _, name = config.env.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Cannot import {module!r} of `env: {config.env}` ({error}). Install it, or name its "
            "folder in PYTHONPATH."
        ) from error
    if not callable(kind):
        raise ValueError(f"There is no class {name!r} in the module {module!r}.")
    try:
        env = kind(**config.env_kwargs)
    except TypeError as error:
        raise ValueError(f"{config.env} cannot be made by `env_kwargs`: {error}.") from error
    if not isinstance(env, gym.Env):
        raise ValueError(f"Expected a gymnasium.Env of {config.env}, got {type(env).__name__}.")
    return env


def _load(kind: Any, path: str | Path, check: Any) -> Any:
    document = read_yaml(path)
    try:
        config = build_settings(kind, document, "")
        check(config)
    except ValueError as error:
        raise ValueError(f"In {str(path)!r}: {error}") from None
    return config


def _check_lengths(config: RobotConfig) -> None:
    """Raise ValueError unless there is a number for each action everywhere."""
    limits = config.limits
    lists = {
        "limits.low": limits.low,
        "limits.high": limits.high,
        "limits.max_change": limits.max_change,
        "limits.start": limits.start,
        "action_low": config.action_low,
        "action_high": config.action_high,
    }
    if not limits.low or not limits.high:
        raise ValueError("`limits` must say `low` and `high`: a number for each action.")
    for name, values in lists.items():
        if values is None:
            continue
        if len(values) != len(limits.low) or not all(map(math.isfinite, values)):
            raise ValueError(
                f"Expected {len(limits.low)} finite numbers for `{name}`, as `limits.low` has, "
                f"got {list(values)}."
            )
    if (config.action_low is None) != (config.action_high is None):
        raise ValueError("Give both of `action_low` and `action_high`, or none.")


def _check_task(task: TaskConfig) -> None:
    if task.max_steps < 1:
        raise ValueError(f"`max_steps` must be at least 1, got {task.max_steps}.")
    if task.instruction is not None and not task.instruction.strip():
        raise ValueError("`instruction` must not be empty; leave it out.")
