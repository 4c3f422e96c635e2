"""Stack your own reward model and Gymnasium's wrappers on a LIBERO task.

python examples/compose_wrappers.py --steps 280
"""

import argparse

import gymnasium as gym
import numpy as np

import libero_reward_envs  # noqa: F401  (registers the ids)
from libero_reward_envs.wrappers import LearnedReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=280)
arguments = parser.parse_args()


class ReachRewardModel:
    """Pays getting closer to an object: r_t = d(o_t) - d(o_{t+1}), distances in metres.

    A reward model is anything with these two names. This one has nothing to learn; a fitted one
    looks the same from outside.
    """

    observation_keys = ("state",)  # a state observation that is not a dict goes by this name

    def __init__(self, layout, name):
        parts = {part.name: part.slice for part in layout}
        self.gripper, self.object = parts["robot0_eef_pos"], parts[f"{name}_pos"]

    def compute_reward(self, transitions):
        before, after = transitions.observations["state"], transitions.next_observations["state"]
        distances_m = [
            np.linalg.norm(state[:, self.gripper] - state[:, self.object], axis=1)
            for state in (before, after)
        ]
        return (distances_m[0] - distances_m[1]).astype(np.float32)


env = gym.make("Libero-v0", suite="libero_object", task=0, max_episode_steps=arguments.steps)
# Inside the learned reward, statistics are of the env's own reward; outside, of the learned one.
env = gym.wrappers.RecordEpisodeStatistics(env, stats_key="env_episode")
layout = env.get_wrapper_attr("state_layout")  # which numbers of the state are what
env = LearnedReward(env, ReachRewardModel(layout, "alphabet_soup_1"))
env = gym.wrappers.RecordEpisodeStatistics(env, stats_key="learned_episode")
env = gym.wrappers.TimeAwareObservation(env)

parts = {part.name: part.slice for part in layout}
observation, info = env.reset(seed=0)
is_over = False
while not is_over:
    state = observation[:-1]  # the last number is the time
    gap_m = state[parts["alphabet_soup_1_pos"]] - state[parts["robot0_eef_pos"]]
    action = np.concatenate([np.clip(12 * gap_m, -1, 1), [0, 0, 0, -1]]).astype(np.float32)
    observation, reward, terminated, truncated, info = env.step(action)
    is_over = terminated or truncated
env.close()

learned, own = info["learned_episode"], info["env_episode"]
print(f"{own['l']} steps towards the object: env return {own['r']:.2f}, learned {learned['r']:.3f}")
