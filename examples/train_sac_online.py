"""Train Stable-Baselines3's SAC on a reward that learns meanwhile, from the returns alone.

    python examples/train_sac_online.py --env-id HalfCheetah-v5 --total-timesteps 150000

The env pays nothing until its episode ends, and then the whole return. Randomized return
decomposition spreads it over the steps: one reward step follows each critic step, and the replay
buffer gives SAC the reward as it is at that moment. Stopped at any time, the same command goes on
from the last checkpoint in --folder.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from libero_reward_envs.agents import (
    RelabelReplayBuffer,
    SaveCheckpoints,
    TrainRewardModel,
    resume_training,
)
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer
from libero_reward_envs.wrappers import EpisodicReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env-id", default="HalfCheetah-v5")
parser.add_argument("--total-timesteps", type=int, default=150_000)
parser.add_argument("--learning-starts", type=int, default=5_000)
parser.add_argument("--save-freq", type=int, default=10_000)
parser.add_argument("--folder", default="sac_online")
arguments = parser.parse_args()

env = EpisodicReward(gym.make(arguments.env_id))
state_size, action_size = (
    gym.spaces.flatdim(space) for space in (env.observation_space, env.action_space)
)
# The published method: returns of some units a step need neither scale nor offset. For LIBERO's
# returns of 0 and 1, fit a reward to recorded episodes first and let that one learn on.
trainer = RRDTrainer(RRDRewardModel({"state": (state_size,)}, action_size, normalize=False))
agent = SAC(
    "MlpPolicy",
    Monitor(env),
    replay_buffer_class=RelabelReplayBuffer,
    replay_buffer_kwargs={"reward_model": trainer.model},
    learning_starts=arguments.learning_starts,
    seed=0,
    device="cpu",
)
done = resume_training(agent, arguments.folder, trainer)
agent.learn(
    arguments.total_timesteps - done,
    reset_num_timesteps=done == 0,
    callback=[
        TrainRewardModel(trainer),
        SaveCheckpoints(arguments.folder, arguments.save_freq, trainer),
    ],
    progress_bar=False,
)
trainer.model.save_pretrained(f"{arguments.folder}/reward")
agent.save(f"{arguments.folder}/agent.zip")

mean, deviation = evaluate_policy(agent, Monitor(gym.make(arguments.env_id)), n_eval_episodes=5)
print(f"{trainer.n_steps} reward steps; true return {mean:.1f} +- {deviation:.1f}")
