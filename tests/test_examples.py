"""Every example runs from its folder's parent as a reader would run it, on a tiny budget."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.reward_models.rrd import RRDRewardModel

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

ARGUMENTS = {
    "make_environment.py": ["--steps", "2", "--picture", "{folder}/scene.png"],
    "compose_wrappers.py": ["--steps", "12"],
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
    assert result.stdout.strip().splitlines()[-1].startswith(LAST_LINES[name])
    if name.startswith("train"):
        assert (tmp_path / "agent.zip").stat().st_size > 10_000
