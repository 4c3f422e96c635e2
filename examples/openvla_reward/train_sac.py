"""Train SB3's SAC on `LiberoOpenVLA-v0`, whose reward reads OpenVLA's features.

    python examples/openvla_reward/train_sac.py --reward-model reward

The policy sees the features and the state; images and OpenVLA stay inside the environment.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import libero_reward_envs  # noqa: F401  (registers the ids)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--reward-model", default="reward", help="folder that train-rrd wrote")
parser.add_argument("--features", help="OpenVLA checkpoint, if it lies elsewhere now")
parser.add_argument("--total-timesteps", type=int, default=300)
parser.add_argument("--max-episode-steps", type=int, default=120)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

env = Monitor(
    gym.make(
        "LiberoOpenVLA-v0",
        suite="libero_object",
        reward_model=arguments.reward_model,
        features=arguments.features,
        max_episode_steps=arguments.max_episode_steps,
    ),
    info_keywords=("is_success",),
)
agent = SAC(
    "MultiInputPolicy", env, learning_starts=100, buffer_size=20_000, seed=arguments.seed, verbose=1
)
agent.learn(arguments.total_timesteps, progress_bar=False)

# Success is the simulator's own; the learned reward has no part in it.
successes = []
evaluate_policy(
    agent,
    env,
    n_eval_episodes=2,
    callback=lambda state, _: state["done"] and successes.append(state["info"]["is_success"]),
)
print(f"SAC after {arguments.total_timesteps} steps: {sum(successes)} of {len(successes)} solved")
