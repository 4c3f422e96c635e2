"""`examples/openvla_policy/eval_real.py` drives a simulated robot, here and through a server."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy
from libero_reward_envs.agents.policy_server import PolicyServer
from libero_reward_envs.data import load_episodes
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA

REPOSITORY = Path(__file__).parents[1]
TOKEN = "a token of some length"
ROBOT = {
    "env": "two_arm_robot:TwoArmRobot",
    "env_kwargs": {"n_actions": 7, "size": 48},
    "control_freq_hz": 2,
    "cameras": {"high_image": "cam_high", "wrist_image": "cam_left_wrist"},
    "state": "qpos",
    "limits": {"low": [-1.0] * 7, "high": [1.0] * 7, "on_violation": "refuse"},
    "deadline_s": 0.5,
    "max_missed_deadlines": 3,
}


def run(folder: Path, *arguments: str, robot: dict[str, object] = ROBOT) -> tuple[int, str, str]:
    (folder / "robot.yaml").write_text(yaml.safe_dump(robot))
    (folder / "task.yaml").write_text("name: cube\ninstruction: lift the cube\nmax_steps: 50\n")
    result = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "examples/openvla_policy/eval_real.py"),
            *("--robot_config", "robot.yaml", "--task_config", "task.yaml"),
            *("--output_dir", "out", "--max_steps", "4", *arguments),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests/agents")]),
            "OMP_NUM_THREADS": "1",
            "LIBERO_REWARD_ENVS_TOKEN": TOKEN,
        },
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    return result.returncode, result.stdout, result.stderr


def check(folder: Path) -> np.ndarray:
    summary = json.loads((folder / "out/summary.json").read_text())
    assert (summary["episodes"], summary["faults"]) == (1, 0), summary["outcomes"]
    assert summary["task"] == {"name": "cube", "instruction": "lift the cube", "max_steps": 4}
    (episode,) = load_episodes(folder / "out/episodes.h5")
    assert len(episode) == 4
    assert summary["outcomes"][0]["rate_hz"] == pytest.approx(2, rel=0.2)
    assert summary["missed_deadlines"] == 0
    return episode.actions


def test_a_robot_acts_the_same_here_and_through_a_server(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    status, output, errors = run(
        here, "--model_name_or_path", TINY_OPENVLA, "--unnorm_key", "libero_object"
    )
    assert status == 0, errors
    assert output.strip().endswith("0 of 1 episodes succeeded, 0 ended in a fault: out")
    policy = OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, unnorm_key="libero_object", image_keys=tuple(ROBOT["cameras"])
    )
    server = PolicyServer(policy, port=0, token=TOKEN)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        status, _, errors = run(there, "--server", server.url)
    finally:
        server.shutdown()
        server.server_close()
    assert status == 0, errors
    np.testing.assert_allclose(check(here), check(there), atol=1e-5)


def test_a_fault_is_the_exit_status(tmp_path: Path) -> None:
    # The policy's gripper is -1 or 1, and this one goes but half as far.
    limits = {"low": [-1.0] * 6 + [-0.5], "high": [1.0] * 6 + [0.5]}
    status, output, _ = run(
        *(tmp_path, "--model_name_or_path", TINY_OPENVLA, "--unnorm_key", "libero_object"),
        robot={**ROBOT, "limits": limits},
    )
    assert status == 1
    assert "limits (number 6 is" in output
    assert not (tmp_path / "out/episodes.h5").exists()
    outcome = json.loads((tmp_path / "out/summary.json").read_text())["outcomes"][0]
    assert (outcome["reason"], outcome["steps"], outcome["held"]) == ("limits", 0, True)
