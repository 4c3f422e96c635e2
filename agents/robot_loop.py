"""Drives a robot by a policy, at its control rate, within limits and deadlines."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.action_limits import ActionLimits, ActionRefused
from libero_reward_envs.agents.policy_thread import InstructedPolicy, PolicyThread
from libero_reward_envs.agents.robot_config import RobotConfig, TaskConfig, check_robot_config
from libero_reward_envs.agents.robot_log import EpisodeLog, ObservationReader, RobotOutcome
from libero_reward_envs.data.episodes import Episode

_WARM_UPS = 2
_WARM_UP_S = 600.0
_HELD_KEY = "held_action"


@dataclasses.dataclass
class _Run:
    """What is counted in an episode."""

    log: EpisodeLog
    success: bool = False
    missed: int = 0
    late: int = 0
    in_a_row: int = 0
    answers_s: list[float] = dataclasses.field(default_factory=list)
    sent_at: list[float] = dataclasses.field(default_factory=list)


class _Stop(Exception):
    """The end of an episode, with its reason."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class RobotLoop:
    """Drives one robot.

    Actions are sent at ticks, `control_freq_hz` a second. After each step the policy is asked with
    the new observation, and its action waits for the next tick; one that is not there `deadline_s`
    after a tick is missed, and `hold()` of the environment says what is sent instead. Each action
    is checked before it is sent. An episode that ends by anything but the environment itself ends
    with `hold()`.

    `step` of the environment sends an action and returns at once with an observation: the loop
    waits, not the environment. `hold()`, if there is one, returns the action that keeps the robot
    where it is. Not for simulated robots whose time stands still.

    Args:
        env: The robot, with observations in a `Dict` space and actions in a `Box`.
        policy: What acts.
        config: How the robot is driven.
        task: What it is to do.

    Raises:
        ValueError: If the environment and the configuration do not agree.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        policy: InstructedPolicy,
        config: RobotConfig,
        task: TaskConfig,
    ) -> None:
        check_robot_config(config)
        self._env, self._config, self._task = env, config, task
        self.limits = ActionLimits(
            config.limits,
            None if config.action_low is None else np.array(config.action_low),
            None if config.action_high is None else np.array(config.action_high),
        )
        self._hold: Callable[[], Any] | None = None
        if env.has_wrapper_attr("hold"):
            self._hold = env.get_wrapper_attr("hold")
        self._check_env()
        self._read = ObservationReader(config)
        self._policy = PolicyThread(policy)

    def warm_up(self) -> None:
        """Ask the policy before the robot moves: the first answers take long, and may be wrong.

        Raises:
            ValueError: If it gives actions of another robot, or reads what this one has not.
        """
        drawn = self._read(self._env.observation_space.sample())
        for _ in range(_WARM_UPS):
            action = self._policy.ask(drawn, self._task.instruction, time.monotonic() + _WARM_UP_S)
            if action is None:
                raise TimeoutError(f"The policy gave no action within {_WARM_UP_S:g} s.")
            self.limits.to_robot(action)

    def run_episode(self, seed: int | None = None) -> tuple[RobotOutcome, Episode | None]:
        """Drive the robot until an episode ends, and return how, and what happened.

        Args:
            seed: What the environment is reset with.

        Raises:
            ValueError: If the robot does not begin where it may be, or its observations are not
                those of the configuration.
        """
        self._policy.reset(_WARM_UP_S)
        observation, info = self._env.reset(seed=seed)
        self.limits.begin(info.get(_HELD_KEY))
        first = self._read(observation)
        run = _Run(EpisodeLog(first, self._task.max_steps))
        held, end = False, _Stop("max_steps")
        try:
            self._drive(run, first)
        except _Stop as stop:
            end = stop
        except KeyboardInterrupt:
            end = _Stop("interrupted", "Ctrl-C")
        if end.reason not in ("terminated", "truncated"):
            held, problem = self._hold_still()
            if problem:
                end = _Stop(end.reason, "; ".join(filter(None, (end.detail, problem))))
        outcome = self._describe(run, end, held)
        return outcome, run.log.make_episode(self._config, self._task, outcome)

    def close(self) -> None:
        """End the policy's thread; the environment is closed by who made it."""
        self._policy.close()

    def _drive(self, run: _Run, observation: dict[str, np.ndarray]) -> None:
        """Take steps; raises `_Stop` where an episode ends before its last one."""
        period = self._config.period_s
        tick = time.monotonic()
        was_late = False
        while len(run.log) < self._task.max_steps:
            action = self._ask(run, observation, tick + self._config.answer_s)
            run.missed += action is None
            run.in_a_row = run.in_a_row + 1 if action is None or was_late else 0
            if run.in_a_row > self._config.max_missed_deadlines:
                raise _Stop(
                    "deadlines",
                    f"{run.in_a_row} in a row, {self._config.max_missed_deadlines} are allowed",
                )
            try:
                sent = self._choose(action)
            except ActionRefused as error:
                raise _Stop("limits", str(error)) from None
            tick += period
            time.sleep(max(0.0, tick - time.monotonic()))
            run.sent_at.append(time.monotonic())
            observation = self._step(run, sent)
            was_late = time.monotonic() > tick + period
            if was_late:
                run.late += 1
                tick = time.monotonic()  # steps that were lost are not made up for

    def _ask(self, run: _Run, observation: Any, ends: float) -> np.ndarray | None:
        """Return the action in the robot's units, None if the policy is late."""
        began = time.monotonic()
        try:
            action = self._policy.ask(observation, self._task.instruction, ends)
            if action is None:
                return None
            run.answers_s.append(time.monotonic() - began)
            return self.limits.to_robot(action)
        except Exception as error:
            raise _Stop("policy_error", f"{type(error).__name__}: {error}") from error

    def _choose(self, action: np.ndarray | None) -> np.ndarray:
        if action is not None:
            return self.limits.check(action)
        assert self._hold is not None  # else no deadline may be missed
        try:
            held = self._hold()
        except Exception as error:
            raise _Stop("robot_error", f"hold(): {type(error).__name__}: {error}") from error
        return self.limits.check_held(held)

    def _step(self, run: _Run, action: np.ndarray) -> dict[str, np.ndarray]:
        """Send an action, log the step, and return the observation after it."""
        space: Any = self._env.action_space
        try:
            found, reward, terminated, truncated, info = self._env.step(action.astype(space.dtype))
            observation = self._read(found)
            run.log.append(self.limits.to_policy(action), float(reward), observation)
        except Exception as error:
            raise _Stop("robot_error", f"{type(error).__name__}: {error}") from error
        run.success = run.success or bool(info.get("is_success", False))
        if terminated or truncated:
            raise _Stop("terminated" if terminated else "truncated")
        return observation

    def _hold_still(self) -> tuple[bool, str | None]:
        """Send the action that holds the robot; whether that was possible, and why not."""
        if self._hold is None:
            return False, None
        space: Any = self._env.action_space
        try:
            self._env.step(self.limits.check_held(self._hold()).astype(space.dtype))
        except Exception as error:
            return False, f"and it could not be held: {type(error).__name__}: {error}"
        return True, None

    def _describe(self, run: _Run, end: _Stop, held: bool) -> RobotOutcome:
        answers = 1000 * np.array(run.answers_s)
        n_sent = len(run.sent_at)
        span = run.sent_at[-1] - run.sent_at[0] if n_sent > 1 else 0.0
        return RobotOutcome(
            end.reason,
            end.detail,
            len(run.log),
            run.success,
            run.log.env_return,
            run.missed,
            run.late,
            self.limits.n_clipped,
            held,
            float(np.median(answers)) if answers.size else None,
            float(answers.max()) if answers.size else None,
            (n_sent - 1) / span if span > 0 else None,
        )

    def _check_env(self) -> None:
        space = self._env.action_space
        if not isinstance(space, gym.spaces.Box) or space.shape != self.limits.low.shape:
            raise ValueError(
                f"Expected actions in a Box of {self.limits.n_actions} numbers, as `limits` has, "
                f"got {space}."
            )
        if (self.limits.low < space.low - 1e-6).any() or (
            self.limits.high > space.high + 1e-6
        ).any():
            raise ValueError(f"Expected `limits` within what the environment takes, {space}.")
        if not isinstance(self._env.observation_space, gym.spaces.Dict):
            raise ValueError(
                f"Expected observations in a Dict space, got {self._env.observation_space}."
            )
        if self._config.max_missed_deadlines and self._hold is None:
            raise ValueError(
                "`max_missed_deadlines` is above 0, but the environment has no `hold()`, which "
                "returns the action to send meanwhile. Write one, or set it to 0."
            )
