"""Stable-Baselines3's agents on rewards that are computed when sampled."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from libero_reward_envs.agents import RelabelReplayBuffer
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import VecLearnedReward


class EffortRewardModel:
    """-|a|^2"""

    def __init__(self, key="state"):
        self.observation_keys = (key,)

    def compute_reward(self, transitions):
        return -np.square(transitions.actions).sum(1)


def key_of(observations):
    return "state" if observations == "box" else "position"


def train(algorithm, env, **options) -> Any:
    arguments = {"learning_starts": 60, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else None
    agent = algorithm(policy or "MlpPolicy", env, seed=0, device="cpu", **arguments, **options)
    return agent.learn(100 * env.num_envs)


@pytest.mark.parametrize(("observations", "n_envs"), [("box", 1), ("dict", 3)])
def test_a_frozen_model_makes_the_same_agent_as_the_vector_wrapper(
    make_plane_env, observations, n_envs
):
    shapes = {"state": (2,)} if observations == "box" else {"position": (2,), "goal": (1,)}
    model = RRDRewardModel(shapes, 2, seed=0)
    rule = {"mode": "mix", "env_weight": 0.3, "model_weight": 0.7, "step_cost": 0.1}
    env = make_plane_env(observations, max_steps=25)
    envs = [DummyVecEnv([env] * n_envs) for _ in range(2)]
    wrapped = train(SAC, VecLearnedReward(envs[0], model, **rule))
    relabelled = train(
        SAC,
        envs[1],
        replay_buffer_class=RelabelReplayBuffer,
        replay_buffer_kwargs={"reward_model": model, **rule},
    )
    buffers = [agent.replay_buffer for agent in (wrapped, relabelled)]
    assert buffers[0].timeouts.any()
    assert (buffers[0].dones > buffers[0].timeouts).any()
    samples = []
    for buffer in buffers:
        np.random.seed(0)  # noqa: NPY002
        samples.append(buffer.sample(500))
    assert torch.equal(samples[0].rewards, samples[1].rewards)
    for name, value in wrapped.policy.state_dict().items():
        assert torch.equal(value, relabelled.policy.state_dict()[name]), name


@pytest.mark.parametrize(
    ("algorithm", "observations", "n_steps"),
    [(SAC, "box", 1), (SAC, "dict", 3), (TD3, "box", 3), (TD3, "dict", 1)],
)
def test_agents_train_on_pendulum(algorithm, observations, n_steps, tmp_path):
    env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    if observations == "dict":
        space = gym.spaces.Dict({"angle": env.observation_space})
        env = gym.wrappers.TransformObservation(env, lambda o: {"angle": o}, space)
    model = EffortRewardModel("state" if observations == "box" else "angle")
    kwargs = {"reward_model": model, "n_steps": n_steps, "gamma": 0.9}
    options = {"replay_buffer_class": RelabelReplayBuffer, "replay_buffer_kwargs": kwargs}
    agent = train(algorithm, DummyVecEnv([lambda: env]), gamma=0.9, buffer_size=300, **options)
    assert agent.replay_buffer.reward_mix.n_rewards >= 40 * 16
    agent.save(tmp_path / "agent")
    file = io.BytesIO()
    agent.save_replay_buffer(file)
    file.seek(0)
    stored = agent.replay_buffer.rewards.copy()
    agent = algorithm.load(tmp_path / "agent", env=agent.env)
    agent.load_replay_buffer(file)
    np.testing.assert_array_equal(agent.replay_buffer.rewards, stored)
    agent.learn(150)
    assert agent.replay_buffer.lengths.tolist() == []  # both runs were cut before 200 steps


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_the_model_sees_raw_observations_under_vec_normalize(make_plane_env, observations):
    seen = []

    class RecordingRewardModel(EffortRewardModel):
        def compute_reward(self, transitions):
            seen.append(transitions)
            return super().compute_reward(transitions)

    key = key_of(observations)
    env = VecNormalize(DummyVecEnv([make_plane_env(observations)] * 2), norm_reward=False)
    kwargs = {"reward_model": RecordingRewardModel(key)}
    options = {"replay_buffer_class": RelabelReplayBuffer, "replay_buffer_kwargs": kwargs}
    agent = train(SAC, env, **options)
    assert len(agent.replay_buffer.lengths) > 10  # no episode was taken for a broken one
    samples = agent.replay_buffer.sample(50, env)
    for side in ("observations", "next_observations"):
        raw, given = getattr(seen[-1], side)[key], getattr(samples, side)
        if observations == "dict":
            raw, given = {key: raw, "goal": np.ones((50, 1), np.float32)}, given[key]
        normalized: Any = env.normalize_obs(raw)
        normalized = normalized[key] if observations == "dict" else normalized
        np.testing.assert_array_equal(given, normalized)
        assert np.abs(normalized - (raw[key] if observations == "dict" else raw)).max() > 0.1
    env.norm_reward = True
    with pytest.raises(ValueError, match="VecNormalize with norm_reward=False"):
        agent.replay_buffer.sample(5, env)


def test_rewards_that_are_already_a_models_are_refused(make_plane_env):
    model = EffortRewardModel()
    env = VecLearnedReward(DummyVecEnv([make_plane_env()]), model)
    kwargs = {"reward_model": model}
    with pytest.raises(ValueError, match="Take one of the two routes"):
        train(SAC, env, replay_buffer_class=RelabelReplayBuffer, replay_buffer_kwargs=kwargs)


def test_wrappers_refuse_what_is_known_too_late(make_plane_env):
    class LateRewardModel(EffortRewardModel):
        def __init__(self):
            super().__init__("episode/return")

    with pytest.raises(ValueError, match=r"'episode/return'.*Use RelabelReplayBuffer"):
        VecLearnedReward(DummyVecEnv([make_plane_env()]), LateRewardModel())
