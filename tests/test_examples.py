"""Every example runs from its folder's parent as a reader would run it, on a tiny budget."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libero_reward_envs.agent_config import load_agent_config
from libero_reward_envs.agents.agent_setup import make_plan
from libero_reward_envs.agents.log_rewards import read_rewards
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.rrd import RRDRewardModel

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

ARGUMENTS = {
    "make_environment.py": ["--steps", "2", "--picture", "{folder}/scene.png"],
    "compose_wrappers.py": ["--steps", "12"],
    "offline_dataset.py": ["--episodes", "4", "--passes", "1"],
    "train_sac.py": [
        *("--total-timesteps", "60", "--eval-episodes", "1", "--episode-steps", "20"),
        *("--reward-model", "{folder}/reward", "--out", "{folder}/agent.zip"),
    ],
    "train_sac_online.py": [
        *("--env-id", "InvertedDoublePendulum-v5", "--total-timesteps", "120"),
        *("--learning-starts", "60", "--save-freq", "50", "--folder", "{folder}"),
    ],
    "train_ppo.py": [
        *("--total-timesteps", "32", "--n-envs", "2", "--n-steps", "16"),
        *("--reward-model", "{folder}/reward", "--out", "{folder}/agent.zip"),
    ],
}
LAST_LINES = {
    "make_environment.py": "Picture: ",
    "compose_wrappers.py": "12 steps towards the object: env return 0.00, learned 0.",
    "offline_dataset.py": " in 2 successes, ",
    "train_sac.py": "True success: 0/1 (95 % interval 0.00 to 0.79)",
    "train_sac_online.py": "60 reward steps; true return ",
    "train_ppo.py": "Trained for 32 steps",
}


def test_every_example_is_tried() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} <= ARGUMENTS.keys()


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_example_runs_and_ends_with_its_result(
    name: str, tmp_path: Path, make_env: Callable[..., LiberoEnv]
) -> None:
    state_shape = make_env().observation_space.shape
    assert state_shape is not None
    RRDRewardModel({"state": state_shape}, 7, reward_offset=3.0).save_pretrained(
        tmp_path / "reward"
    )
    arguments = [text.format(folder=tmp_path) for text in ARGUMENTS[name]]
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert LAST_LINES[name] in result.stdout.strip().splitlines()[-1]
    if name.startswith("train"):
        assert (tmp_path / "agent.zip").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["collect", "train_ppo", "train_sac"])
def test_the_classifier_examples_fit_the_envs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = BinaryRewardClassifier(
        ["agentview_image"], [3, 64, 64], 16, 2, use_pretrain=False, freeze_encoder=False
    )
    last: Any = network.classifier[-1]
    last.bias.data.fill_(1.0)
    folder = tmp_path / "checkpoints" / "reward_model"
    told = {"orientation": "upright"}
    ClassifierRewardModel.from_classifier(network, training=told).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load_agent_config(EXAMPLES / "classifier" / f"{name}.yaml"))
    env = plan.config.env.arguments
    assert (env["cameras"], env["image_size"]) == (["agentview"], 64)
    assert (plan.reward_model is None) == (name == "collect")


def run_script(name: str, folder: Path, sizes: dict[str, str]) -> str:
    """Run an example of several commands as it stands, and return what it prints."""
    command = folder / "bin" / "libero-reward"
    command.parent.mkdir()
    code = "from libero_reward_envs.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    command.chmod(0o755)
    variables = {
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["bash", str(EXAMPLES / name / "run_all.sh"), str(folder / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, **sizes, **variables},
        timeout=3000,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_the_example_on_openvla_features_goes_from_episodes_to_an_agent(tmp_path: Path) -> None:
    sizes = {"SIZE": "40", "EPISODES": "4", "REWARD_STEPS": "30", "STEPS": "40"}
    output = run_script("openvla_reward", tmp_path, sizes)
    assert output.splitlines()[-1] == "SAC after 40 steps: 0 of 2 solved"
    assert "random weights" in output


@pytest.mark.slow
def test_the_classifier_example_runs_through_all_stages(tmp_path: Path) -> None:
    sizes = {"SIZE": "40", "EPISODES": "6", "EPOCHS": "1", "STEPS": "120"}
    output = run_script("classifier", tmp_path, sizes)
    assert "Trained for" in output.splitlines()[-1]
    for name in ("ppo", "sac"):
        run = tmp_path / "run" / "runs" / name
        rows = read_rewards(run / "rewards.csv")
        assert (rows["changed_steps"] > 0).all()
        assert json.loads((run / "evaluation.json").read_text())["summary"]["episodes"] == 2
