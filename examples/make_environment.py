"""Make a LIBERO task as a Gymnasium environment, look at its observation, save a picture.

python examples/make_environment.py --picture scene.png
"""

import argparse

import gymnasium as gym
import numpy as np
from PIL import Image

import libero_reward_envs
from libero_reward_envs.envs.rendering import prepare_gl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--task", default="libero_object/pick_up_the_milk_and_place_it_in_the_basket")
parser.add_argument("--picture", default="scene.png")
parser.add_argument("--steps", type=int, default=20)
arguments = parser.parse_args()

print(f"{len(libero_reward_envs.all_tasks())} tasks in {', '.join(libero_reward_envs.SUITES)}")

# Without a GL backend the state can be observed all the same, but nothing can be drawn.
render_mode = "rgb_array" if prepare_gl() else None
env = gym.make(f"{arguments.task}-v0", render_mode=render_mode)
observation, info = env.reset(seed=0)

print(f"Instruction: {info['instruction']}")
print(f"Actions: {env.action_space}")
print("State observation:")
for part in env.get_wrapper_attr("state_layout"):
    print(f"  {part.start:3} {part.name:35} {observation[part.slice].round(3)}")

env.action_space.seed(0)
for _ in range(arguments.steps):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

if render_mode is not None:
    Image.fromarray(np.asarray(env.render())).save(arguments.picture)
env.close()
print(f"Picture: {arguments.picture if render_mode else 'none, there is no GL backend'}")
