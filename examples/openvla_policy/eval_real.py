"""Drive a real robot by an OpenVLA policy, in this process or through a server.

    python examples/openvla_policy/eval_real.py --model_name_or_path FOLDER \\
        --robot_config examples/openvla_policy/agilex_aloha.yaml --instruction "fold the towel"

    libero-reward serve-policy --policy FOLDER --cameras cam_high ... --gripper none  # on the GPU
    python examples/openvla_policy/eval_real.py --server http://127.0.0.1:8000 --robot_config ...

The robot's environment, `module:Class` in its YAML, must be importable: PYTHONPATH=FOLDER. A task's
YAML may hold `name`, `instruction` and `max_steps`. Ctrl-C holds the robot and ends the session.
Writes `episodes.h5` and `summary.json`; ends with status 1 after a fault.
"""

import argparse
import os

import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
from libero_reward_envs.agents.policy_client import PolicyClient
from libero_reward_envs.agents.robot_config import (
    load_robot_config,
    load_task_config,
    make_robot_env,
)
from libero_reward_envs.agents.robot_session import drive_robot

parser = argparse.ArgumentParser(description="Drive a robot by a policy.")
where = parser.add_mutually_exclusive_group(required=True)
where.add_argument("--model_name_or_path", help="checkpoint: a folder or a Hub id")
where.add_argument(
    "--server",
    help="URL of `libero-reward serve-policy`; its token is taken from LIBERO_REWARD_ENVS_TOKEN",
)
parser.add_argument("--robot_config", required=True, help="YAML of the robot")
parser.add_argument("--task_config", help="YAML of the task")
parser.add_argument("--output_dir", default="runs/eval_real", help="new folder for the results")
parser.add_argument("--instruction", help="what to do; wins over the task's")
parser.add_argument("--max_steps", type=int, help="steps of an episode; wins over the task's")
parser.add_argument("--n_episodes", type=int, default=1, help="episodes")
parser.add_argument("--seed", type=int, default=0, help="of the first reset")
parser.add_argument("--unnorm_key", help="data set whose statistics give the actions their unit")
parser.add_argument("--gripper", choices=("libero", "none"), help="by default as training noted")
parser.add_argument("--device", default="auto", help="where to compute")
arguments = parser.parse_args()

robot = load_robot_config(arguments.robot_config)
task = load_task_config(
    arguments.task_config, instruction=arguments.instruction, max_steps=arguments.max_steps
)
if arguments.server:
    token = os.environ.get("LIBERO_REWARD_ENVS_TOKEN")
    policy = PolicyClient(arguments.server, token, timeout_s=60)
else:
    from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy

    policy = OpenVLAPolicy.from_pretrained(
        arguments.model_name_or_path,
        unnorm_key=arguments.unnorm_key,
        image_keys=tuple(robot.cameras),
        orientation=robot.orientation,
        gripper=arguments.gripper,
        device=arguments.device,
    )
env = make_robot_env(robot)
summary = drive_robot(
    env,
    policy,
    robot,
    task,
    arguments.output_dir,
    n_episodes=arguments.n_episodes,
    seed=arguments.seed,
    tell=print,
)
print(
    f"{summary['successes']} of {summary['episodes']} episodes succeeded, {summary['faults']} "
    f"ended in a fault: {arguments.output_dir}"
)
raise SystemExit(bool(summary["faults"]))
