"""A small env for processes, and agents that walk in it."""

import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np


class Corridor(gym.Env[Any, Any]):
    """Success on reaching 3. The task says what goes wrong: "raises", "dies"."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, task: str) -> None:
        self.task = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.task == "raises":
            raise FloatingPointError("no start")
        self.place, self.n_steps = 0, 0
        self.start = float((options or {}).get("start", 0))
        return self._observe(), {"instruction": f"walk {self.task}", "array": np.zeros(3)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.task == "dies":
            os._exit(3)
        self.n_steps += 1
        self.place += 1 if action[0] > 0 else -1
        success = self.place == 3
        info = {"is_success": success}
        return self._observe(), float(success), success, self.n_steps == 5, info

    def _observe(self) -> np.ndarray:
        return np.array([self.place, self.start], np.float32)


def make_corridor(task: str) -> gym.Env[Any, Any]:
    return Corridor(task)


def double(observation: np.ndarray) -> np.ndarray:
    return 2 * observation


class Walkers:
    """Walks up in tasks that begin with "up", else down; breaks in "breaks"."""

    prepare = staticmethod(double)

    def __init__(self) -> None:
        self.tasks: dict[int, str] = {}
        self.begun: list[tuple[str, str | None]] = []
        self.batches: list[int] = []
        self.starts: set[float] = set()

    def begin(self, row: int, task: str, instruction: str | None) -> None:
        self.tasks[row] = task
        self.begun.append((task, instruction))

    def act(self, rows: Sequence[int], prepared: Sequence[Any]) -> np.ndarray:
        self.batches.append(len(rows))
        self.starts |= {float(each[1]) for each in prepared}
        if any(self.tasks[row] == "breaks" for row in rows):
            raise ValueError("no action")
        return np.array([[1.0 if self.tasks[row].startswith("up") else -1.0] for row in rows])
