import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import libero_reward_envs.wrappers
from libero_reward_envs.wrappers.episodic_reward import EpisodicReward

GOLDEN = Path(__file__).parents[1] / "data" / "rrd" / "episodic_wrapper.npz"


class Script(gym.Env):
    """Pays given rewards and ends, or is cut off by a TimeLimit, after the last of them."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, rewards: list[float], terminal: bool = True) -> None:
        self.rewards, self.terminal, self.step_index = rewards, terminal, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_index = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = self.rewards[self.step_index]
        self.step_index += 1
        terminated = self.terminal and self.step_index == len(self.rewards)
        return np.full(1, self.step_index, np.float32), reward, terminated, False, {"own": 1}


def play(env: gym.Env) -> list[tuple]:
    env.reset(seed=0)
    steps = [env.step(np.zeros(1, np.float32))]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(np.zeros(1, np.float32)))
    return steps


@pytest.mark.parametrize("episode", [0, 1, 2])
def test_rewards_are_those_of_the_stored_episodes(episode: int) -> None:
    golden = np.load(GOLDEN, allow_pickle=False)
    length, horizon = int(golden["lengths"][episode]), int(golden["horizon"])
    dense = golden["dense"][episode, :length]
    inner = Script(list(dense), terminal=bool(golden["true_terminal"][episode]))
    env = EpisodicReward(gym.wrappers.TimeLimit(inner, horizon))
    for _ in range(2):  # nothing of an episode is left over for the next
        steps = play(env)
        assert len(steps) == length
        paid = [step[1] for step in steps]
        np.testing.assert_allclose(paid, golden["episodic"][episode, :length], rtol=1e-12)
        assert [step[4]["reward/dense"] for step in steps] == dense.tolist()
        assert steps[-1][2] == golden["true_terminal"][episode]


def test_everything_but_the_reward_stays_as_it_was() -> None:
    plain = play(gym.wrappers.TimeLimit(Script([1.0, 2.0, 3.0], terminal=False), 2))
    steps = play(EpisodicReward(gym.wrappers.TimeLimit(Script([1.0, 2.0, 3.0], terminal=False), 2)))
    assert [step[1] for step in steps] == [0.0, 3.0]
    for step, other in zip(steps, plain, strict=True):
        np.testing.assert_array_equal(step[0], other[0])
        assert step[2:4] == other[2:4]
        assert {k: v for k, v in step[4].items() if k != "reward/dense"} == other[4]


def test_the_return_survives_ends_by_the_env_of_gymnasium() -> None:
    env = EpisodicReward(gym.make("InvertedDoublePendulum-v5", max_episode_steps=7))
    env.action_space.seed(0)
    env.reset(seed=0)
    dense, paid, n_ends = 0.0, 0.0, 0
    for _ in range(40):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        dense, paid = dense + info["reward/dense"], paid + float(reward)
        if terminated or truncated:
            assert paid == pytest.approx(dense)
            n_ends += 1
            env.reset()
        else:
            assert reward == 0.0
    assert n_ends >= 5


def test_a_time_limit_outside_is_noticed_and_owes_nothing_to_the_next_episode() -> None:
    env = gym.wrappers.TimeLimit(EpisodicReward(Script([1.0, 2.0, 4.0])), 2)
    assert [step[1] for step in play(env)] == [0.0, 0.0]
    with pytest.warns(UserWarning, match="put it inside"):
        env.reset()
    inner = env.env
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert [step[1] for step in play(inner)] == [0.0, 0.0, 7.0]
        play(inner)


def test_both_checkers_pass_and_the_spec_makes_it_again() -> None:
    env = EpisodicReward(gym.make("Pendulum-v1", max_episode_steps=50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env_for_sb3(EpisodicReward(gym.make("InvertedDoublePendulum-v5")))
        check_env(EpisodicReward(Script([1.0] * 100)), skip_render_check=True)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, libero_reward_envs.wrappers.EpisodicReward)
    again.reset(seed=0)
    rewards = [again.step(np.zeros(1, np.float32))[1] for _ in range(50)]
    assert np.flatnonzero(rewards).tolist() == [49]
