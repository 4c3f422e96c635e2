"""Evaluations by protocol: folders, rows, resuming, what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from libero_reward_envs.agents.evaluated_agents import EvaluatedAgent, load_agent
from libero_reward_envs.agents.evaluation_plan import EvaluationPlan
from libero_reward_envs.agents.protocol_evaluation import evaluate_by_protocol
from libero_reward_envs.evaluation.episode_rows import read_rows
from libero_reward_envs.evaluation.evaluation_videos import read_actions
from libero_reward_envs.evaluation.protocols import find_protocol
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA

OPENVLA = find_protocol("openvla")
SHORT = dataclasses.replace(OPENVLA, step_limits={"libero_object": 3}, settle_steps=1)
SUITE = "libero_object"


def make_plan(**changes: Any) -> EvaluationPlan:
    plan = EvaluationPlan(OPENVLA, SUITE, ("0",), trials=2, assets="builtin", n_videos=0)
    return dataclasses.replace(plan, **changes)


@pytest.fixture(scope="module")
def expert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of an expert."""
    folder = tmp_path_factory.mktemp("expert") / "run"
    agent = load_agent("expert", SUITE, OPENVLA)
    summary = evaluate_by_protocol(agent, make_plan(n_envs=2), folder)
    assert summary["suite"]["successes"] == summary["suite"]["counted"] == 2
    return folder


def test_an_expert_solves_its_task_under_the_protocol(expert_folder: Path) -> None:
    rows = read_rows(expert_folder / "episodes.jsonl")
    (task,) = {name for name, _ in rows}
    assert [rows[task, trial].result.init_state_id for trial in (0, 1)] == [0, 1]
    assert [rows[task, trial].result.seed for trial in (0, 1)] == [0, 1]
    for row in rows.values():
        assert row.result.success is True
        assert row.result.assets == "builtin"
        assert 50 < row.result.steps < 280
    config = json.loads((expert_folder / "config.json").read_text())
    arguments = config["arguments"]
    assert arguments["protocol.name"] == "openvla"
    assert arguments["assets.name"] == "builtin"
    assert arguments["mujoco"] == config["versions"]["mujoco"]
    assert config["machine"]["n_envs"] == 2
    actions = read_actions(expert_folder / "actions" / "libero_object_00_001.npy")
    assert len(actions) == rows[task, 1].result.steps


def test_what_is_there_is_not_run_again(
    expert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = expert_folder / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    told: list[str] = []
    agent = load_agent("expert", SUITE, OPENVLA)
    evaluate_by_protocol(agent, make_plan(), expert_folder, tell=told.append)
    assert told == ["2 of 2 episodes are there already."]
    assert path.read_text() == "".join(lines)
    # A kill in the middle of the second row: it is run again, and is the same.
    path.write_text(lines[0] + lines[1][:30])
    evaluate_by_protocol(agent, make_plan(), expert_folder, tell=told.append)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    before = [json.loads(line) for line in lines]
    for row in (*again, *before):
        del row["seconds"]
    assert again == before


def test_other_settings_in_a_folder_are_refused_by_name(expert_folder: Path) -> None:
    agent = load_agent("expert", SUITE, OPENVLA)
    with pytest.raises(ValueError, match=r"trials was 2 and is now 3.*--overwrite"):
        evaluate_by_protocol(agent, make_plan(trials=3), expert_folder)
    protocol = dataclasses.replace(OPENVLA, settle_steps=20)
    with pytest.raises(ValueError, match=r"protocol\.settle_steps was 10 and is now 20"):
        evaluate_by_protocol(agent, make_plan(protocol=protocol), expert_folder)
    other = EvaluatedAgent(agent.agent, {"kind": "other"}, agent.env_arguments)
    with pytest.raises(ValueError, match=r"agent\.kind was 'expert'"):
        evaluate_by_protocol(other, make_plan(), expert_folder)


def test_openvla_fails_in_a_batch_and_its_failures_are_drawn(tmp_path: Path) -> None:
    agent = load_agent(TINY_OPENVLA, SUITE, SHORT, device="cpu")
    assert agent.description["unnorm_key"] == SUITE
    plan = make_plan(protocol=SHORT, trials=3, n_envs=2, n_videos=1)
    told: list[str] = []
    summary = evaluate_by_protocol(agent, plan, tmp_path / "run", tell=told.append)
    assert summary["suite"]["successes"] == 0
    assert summary["suite"]["counted"] == 3
    assert summary["suite"]["mean_steps"] == 3
    assert not told
    (video,) = (tmp_path / "run" / "videos").iterdir()
    assert video.name == "libero_object_00_000.mp4"
    assert b"ftyp" in video.read_bytes()[:16]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["arguments"]["agent.checkpoint_fingerprint"]) == 64
    # One environment alone acts the same.
    alone = dataclasses.replace(plan, trials=1, n_envs=1, n_videos=0)
    evaluate_by_protocol(agent, alone, tmp_path / "alone")
    first, second = (
        read_actions(tmp_path / name / "actions" / "libero_object_00_000.npy")
        for name in ("run", "alone")
    )
    assert (first == second).all()


def test_a_camera_that_the_env_lacks_is_an_error(tmp_path: Path) -> None:
    agent = load_agent(TINY_OPENVLA, SUITE, SHORT, device="cpu", image_keys=["side_image"])
    with pytest.raises(ValueError, match=r"got 'side'.*Choose among: .*agentview"):
        evaluate_by_protocol(agent, make_plan(protocol=SHORT), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="`trials` must be at least 1"):
        make_plan(trials=0)
    with pytest.raises(ValueError, match="Did you mean 'libero_object'"):
        make_plan(suite="libero_objects")
