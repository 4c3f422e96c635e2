"""Train Stable-Baselines3's SAC on a learned reward, and evaluate it by true success.

    python examples/train_sac.py --total-timesteps 100000

The observation is the simulator's state. Pick-and-place is hard for plain SAC: expect no success in
the first 50,000 steps.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import SAC

import libero_reward_envs  # noqa: F401  (registers the ids)
from libero_reward_envs.evaluation.success import evaluate_agent, summarize_results

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--total-timesteps", type=int, default=100_000)
parser.add_argument("--eval-episodes", type=int, default=10)
parser.add_argument("--episode-steps", type=int, default=280)
parser.add_argument("--reward-model", help="folder of a reward model; by default the one shipped")
parser.add_argument("--out", default="sac_agent.zip")
arguments = parser.parse_args()

limit = {"max_episode_steps": arguments.episode_steps}
env = gym.make("LiberoRRD-v0", task=0, reward_model=arguments.reward_model, **limit)
hyperparameters = {"gamma": 0.98, "learning_starts": min(1000, arguments.total_timesteps // 2)}
agent = SAC("MlpPolicy", env, seed=0, verbose=1, **hyperparameters)
agent.learn(arguments.total_timesteps)
agent.save(arguments.out)
env.close()

# Another env without the learned reward: agents are judged by what the task itself says.
test_env = gym.make("Libero-v0", task=0, **limit)
results = evaluate_agent(agent, test_env, arguments.eval_episodes, init_state_ids=range(50))
test_env.close()
rate = summarize_results(results)
print(
    f"True success: {rate.successes}/{rate.episodes} "
    f"(95 % interval {rate.low:.2f} to {rate.high:.2f}), agent: {arguments.out}"
)
