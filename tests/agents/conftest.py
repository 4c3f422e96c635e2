"""Random episodes for replay buffers, remembered in plain lists, and a small env with both ends."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor

SPACE = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)
ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)
SPACES = {
    "box": SPACE,
    "dict": gym.spaces.Dict({"position": SPACE, "goal": gym.spaces.Box(-1, 1, (1,), np.float32)}),
}


@dataclasses.dataclass
class Step:
    observation: np.ndarray  # its first number is met nowhere else
    next_observation: np.ndarray
    action: np.ndarray
    reward: np.float32
    done: bool
    truncated: bool
    broken: bool = False  # the env was reset after this step, which did not end the episode


class RandomPlay:
    """Adds random steps of n envs to a buffer; `steps[column]` are those of one env."""

    def __init__(
        self, buffer: Any, seed: int, longest: int = 9, observations: str = "box", resets: float = 0
    ) -> None:
        self.buffer = buffer
        self.rng = np.random.default_rng(seed)
        self.is_dict = observations == "dict"
        self.longest, self.resets = longest, resets
        self.steps: list[list[Step]] = [[] for _ in range(buffer.n_envs)]
        self.n_observed = 0
        self.current = [self.observe() for _ in self.steps]
        self.left = [int(self.rng.integers(1, longest + 1)) for _ in self.steps]

    def observe(self) -> np.ndarray:
        self.n_observed += 1
        return np.array([self.n_observed, self.rng.normal()], np.float32)

    def play(self, n_steps: int) -> None:
        for _ in range(n_steps):
            rows = [self.step(column) for column in range(len(self.steps))]
            self.buffer.add(
                self.pack([row.observation for row in rows]),
                self.pack([row.next_observation for row in rows]),
                np.stack([row.action for row in rows]),
                np.stack([row.reward for row in rows]),
                np.array([row.done for row in rows]),
                [{"TimeLimit.truncated": row.truncated} for row in rows],
            )

    def step(self, column: int) -> Step:
        self.left[column] -= 1
        done = self.left[column] == 0
        truncated = done and bool(self.rng.random() < 0.5)
        broken = not done and bool(self.rng.random() < self.resets)
        first, second = self.current[column], self.observe()
        action = self.rng.uniform(-1, 1, 2).astype(np.float32)
        reward = np.float32(self.rng.normal())
        self.current[column] = second
        if done or broken:
            self.current[column] = self.observe()
            self.left[column] = int(self.rng.integers(1, self.longest + 1))
        step = Step(first, second, action, reward, done, truncated, broken)
        self.steps[column].append(step)
        return step

    def pack(self, observations: list[np.ndarray]) -> Any:
        stacked = np.stack(observations)
        goals = np.ones((len(stacked), 1), np.float32)
        return {"position": stacked, "goal": goals} if self.is_dict else stacked

    def episodes(self) -> list[tuple[int, int, int]]:
        """Column, first and last step of each finished episode that is whole in the ring."""
        found = []
        oldest = len(self.steps[0]) - self.buffer.buffer_size
        for column, steps in enumerate(self.steps):
            start = 0
            for index, step in enumerate(steps):
                if step.done and start >= oldest:
                    found.append((column, start, index))
                if step.done or step.broken:
                    start = index + 1
        return sorted(found, key=lambda episode: (episode[2], episode[0]))

    def find(self, observations: Any) -> list[tuple[int, int]]:
        """Column and number of the steps that begin with these observations."""
        numbers = {
            float(step.observation[0]): (column, index)
            for column, steps in enumerate(self.steps)
            for index, step in enumerate(steps)
        }
        rows = observations["position"] if self.is_dict else observations
        return [numbers[float(row[0])] for row in rows]


class PlaneEnv(gym.Env):
    """Moves in the plane by the action; reaching x = 1 is the end, and pays 1."""

    action_space = ACTIONS

    def __init__(self, observations: str = "box") -> None:
        self.observation_space = SPACES[observations]

    def observe(self) -> Any:
        if isinstance(self.observation_space, gym.spaces.Box):
            return self.position.copy()
        return {"goal": np.ones(1, np.float32), "position": self.position.copy()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 0, 2).astype(np.float32)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position += np.float32(0.5) * action
        success = bool(self.position[0] >= 1)
        return self.observe(), float(success), success, False, {}


@pytest.fixture
def replay_spaces() -> dict[str, gym.Space]:
    return dict(SPACES)


@pytest.fixture
def random_play() -> type[RandomPlay]:
    return RandomPlay


@pytest.fixture
def make_plane_env() -> Callable[..., Callable[[], gym.Env]]:
    def make(observations: str = "box", max_steps: int = 9) -> Callable[[], gym.Env]:
        return lambda: Monitor(TimeLimit(PlaneEnv(observations), max_steps))

    return make


class SquareEnv(gym.Env[Any, np.ndarray]):
    """A square at a random place, seen as an image; every second episode ends with success.

    Episodes take 6 steps. The last one pays 1 in an episode of success.
    """

    def __init__(
        self, image_size: int = 40, cameras: tuple[str, ...] = ("front",), is_solved: bool = True
    ) -> None:
        self.shape = (image_size, image_size, 3)
        box = gym.spaces.Box(0, 255, self.shape, np.uint8)
        self.keys = [f"{name}_image" for name in cameras]
        self.observation_space = gym.spaces.Dict(dict.fromkeys(self.keys, box))
        self.action_space = ACTIONS
        self.is_solved = is_solved
        self.n_episodes = 0

    def observe(self) -> Any:
        observation = {}
        for key in self.keys:
            image = np.zeros(self.shape, np.uint8)
            y, x = self.np_random.integers(0, self.shape[0] - 8, 2)
            image[y : y + 8, x : x + 8] = 255
            observation[key] = image
        return observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_episodes += 1
        self.left = 6
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        success = self.is_solved and self.left == 0 and self.n_episodes % 2 == 0
        return self.observe(), float(success), self.left == 0, False, {"is_success": success}


@pytest.fixture(scope="session")
def square_env_id() -> str:
    """Id of a small env with images, for processes that are forked or none but this one."""
    if "Square-v0" not in gym.registry:
        gym.register("Square-v0", lambda **kwargs: SquareEnv(**kwargs))
    return "Square-v0"


@pytest.fixture
def constant_classifier(tmp_path: Path) -> Callable[..., Path]:
    """Saves a classifier that sees success with the same probability in all images."""

    def save(name: str = "constant", logit: float = 1.0, **changes: Any) -> Path:
        from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
        from libero_reward_envs.reward_models.classifier import ClassifierRewardModel

        arguments: dict[str, Any] = {
            "image_keys": ["front_image"],
            "image_size": [3, 40, 40],
            "hidden_dim": 16,
            "num_spatial_blocks": 2,
            "use_pretrain": False,
            "freeze_encoder": False,
        }
        network = BinaryRewardClassifier(**{**arguments, **changes})
        last: Any = network.classifier[-1]
        last.weight.data.zero_()
        last.bias.data.fill_(logit)
        training = {"orientation": "upright"}
        model = ClassifierRewardModel.from_classifier(network, training=training)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save
