"""The whole demonstration on a tiny budget: it ends in a report, goes on after a stop, resists."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from libero_reward_envs.cli.demo import QUICK_BUDGET, DemoArgs, apply_budget, main
from libero_reward_envs.data import load_episodes

ARGUMENTS = DemoArgs(
    episode_steps=130,
    episodes=4,
    success_fraction=0.5,
    holdout_fraction=0.5,
    rrd_steps=60,
    sac_steps=300,
    eval_episodes=1,
    frames=3,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, _private_cache: None) -> Path:
    """A run that was done once, for all tests here; they copy what they change."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    main(dataclasses.replace(ARGUMENTS, out=folder))
    return folder


@pytest.fixture
def copy_run(finished: Path, tmp_path: Path) -> Callable[[], DemoArgs]:
    def copy() -> DemoArgs:
        shutil.copytree(finished, tmp_path / "run")
        return dataclasses.replace(ARGUMENTS, out=tmp_path / "run")

    return copy


def test_a_run_leaves_every_result(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "episodes.h5", "reward", "reward_quality.json", "sac"}
    assert names >= {"evaluation.json", "pictures", "report.html"}
    assert not [name for name in names if name.endswith((".partial", ".pending"))]
    outcomes = [summary.success for summary in load_episodes(finished / "episodes.h5").summaries()]
    assert sorted(outcomes) == [False, False, True, True]
    quality = json.loads((finished / "reward_quality.json").read_text())
    assert quality["measures"]["n_episodes"] == quality["fitted"]["n_episodes"] == 2
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["expert"]["summary"]["successes"] == 1
    assert {policy["summary"]["errors"] for policy in evaluation.values()} == {0}


def test_policies_are_evaluated_from_the_same_states(finished: Path) -> None:
    evaluation = json.loads((finished / "evaluation.json").read_text())
    starts = [
        [(episode["init_state_id"], episode["seed"]) for episode in policy["episodes"]]
        for policy in evaluation.values()
    ]
    assert starts[0] == starts[1] == starts[2] == [(0, 10_000)]


def test_the_report_shows_pictures_of_exact_replays(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    index = json.loads((finished / "pictures" / "pictures.json").read_text())
    if index["no_pictures"]:
        assert "No pictures and no video" in html
        pytest.skip("no GL backend here")
    assert html.count("<image ") == 6
    assert html.count("<video ") == 2
    assert [entry["name"] for entry in index["episodes"]] == ["success", "failure"]
    assert max(entry["largest_difference"] for entry in index["episodes"]) < 1e-5


def test_a_second_run_makes_only_what_is_missing(copy_run: Callable[[], DemoArgs]) -> None:
    args = copy_run()
    kept = [args.out / name for name in ("episodes.h5", "reward_quality.json", "evaluation.json")]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept]
    shutil.rmtree(args.out / "sac")
    main(args)
    assert (args.out / "sac" / "agent.zip").exists()
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept] == before


def test_a_run_that_was_stopped_while_training_goes_on(copy_run: Callable[[], DemoArgs]) -> None:
    args = copy_run()
    curves = (args.out / "sac" / "curves.csv").read_text()
    (args.out / "sac").rename(args.out / "sac.partial")  # as a kill leaves it
    main(args)
    assert not (args.out / "sac.partial").exists()
    assert (args.out / "sac" / "curves.csv").read_text() == curves  # the same seed, the same run


def test_other_arguments_in_the_same_folder_are_named(copy_run: Callable[[], DemoArgs]) -> None:
    args = copy_run()
    report = (args.out / "report.html").read_bytes()
    with pytest.raises(ValueError, match="sac_steps was 300 and is now 301"):
        main(dataclasses.replace(args, sac_steps=301))
    assert (args.out / "report.html").read_bytes() == report


def test_without_gl_the_report_says_so(copy_run: Callable[[], DemoArgs]) -> None:
    args = copy_run()
    shutil.rmtree(args.out / "pictures")
    program = "import sys; from libero_reward_envs.cli.main import main; main(sys.argv[1:])"
    options = [
        text
        for name, value in dataclasses.asdict(args).items()
        if not isinstance(value, bool)
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    result = subprocess.run(
        [sys.executable, "-c", program, "demo", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "disabled"},
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    html = (args.out / "report.html").read_text()
    assert "No pictures and no video: Expected a working GL backend" in html
    assert "<video" not in html
    assert "Scripted expert" in result.stdout
    assert str(args.out / "report.html") in result.stdout


def test_quick_caps_budgets_and_leaves_smaller_ones() -> None:
    args = apply_budget(DemoArgs(quick=True, sac_steps=50))
    assert args.sac_steps == 50
    assert args.episodes == QUICK_BUDGET["episodes"] < DemoArgs().episodes


@pytest.mark.parametrize("name", ["episodes", "sac_steps", "eval_episodes"])
def test_a_budget_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        apply_budget(dataclasses.replace(DemoArgs(), **{name: 0}))
