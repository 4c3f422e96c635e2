"""A robot with two arms and three cameras that does at once what it is told, and policies."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.robot_config import LimitSettings, RobotConfig

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


class TwoArmRobot(gym.Env[Any, Any]):
    """Joints go where they are told. `slow_steps` take long, `broken_step` fails."""

    def __init__(
        self,
        n_actions: int = 14,
        slow_steps: Sequence[int] = (),
        slow_s: float = 0.0,
        broken_step: int | None = None,
        success_step: int | None = None,
        size: int = 32,
    ) -> None:
        self.action_space = gym.spaces.Box(-2, 2, (n_actions,), np.float32)
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "qpos": gym.spaces.Box(-np.inf, np.inf, (n_actions,), np.float32),
                **dict.fromkeys(CAMERAS, image),
            }
        )
        self.slow_steps, self.slow_s, self.broken_step = slow_steps, slow_s, broken_step
        self.success_step = success_step
        self.sent: list[np.ndarray] = []
        self.sent_at: list[float] = []
        self.n_held = 0
        self.is_closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.qpos = np.zeros(self.action_space.shape, np.float32)  # pyright: ignore
        self.sent, self.sent_at = [], []
        return self._observe(), {"held_action": self.qpos.copy()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        n = len(self.sent)
        if n == self.broken_step:
            raise OSError("an arm does not answer")
        if n in self.slow_steps:
            time.sleep(self.slow_s)
        self.sent.append(np.array(action))
        self.sent_at.append(time.monotonic())
        self.qpos = np.array(action)
        success = n == self.success_step
        return self._observe(), float(success), success, False, {"is_success": success}

    def hold(self) -> np.ndarray:
        self.n_held += 1
        return self.qpos.copy()

    def close(self) -> None:
        self.is_closed = True

    def _observe(self) -> dict[str, Any]:
        size = self.observation_space["cam_high"].shape  # pyright: ignore
        images = {name: np.full(size, 10 * index, np.uint8) for index, name in enumerate(CAMERAS)}
        return {"qpos": self.qpos, **images}


class ArmsWithoutHold(TwoArmRobot):
    hold = None  # pyright: ignore

    def has_wrapper_attr(self, name: str) -> bool:
        return name != "hold" and super().has_wrapper_attr(name)


class ScriptedPolicy:
    """Gives `action(n)` for the n-th question of an episode, in [-1, 1]."""

    settings = {"kind": "scripted"}  # noqa: RUF012

    def __init__(self, action: Callable[[int], Any], delays_s: dict[int, float] | None = None):
        self.action, self.delays_s = action, delays_s or {}
        self.asked: list[tuple[Any, str | None]] = []
        self.is_warm = False
        self.reset()

    def reset(self) -> None:
        self.n = 0

    def predict(self, observation: Any, *, instruction: str | None) -> tuple[np.ndarray, None]:
        n, self.n = self.n, self.n + 1
        self.asked.append((observation, instruction))
        time.sleep(self.delays_s.get(n, 0.0) if self.is_warm else 0.0)
        return np.asarray(self.action(n), np.float32), None


class ServedScript:
    """A policy to serve: its action tells the row and what it saw; chunks of three."""

    def __init__(self, image_keys: tuple[str, ...] = ("agentview_image",), delay_s: float = 0.0):
        self.image_keys, self.delay_s = image_keys, delay_s
        self.instruction: str | None = None
        self.unnorm_key = "robot"
        self.fails: Exception | None = None
        self.told: list[Any] = []
        self.most_at_once = 0
        self._at_once, self._lock = 0, threading.Lock()
        self._steps: dict[int, int] = {}
        self.inputs: Any = _Inputs(image_keys)

    @property
    def settings(self) -> dict[str, Any]:
        return {"image_keys": list(self.image_keys), "n_proprio": 2}

    def reset(self, indices: Iterable[int] | None = None) -> None:
        for row in list(self._steps) if indices is None else indices:
            self._steps.pop(row, None)

    def act(
        self, prepared: Any, instructions: Sequence[str | None], rows: Sequence[int]
    ) -> np.ndarray:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay_s)
            if self.fails is not None:
                raise self.fails
            self.told.append(instructions[0])
            step = self._steps[rows[0]] = self._steps.get(rows[0], -1) + 1
            return np.array([[*prepared, step]], np.float32)
        finally:
            with self._lock:
                self._at_once -= 1


class _Inputs:
    """Means of the images, and the state's sum."""

    def __init__(self, image_keys: tuple[str, ...]) -> None:
        self.image_keys = image_keys

    def __call__(self, observation: dict[str, np.ndarray]) -> list[float]:
        missing = [key for key in self.image_keys if key not in observation]
        if missing:
            raise ValueError(f"{missing[0]} missing")
        means = [float(observation[key].mean()) for key in self.image_keys]
        return [*means, float(observation.get("proprio", np.zeros(1)).sum())]


def make_config(n_actions: int = 14, **changes: Any) -> RobotConfig:
    """10 Hz; actions are as the policy gives them."""
    limits = {"low": (-1.0,) * n_actions, "high": (1.0,) * n_actions, **changes.pop("limits", {})}
    defaults: dict[str, Any] = {
        "env": "two_arm_robot:TwoArmRobot",
        "control_freq_hz": 10.0,
        "cameras": {f"{name}_image": name for name in CAMERAS},
        "state": "qpos",
    }
    return RobotConfig(**{**defaults, "limits": LimitSettings(**limits), **changes})
