"""A whole run: the learned reward reaches the learner, true success stays, stopped runs go on."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from libero_reward_envs.agent_config import TrainAgentConfig, parse_agent_config
from libero_reward_envs.agents import train_agent as program
from libero_reward_envs.agents.agent_making import make_agent
from libero_reward_envs.agents.agent_setup import make_envs, make_plan
from libero_reward_envs.agents.log_rewards import read_rewards
from libero_reward_envs.agents.train_agent import train_agent
from libero_reward_envs.checkpoints import read_newest_checkpoint

LOGIT = 1.0
PROBABILITY = 1 / (1 + np.exp(-LOGIT))
TINY = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}}
AGENTS = {
    "SAC": {"buffer_size": 100, "learning_starts": 8, "batch_size": 4},
    "PPO": {"n_steps": 12, "batch_size": 12, "n_epochs": 1},
}


class Watch(BaseCallback):
    """Keeps the infos of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.infos += [dict(info) for info in self.locals["infos"]]
        return True


@pytest.fixture
def make_config(constant_classifier, square_env_id, tmp_path):
    def make(
        algorithm: str = "SAC", *overrides: str, env: dict[str, Any] | None = None, **settings: Any
    ) -> TrainAgentConfig:
        path = tmp_path / "constant"
        if not path.exists():
            constant_classifier(logit=LOGIT)
        model = {"checkpoint_path": str(path), "reward_type": "continuous", **settings}
        document = {
            "env": {"id": square_env_id, "n_envs": 2, "subprocesses": False, **(env or {})},
            "agent": {
                "algorithm": algorithm,
                "total_timesteps": 48,
                "device": "cpu",
                "policy_kwargs": TINY,
                **AGENTS[algorithm],
            },
            "reward": {"use_reward_model": True, "reward_model": model},
            "evaluation": {"episodes": 2},
            "checkpoints": {"save_freq": 24},
            "out": str(tmp_path / "run"),
        }
        return parse_agent_config(document, overrides)

    return make


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_known_reward_arrives_in_the_learners_batch(make_config, algorithm) -> None:
    made = make_plan(make_config(algorithm, step_cost=0.25, model_weight=2.0))
    venv = make_envs(made)
    agent: Any = make_agent(made.config.agent, venv)
    watch = Watch()
    agent.learn(24, watch)
    expected = 2 * PROBABILITY - 0.25
    if algorithm == "SAC":
        stored = agent.replay_buffer.rewards[:12]
        batch = agent.replay_buffer.sample(32).rewards.numpy()
        assert batch == pytest.approx(expected)
        images = agent.replay_buffer.sample(4).observations["front_image"]
    else:
        stored = agent.rollout_buffer.rewards
        images = next(agent.rollout_buffer.get(4)).observations["front_image"]
    assert stored.shape == (12, 2)
    assert stored == pytest.approx(expected)
    assert images.shape == (4, 3, 40, 40)  # SB3's own transposing
    assert all(info["reward/model"] == pytest.approx(PROBABILITY) for info in watch.infos)
    # True success is the env's: the second of two episodes of six steps, in both envs.
    successes = [index // 2 for index, info in enumerate(watch.infos) if info["is_success"]]
    assert successes == [11, 11]
    assert [info["reward/env"] for info in watch.infos] == [
        float(info["is_success"]) for info in watch.infos
    ]
    assert [info["episode"]["r"] for info in watch.infos if "episode" in info] == [0, 0, 1, 1]
    venv.close()


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_run_leaves_agent_logs_and_evaluation(make_config, algorithm, tmp_path: Path) -> None:
    result = train_agent(make_config(algorithm))
    assert result.timesteps == 48
    assert result.rewards["env"] == 0.5
    assert result.rewards["model"] == pytest.approx(6 * PROBABILITY)
    assert result.success is not None
    assert (result.success.successes, result.success.episodes) == (1, 2)
    run = tmp_path / "run"
    rows = read_rewards(run / "rewards.csv")
    assert rows["success"].tolist() == [0, 0, 1, 1] * 2
    assert rows["model_return"] == pytest.approx(6 * PROBABILITY)
    with open(run / "logs" / "progress.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["reward/env"]) == float(last["rollout/ep_rew_mean"]) == 0.5
    assert float(last["reward/model"]) == pytest.approx(6 * PROBABILITY)
    assert list((run / "logs").glob("events.out.tfevents.*"))
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert [episode["model_return"] for episode in evaluation["episodes"]] == [None, None]
    config = json.loads((run / "config.json").read_text())
    assert config["arguments"]["reward.reward_model.hidden_dim"] == 16
    assert "stable-baselines3" in config["versions"]
    loaded = {"SAC": SAC, "PPO": PPO}[algorithm].load(run / "agent.zip", device="cpu")
    assert loaded.num_timesteps == 48


def test_the_command_gives_sac_the_learned_reward(make_config, tmp_path: Path) -> None:
    train_agent(make_config("SAC"))
    checkpoint = read_newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    rewards = checkpoint.arrays["replay_buffer/rewards"]
    assert rewards.shape == (24, 2)
    assert rewards == pytest.approx(PROBABILITY)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_stopped_run_goes_on_where_it_was(
    make_config, algorithm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(BaseCallback):
        def __init__(self, total: int) -> None:
            super().__init__()

        def _on_step(self) -> bool:
            if self.num_timesteps == 34:
                raise KeyboardInterrupt
            return True

    with monkeypatch.context() as patch:
        patch.setattr(program, "ShowProgress", Stop)
        with pytest.raises(KeyboardInterrupt):
            train_agent(make_config(algorithm), show_progress=True)
    run = tmp_path / "run"
    assert not (run / "agent.zip").exists()
    assert read_rewards(run / "rewards.csv")["step"].tolist() == [12, 12, 24, 24]
    told: list[str] = []
    assert train_agent(make_config(algorithm), tell=told.append).timesteps == 48
    (line,) = [line for line in told if "checkpoint" in line]
    start = int(line.split()[-2])
    assert line == f"Going on from the checkpoint at {start} steps."
    assert start in (24, 26)  # SAC's collection follows a multiple of 24 by up to one step
    steps = read_rewards(run / "rewards.csv")["step"].tolist()
    assert steps == [12, 12, 24, 24, start + 12, start + 12, *[start + 24] * 2][: len(steps)]
    assert (run / "logs" / f"progress_from_{start}.csv").is_file()


def test_a_run_that_is_done_is_not_done_again(make_config, tmp_path: Path) -> None:
    train_agent(make_config())
    agent = tmp_path / "run" / "agent.zip"
    before = agent.stat().st_mtime_ns
    told: list[str] = []
    again = train_agent(make_config(), tell=told.append)
    assert agent.stat().st_mtime_ns == before
    assert again.success is not None
    assert again.timesteps == 48
    assert any("Trained for 48 steps already" in line for line in told)
    longer = train_agent(make_config("SAC", "agent.total_timesteps=72", "evaluation.episodes=0"))
    assert (longer.timesteps, longer.success) == (72, None)
    assert read_rewards(tmp_path / "run" / "rewards.csv")["step"][-1] == 72


def test_another_run_is_not_overwritten_unasked(make_config, tmp_path: Path) -> None:
    train_agent(make_config())
    with pytest.raises(ValueError, match=r"agent\.seed was 0 and is now 1"):
        train_agent(make_config("SAC", "agent.seed=1"))
    assert train_agent(make_config("SAC", "agent.seed=1"), overwrite=True).timesteps == 48


def test_a_retrained_reward_model_makes_another_run(
    make_config, constant_classifier, tmp_path: Path
) -> None:
    train_agent(make_config())
    constant_classifier(logit=-1.0)
    with pytest.raises(ValueError, match="reward_model_sha256 was"):
        train_agent(make_config())


def test_the_written_settings_make_the_same_run(make_config, tmp_path: Path) -> None:
    from libero_reward_envs.agent_config import load_agent_config

    config = make_config()
    train_agent(config)
    again = load_agent_config(tmp_path / "run" / "config.yaml")
    assert train_agent(again).timesteps == 48
    assert make_plan(again).config == make_plan(config).config


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_reward_that_was_never_changed_fails_the_run_after_it_was_saved(
    make_config, constant_classifier, algorithm, tmp_path: Path
) -> None:
    """The classifier sees no success and there is none: the agent sees the env's own zeros."""
    constant_classifier(logit=-5.0)
    config = make_config(algorithm, env={"is_solved": False}, reward_type="binary")
    for _ in range(2):  # the same again, when the training is not done again
        with pytest.raises(RuntimeError, match="changed none of 48 rewards"):
            train_agent(config)
    run = tmp_path / "run"
    assert (run / "agent.zip").is_file()
    assert (run / "curves.png").is_file()
    assert (run / "logs" / "progress.csv").is_file()
    assert len(read_rewards(run / "rewards.csv")["step"]) == 8
    assert "changed none" in json.loads((run / "training.json").read_text())["problem"]
    assert not (run / "evaluation.json").exists()


def test_collection_tells_what_it_saved(make_config, tmp_path: Path) -> None:
    folders = [f"reward.data_collection.{n}_dir={tmp_path / n}" for n in ("positive", "negative")]
    result = train_agent(
        make_config(
            "PPO",
            *folders,
            "reward.use_reward_model=False",
            "reward.collect_data=True",
            "reward.data_collection.image_keys=[front_image]",
            "reward.data_collection.max_positive_trajectories=3",
            "reward.data_collection.max_negative_trajectories=3",
        )
    )
    assert result.counts is not None
    assert (result.counts.positive_saved, result.counts.negative_saved) == (3, 3)
    assert (result.counts.positive_dropped, result.counts.negative_dropped) == (1, 1)
    assert "model" not in result.rewards
    names = [path.name for path in sorted((tmp_path / "positive").iterdir())]
    assert names == ["000000.npy", "000001.npy", "000002.npy"]


def test_seen_success_is_in_the_logs_of_a_run(make_config, tmp_path: Path) -> None:
    result = train_agent(make_config("PPO", mode="success", reward_type="binary"))
    assert result.rewards["false_success_rate"] == 1.0
    assert result.rewards["missed_success_rate"] == 0.0
    assert read_rewards(tmp_path / "run" / "rewards.csv")["predicted_success"].tolist() == [1] * 8
