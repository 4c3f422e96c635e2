"""Learning curves: one line an episode, both returns kept apart."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.agents.curves import LogCurves, read_curves
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.wrappers import VecLearnedReward


class Countdown(gym.Env[np.ndarray, np.ndarray]):
    """Ends with reward 1 and success after as many steps as it is told."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def reset(self, *, seed=None, options=None):  # pyright: ignore
        super().reset(seed=seed)
        self.left = self.n_steps
        return np.array([self.left], np.float32), {}

    def step(self, action):  # pyright: ignore
        self.left -= 1
        is_over = self.left == 0
        return (
            np.array([self.left], np.float32),
            float(is_over),
            is_over,
            False,
            {"is_success": is_over},
        )


class PaysTwo:
    observation_keys = ("state",)

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        return np.full(len(transitions.actions), 2.0, np.float32)


def test_each_episode_has_its_env_return_and_its_learned_return(tmp_path: Path) -> None:
    envs = DummyVecEnv([lambda: Monitor(Countdown(3)), lambda: Monitor(Countdown(5))])
    seen: list[int] = []
    callback = LogCurves(tmp_path / "curves.csv", seen.append)
    agent = PPO("MlpPolicy", VecLearnedReward(envs, PaysTwo()), n_steps=16, batch_size=32)
    agent.learn(32, callback=callback)
    curves = read_curves(tmp_path / "curves.csv")
    np.testing.assert_array_equal(curves["learned_return"], 2 * curves["length"])
    assert sorted(set(curves["length"])) == [3, 5]
    assert set(curves["env_return"]) == set(curves["success"]) == {1}
    assert curves["step"][0] == 6  # three steps in both envs
    assert seen[-1] == 32


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        read_curves(tmp_path / "other.csv")


def test_no_finished_episode_gives_empty_columns(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(Countdown(1000))])
    callback = LogCurves(tmp_path / "curves.csv")
    PPO("MlpPolicy", env, n_steps=4, batch_size=4).learn(4, callback=callback)
    assert len(read_curves(tmp_path / "curves.csv")["step"]) == 0
