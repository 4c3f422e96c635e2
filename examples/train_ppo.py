"""Train Stable-Baselines3's PPO on a learned reward in eight environments at once.

    python examples/train_ppo.py --total-timesteps 1000000

Each environment runs in a process of its own; the reward model runs once, here, on all eight
transitions. `rollout/ep_rew_mean` is the env's own return, `rollout/success_rate` true success.
"""

import argparse

from stable_baselines3 import PPO

from libero_reward_envs import find_task
from libero_reward_envs.factory import find_pretrained, make_vec_env

if __name__ == "__main__":  # the environments' processes import this file
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=1_000_000)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=256, help="of each env between two updates")
    parser.add_argument("--reward-model", help="folder of a reward model; by default the shipped")
    parser.add_argument("--out", default="ppo_agent.zip")
    arguments = parser.parse_args()

    task = find_task("libero_object", 0)
    venv = make_vec_env(
        f"{task.id}-v0",
        arguments.n_envs,
        seed=0,
        reward_model=arguments.reward_model or find_pretrained("rrd", task),
    )
    rollout_steps = arguments.n_envs * arguments.n_steps
    hyperparameters = {"n_steps": arguments.n_steps, "batch_size": min(256, rollout_steps)}
    agent = PPO("MlpPolicy", venv, seed=0, verbose=1, device="cpu", **hyperparameters)
    agent.learn(arguments.total_timesteps)
    agent.save(arguments.out)
    venv.close()
    print(f"Trained for {agent.num_timesteps} steps, agent: {arguments.out}")
