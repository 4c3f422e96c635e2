import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import LearnedReward, VecLearnedReward


class PlaneEnv(gym.Env):
    """Moves in the plane by the action; reaching x = 1 is the end and the success, and pays 1."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, observations="box"):
        box = gym.spaces.Box(-100, 100, (2,), np.float32)
        goal = gym.spaces.Box(0, 1, (1,), np.float32)
        both: dict[str, gym.Space] = {"goal": goal, "position": box}
        self.observation_space = box if observations == "box" else gym.spaces.Dict(both)

    def observe(self):
        position = self.position.copy()
        if isinstance(self.observation_space, gym.spaces.Box):
            return position
        return {"goal": np.ones(1, np.float32), "position": position}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 0, 2).astype(np.float32)
        return self.observe(), {}

    def step(self, action):
        self.position += np.float32(0.5) * action
        success = bool(self.position[0] >= 1)
        return self.observe(), float(success), success, False, {"is_success": success}


class DistanceRewardModel:
    """Rewards the way covered in x, and an end."""

    def __init__(self, key="state"):
        self.observation_keys = (key,)

    def compute_reward(self, transitions):
        key = self.observation_keys[0]
        way = transitions.next_observations[key][:, 0] - transitions.observations[key][:, 0]
        return way + np.float32(10) * transitions.terminated


def make_env(observations="box", max_steps=9, wrap=lambda env: env):
    return lambda: wrap(Monitor(TimeLimit(PlaneEnv(observations), max_steps)))


def make_model(observations="box", seed=0):
    if observations == "box":
        return RRDRewardModel({"state": (2,)}, 2, seed=seed)
    return RRDRewardModel({"position": (2,), "goal": (1,)}, 2, seed=seed)


def play(venv, n_steps, seed=0) -> list[Any]:
    """Return what reset returned, alone in a tuple, and what each step returned."""
    rng = np.random.default_rng(seed)
    venv.seed(seed)
    steps = [(venv.reset(),)]
    for _ in range(n_steps):
        actions = rng.uniform(-0.5, 1, (venv.num_envs, 2)).astype(np.float32)
        steps.append(venv.step(actions))
    return steps


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_last_step_is_rewarded_by_its_own_observation(observations):
    key = "state" if observations == "box" else "position"
    venv = VecLearnedReward(DummyVecEnv([make_env(observations)] * 3), DistanceRewardModel(key))
    x_of = (lambda o: o[:, 0]) if observations == "box" else (lambda o: o["position"][:, 0])
    steps = play(venv, 120)
    n_terminated = n_truncated = 0
    for (before, *_), (after, rewards, dones, infos) in itertools.pairwise(steps):
        assert rewards.dtype == np.float32
        for i in range(3):
            x = x_of(after)[i]
            end = 0.0
            if dones[i]:
                last = infos[i]["terminal_observation"]
                x = (last if observations == "box" else last["position"])[0]
                end = 0.0 if infos[i]["TimeLimit.truncated"] else 10.0
                n_terminated += end > 0
                n_truncated += end == 0
            assert rewards[i] == np.float32(x - x_of(before)[i]) + np.float32(end)
    assert n_terminated > 5
    assert n_truncated > 5


def test_env_reward_success_and_monitor_survive():
    venv = VecLearnedReward(DummyVecEnv([make_env()] * 2), DistanceRewardModel())
    n_ended = 0
    for _, rewards, dones, infos in play(venv, 100)[1:]:
        for reward, done, info in zip(rewards, dones, infos, strict=True):
            assert info["reward/total"] == info["reward/model"] == reward
            assert info["reward/env"] == float(info["is_success"])
            if done:
                assert info["episode"]["r"] == float(info["is_success"])
                n_ended += 1
    assert n_ended > 20
    assert venv.reward_mix.n_rewards == 200
    venv.reward_mix.check_used()


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_wrapper_vector_wrapper_and_workers_give_the_same_numbers(observations, tmp_path):
    make_model(observations).save_pretrained(tmp_path)
    rule = {"mode": "mix", "env_weight": 0.3, "model_weight": 0.7, "step_cost": 0.1}

    def wrap(env):
        return LearnedReward(env, str(tmp_path), **rule)

    inside = make_env(observations, wrap=wrap)
    worlds: list[VecEnv] = [
        VecLearnedReward(DummyVecEnv([make_env(observations)] * 2), str(tmp_path), **rule),
        DummyVecEnv([inside] * 2),
    ]
    if observations == "dict":  # once is enough: each worker imports torch
        worlds.append(SubprocVecEnv([inside] * 2, start_method="forkserver"))
    runs = [play(world, 60) for world in worlds]
    for (_, expected, dones, infos), *others in zip(*(run[1:] for run in runs), strict=True):
        for _, rewards, other_dones, other_infos in others:
            np.testing.assert_array_equal(rewards, expected)
            np.testing.assert_array_equal(other_dones, dones)
            for info, other in zip(infos, other_infos, strict=True):
                for key in ("reward/env", "reward/model", "reward/total"):
                    assert info[key] == other[key]
    with pytest.raises(ValueError, match="already have a LearnedReward each"):
        VecLearnedReward(worlds[-1], str(tmp_path))
    worlds[-1].close()


def whole_buffer(buffer):
    """Return all transitions of a replay buffer, and the rewards stored with them."""

    def rows(array):
        return array[: buffer.pos].reshape(-1, *array.shape[2:])

    if isinstance(buffer, DictReplayBuffer):
        observations = {key: rows(value) for key, value in buffer.observations.items()}
        following = {key: rows(value) for key, value in buffer.next_observations.items()}
    else:
        observations = {"state": rows(buffer.observations)}
        following = {"state": rows(buffer.next_observations)}
    terminated = rows(buffer.dones * (1 - buffer.timeouts)) > 0
    assert rows(buffer.timeouts).any()
    assert terminated.any()
    transitions = Transitions(observations, rows(buffer.actions), following, terminated)
    return transitions, rows(buffer.rewards)


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_sac_learns_and_its_buffer_recomputes_to_the_same_numbers(observations):
    model = make_model(observations)
    venv = VecLearnedReward(DummyVecEnv([make_env(observations)] * 2), model)
    agent = SAC(
        "MlpPolicy" if observations == "box" else "MultiInputPolicy",
        venv,
        learning_starts=180,
        batch_size=16,
        policy_kwargs={"net_arch": [16]},
        seed=0,
    )
    agent.learn(200)
    transitions, rewards = whole_buffer(agent.replay_buffer)
    assert len(rewards) == 200
    np.testing.assert_array_equal(model.compute_reward(transitions), rewards)
    assert venv.reward_mix.n_changed == 200
    # What rollout/ep_rew_mean shows.
    returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
    assert len(returns) > 10
    assert set(returns) <= {0.0, 1.0}
    assert isinstance(
        agent.replay_buffer, DictReplayBuffer if observations == "dict" else ReplayBuffer
    )


def test_making_the_wrapper_does_not_reset_nor_touch_spaces():
    venv = DummyVecEnv([make_env("dict")])
    space = venv.observation_space
    wrapped = VecLearnedReward(venv, DistanceRewardModel("position"))
    assert venv.envs[0].unwrapped.__dict__.get("position") is None
    assert wrapped.observation_space is space
    with pytest.raises(RuntimeError, match="Call reset before step"):
        wrapped.step(np.zeros((1, 2), np.float32))


def test_infos_of_the_inner_envs_are_not_edited():
    class SharedInfoEnv(PlaneEnv):
        shared = {"static": 1}  # noqa: RUF012

        def step(self, action) -> Any:
            observation, reward, terminated, truncated, _ = super().step(action)
            return observation, reward, terminated, truncated, self.shared

    venv = DummyVecEnv([SharedInfoEnv])
    wrapped = VecLearnedReward(venv, DistanceRewardModel())
    wrapped.reset()
    _, _, _, infos = wrapped.step(np.zeros((1, 2), np.float32))
    assert infos[0]["reward/model"] == 0
    assert "reward/model" not in venv.buf_infos[0]
    assert SharedInfoEnv.shared.keys() == {"static", "TimeLimit.truncated"}  # the latter by SB3


def test_normaliser_of_sb3_goes_outside():
    inner = VecLearnedReward(DummyVecEnv([make_env()] * 2), DistanceRewardModel())
    outer = VecNormalize(inner, norm_reward=False)
    for _, rewards, _, infos in play(outer, 30)[1:]:
        assert rewards.tolist() == [info["reward/model"] for info in infos]


def test_wrapping_twice_is_refused():
    venv = VecNormalize(VecLearnedReward(DummyVecEnv([make_env()]), DistanceRewardModel()))
    with pytest.raises(ValueError, match="already have a learned reward"):
        VecLearnedReward(venv, DistanceRewardModel())
    inside = make_env(wrap=lambda env: LearnedReward(env, DistanceRewardModel()))
    with pytest.raises(ValueError, match="already have a LearnedReward each"):
        VecLearnedReward(DummyVecEnv([inside]), DistanceRewardModel())


def test_missing_observation_and_wrong_output_are_reported():
    with pytest.raises(ValueError, match="'depth', which is not among the observations: goal, pos"):
        VecLearnedReward(DummyVecEnv([make_env("dict")]), DistanceRewardModel("depth"))

    class ColumnRewardModel(DistanceRewardModel):
        def compute_reward(self, transitions):
            return super().compute_reward(transitions)[:, None]

    venv = VecLearnedReward(DummyVecEnv([make_env()] * 2), ColumnRewardModel())
    venv.reset()
    message = r"Expected rewards of shape \(2,\), got \(2, 1\) from ColumnRewardModel"
    with pytest.raises(ValueError, match=message):
        venv.step(np.zeros((2, 2), np.float32))
