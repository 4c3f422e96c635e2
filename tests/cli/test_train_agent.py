"""The command as it is typed, on LIBERO: what it prints, how it ends, what Ctrl-C leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from libero_reward_envs.agents.log_rewards import read_rewards
from libero_reward_envs.cli.main import main
from libero_reward_envs.data import load_episodes
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel

REPOSITORY = Path(__file__).parents[2]
TINY = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}}
COLLECT = [
    "reward.collect_data=True",
    "reward.data_collection.positive_dir=./reward_data/positive",
    "reward.data_collection.negative_dir=./reward_data/negative",
    "reward.data_collection.image_keys=[agentview_image]",
]


def save_classifier(path: Path, logit: float) -> None:
    network = BinaryRewardClassifier(
        ["agentview_image"], [3, 40, 40], 16, 2, use_pretrain=False, freeze_encoder=False
    )
    with torch.no_grad():
        last = network.classifier[-1]
        last.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        last.bias.fill_(logit)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    told = {"orientation": "upright"}
    ClassifierRewardModel.from_classifier(network, training=told).save_pretrained(path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a classifier that always sees success, and a configuration."""
    save_classifier(tmp_path / "checkpoints" / "reward_model", logit=2.0)
    document = {
        "env": {"suite": "libero_object", "task": 0, "max_episode_steps": 6, "n_envs": 1},
        "agent": {
            "algorithm": "PPO",
            "total_timesteps": 12,
            "n_steps": 12,
            "batch_size": 6,
            "n_epochs": 1,
            "device": "cpu",
            "policy_kwargs": TINY,
        },
        "reward": {
            "use_reward_model": True,
            "reward_model": {
                "checkpoint_path": "./checkpoints/reward_model",
                "reward_type": "binary",
                "hidden_dim": 256,
            },
        },
        "evaluation": {"episodes": 1},
        "out": "run",
    }
    (tmp_path / "ppo.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fail(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["train-agent", *words])
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_a_run_prints_both_rewards_and_true_success(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train-agent", "--config", "ppo.yaml", "env.task=1", "--out", "elsewhere"])
    printed, told = capsys.readouterr()
    assert "hidden_dim` is 256, the checkpoint './checkpoints/reward_model'" in told
    lines = printed.strip().splitlines()
    assert lines[-2] == "True success: 0/1 (95 % interval 0.00 to 0.79)"
    assert lines[-1] == "Trained for 12 steps: elsewhere"
    values = dict(line.split() for line in lines if line.startswith("  reward/"))
    assert values == {
        "reward/env": "0", "reward/model": "6", "reward/total": "6", "reward/changed_share": "1"
    }  # fmt: skip
    settings = yaml.safe_load((project / "elsewhere" / "config.yaml").read_text())
    assert settings["env"]["cameras"] == ["agentview"]
    assert settings["env"]["image_size"] == 40
    assert not (project / "run").exists()


def test_the_requirements_way_to_name_the_file_works_and_collects(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config-path", str(project), "--config-name", "ppo", *COLLECT]
    main(["train-agent", *words, "reward.use_reward_model=False", "evaluation.episodes=0"])
    printed = capsys.readouterr().out
    assert "Collected: 0 positive and 2 negative trajectories; dropped" in printed
    (file,) = (project / "reward_data" / "negative").iterdir()
    (first, second) = load_episodes(file).summaries()
    assert (first.length, second.length) == (6, 6)
    assert first.metadata["policy"] == "PPO"


def test_a_reward_that_did_nothing_is_exit_status_1_with_the_agent_saved(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_classifier(project / "checkpoints" / "reward_model", logit=-5.0)
    told = fail(capsys, "--config", "ppo.yaml")
    assert "libero-reward train-agent: The reward model changed none of 12 rewards" in told
    assert (project / "run" / "agent.zip").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Expected one configuration: --config FILE"),
        ("--config a.yaml --config-name b", "Expected one configuration"),
        ("--config nowhere.yaml", "No configuration file 'nowhere.yaml'"),
        ("--config ppo.yaml agent.n_stepz=1", "Did you mean 'n_steps'"),
        (
            "--config ppo.yaml reward.reward_model.checkpoint_path=./gone.pt",
            "gone.pt",
        ),
        ("--config ppo.yaml env.image_size=64", "image_size=40, got 64"),
        (
            "--config ppo.yaml reward.use_reward_model=False reward.collect_data=True "
            "reward.data_collection.positive_dir=p reward.data_collection.negative_dir=n "
            "reward.data_collection.image_keys=[base_camera]",
            "it has: agentview_image, robot0_eye_in_hand_image",
        ),
    ],
)
def test_bad_input_is_named_without_a_traceback(
    project: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert message in fail(capsys, *words.split())
    assert not (project / "run" / "agent.zip").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_the_run_goes_on(project: Path) -> None:
    words = [*COLLECT, "env.n_envs=2", "agent.n_steps=6", "checkpoints.save_freq=12"]
    command = [sys.executable, "-c", "from libero_reward_envs.cli.main import main; main()"]
    process = subprocess.Popen(
        [*command, "train-agent", "--config", "ppo.yaml", *words, "agent.total_timesteps=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches the processes of the envs as well
    )
    checkpoints = project / "run" / "checkpoints"
    try:
        limit = time.monotonic() + 240
        while not list(checkpoints.glob("step_*.safetensors")) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert "what was written so far is complete" in told
    assert "Traceback" not in told
    (file,) = (project / "reward_data" / "negative").iterdir()
    assert len(load_episodes(file)) >= 2
    done = max(int(path.stem.split("_")[-1]) for path in checkpoints.iterdir())
    rest = [f"agent.total_timesteps={done + 12}", "evaluation.episodes=0", "env.subprocesses=False"]
    main(["train-agent", "--config", "ppo.yaml", *words, *rest])
    steps = read_rewards(project / "run" / "rewards.csv")["step"]
    assert steps.tolist() == [12 * (1 + index // 2) for index in range(2 * (done + 12) // 12)]
    assert len(list((project / "reward_data" / "negative").iterdir())) == 2
