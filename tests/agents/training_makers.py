"""Small agents, envs and trainers, and what a checkpoint keeps of them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RescaleAction, TimeLimit
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.agents.agent_state import get_agent_state
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.agents.replay_state import get_replay_state
from libero_reward_envs.checkpoints import read_newest_checkpoint
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel
from libero_reward_envs.reward_models.rrd_trainer import RRDTrainer

STEPS = 20
OFF_POLICY: dict[str, Any] = {
    "learning_starts": 30,
    "batch_size": 8,
    "buffer_size": 500,
    "train_freq": 1,
}


def small() -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}  # new: SB3 writes into the inner


class SameStart(gym.Wrapper):
    """Begins every episode in the same state, so that a reset tells nothing new."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=7, options=options)


class AsDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gym.spaces.Dict({"state": space, "copy": space})

    def observation(self, observation):
        return {"state": observation, "copy": observation}


def make_env(steps=STEPS, wrap=lambda env: env):
    env = RescaleAction(gym.make("Pendulum-v1").unwrapped, np.float32(-1), np.float32(1))
    return Monitor(TimeLimit(wrap(env), steps))


def make_trainer(hidden_sizes=(8,)):
    model = RRDRewardModel({"state": (3,)}, 1, hidden_sizes=hidden_sizes, normalize=False)
    return RRDTrainer(model, episodes_per_step=2, steps_per_episode=4)


def make_sac(trainer=None, env=None, seed: int | None = 0, **arguments):
    arguments = {**small(), **OFF_POLICY, **arguments}
    if trainer is not None:
        arguments["replay_buffer_class"] = RelabelReplayBuffer
        arguments["replay_buffer_kwargs"] = {"reward_model": trainer.model}
    policy = "MlpPolicy"
    env = make_env() if env is None else env
    if isinstance(env.observation_space, gym.spaces.Dict):
        policy = "MultiInputPolicy"
    return SAC(policy, env, seed=seed, **arguments)


def states_of(agent, trainer=None):
    """All arrays and values that a checkpoint keeps, but for the global random states."""
    parts = [get_agent_state(agent)]
    if getattr(agent, "replay_buffer", None) is not None:
        parts.append(get_replay_state(agent.replay_buffer))
    if trainer is not None:
        parts.append(trainer.get_state())
    arrays = {f"{i}/{n}": np.array(a) for i, (part, _) in enumerate(parts) for n, a in part.items()}
    return arrays, [values for _, values in parts]


def close_episode(agent):
    """What resuming does to an episode that was running."""
    buffer = getattr(agent, "replay_buffer", None)
    if isinstance(buffer, RelabelReplayBuffer):
        buffer.abandon_episodes()
    elif buffer is not None:
        buffer.timeouts[buffer.pos - 1] = 1 - buffer.dones[buffer.pos - 1]


def assert_same_states(first, second):
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    for name, array in first[0].items():
        assert array.dtype == second[0][name].dtype, name
        np.testing.assert_array_equal(array, second[0][name], err_msg=name)


def newest(folder):
    checkpoint = read_newest_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


def make_agent(algorithm, seed=0):
    if algorithm is PPO:
        env = DummyVecEnv([make_env, make_env])
        return PPO("MlpPolicy", env, n_steps=16, batch_size=8, seed=seed, **small())
    if algorithm is DQN:
        env = Monitor(gym.make("CartPole-v1"))
        return DQN("MlpPolicy", env, seed=seed, target_update_interval=10, **small(), **OFF_POLICY)
    return algorithm("MlpPolicy", make_env(), seed=seed, **small(), **OFF_POLICY)
