"""Train a reward on recorded episodes, replayed as an environment; no agent is trained.

    python examples/offline_dataset.py --data episodes.h5 --passes 3

`--data` is a file or folder of any format that `load_episodes` reads, with a "state" observation.
Without it scripted experts first collect a small set of successes and failures; only for that does
the simulator run.
"""

import argparse

import gymnasium as gym
import numpy as np

import libero_reward_envs  # noqa: F401  (registers the ids)
from libero_reward_envs.agents import collect_episodes
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import LearnedReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", help="recorded episodes; by default a small set is collected")
parser.add_argument("--episodes", type=int, default=10, help="how many are collected")
parser.add_argument("--passes", type=int, default=3, help="over all episodes")
arguments = parser.parse_args()

path = arguments.data or "offline_episodes.h5"
if arguments.data is None:
    task = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
    collect_episodes(task, arguments.episodes, path)

env = gym.make("LiberoOffline-v0", dataset=path, order="shuffled", observation_keys=["state"])
dataset = env.get_wrapper_attr("dataset")
longest = max(summary.length for summary in dataset.summaries())
print(f"{dataset} of up to {longest} steps, observations {env.observation_space}")

state_size, action_size = map(gym.spaces.flatdim, (env.observation_space, env.action_space))
model = RRDRewardModel({"state": (state_size,)}, action_size)
# Returns are 0 and 1; multiplied so, a success is worth about 1 a step or more.
training = {"trainer_kwargs": {"return_scale": longest, "normalize_from_data": True}}
env = LearnedReward(env, model, online=True, online_kwargs=training)

env.reset(seed=0)
for _ in range(arguments.passes * len(dataset)):
    is_over = False
    while not is_over:
        action = env.action_space.sample()  # any will do
        _, _, terminated, truncated, _ = env.step(action)
        is_over = terminated or truncated
    env.reset()
env.close()

rewards = {True: [], False: []}
for episode in dataset:
    rewards[episode.success].append(model.compute_reward(episode.transitions()).mean())
means = {outcome: np.mean(found) if found else np.nan for outcome, found in rewards.items()}
n_steps = env.get_wrapper_attr("online_training").n_steps
print(
    f"{n_steps} reward steps; learned reward a step: {means[True]:.2f} in "
    f"{len(rewards[True])} successes, {means[False]:.2f} in {len(rewards[False])} failures"
)
