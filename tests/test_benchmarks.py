"""The scripts of the learning benchmarks work: tiny runs, stops, and tables from stored runs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
MUJOCO = BENCHMARKS / "bench_mujoco.py"
PENDULUM = "InvertedDoublePendulum-v5"
ARMS = ("sac_dense", "sac_episodic", "rrd", "rrd_lrd", "ircr")


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, str(MUJOCO), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run(*arguments: object) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]
    return output


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_curve(folder: Path, name: str, returns: list[float]) -> None:
    lines = [f"{1000 * (i + 1)},{value},0.0,10" for i, value in enumerate(returns)]
    (folder / f"{name}.csv").write_text("\n".join(["step,return,return_std,n", *lines]) + "\n")


@pytest.mark.slow
def test_every_arm_runs_and_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    grid = ["--out", tmp_path, "--scale", 0.006, "--only", f"env={PENDULUM},seed=0"]
    run(*grid)
    for arm in ARMS:
        rows = read(tmp_path / f"{PENDULUM}__{arm}__s0.csv")
        assert [int(row["step"]) for row in rows] == list(range(15, 301, 15))
        assert all(float(row["return"]) > 0 and row["n"] == "10" for row in rows)
        about = json.loads((tmp_path / f"{PENDULUM}__{arm}__s0.json").read_text())
        assert (about["arm"], about["seed"]) == (arm, 0)
        assert {"torch", "mujoco", "stable-baselines3"} <= about["versions"].keys()
    (random,) = read(tmp_path / f"{PENDULUM}__random__s0.csv")
    assert random["n"] == "20"
    rows = read(tmp_path / "summary.csv")
    assert [(row["arm"], row["seeds"]) for row in rows] == [(arm, "1 of 3") for arm in ARMS]
    assert not list(tmp_path.glob("*.partial"))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"{PENDULUM}*")}
    assert "step" not in run(*grid)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_a_stopped_grid_leaves_nothing_half_done_and_is_taken_up_again(tmp_path: Path) -> None:
    grid = ["--out", tmp_path, "--scale", 0.012, "--only", f"env={PENDULUM},arm=rrd,seed=0"]
    name = f"{PENDULUM}__rrd__s0"
    process = start(*grid)
    deadline = time.monotonic() + 120
    while not (tmp_path / f"{name}.partial" / "rows.csv").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert f"{name}: stopped" in output
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.partial"]
    assert f"{name}: goes on from step " in run(*grid)
    assert [int(row["step"]) for row in read(tmp_path / f"{name}.csv")] == list(range(30, 601, 30))
    assert not (tmp_path / f"{name}.partial").exists()


def test_the_summary_is_made_from_stored_runs_alone(tmp_path: Path) -> None:
    write_curve(tmp_path, f"{PENDULUM}__random__s0", [50.0])
    for seed, last in enumerate((1040.0, 1050.0, 1060.0)):
        write_curve(tmp_path, f"{PENDULUM}__sac_dense__s{seed}", [0.0, 60.0, last, last, last])
    write_curve(tmp_path, f"{PENDULUM}__rrd__s0", [0.0, 60.0, 849.0, 850.0, 851.0])
    write_curve(tmp_path, f"{PENDULUM}__rrd__s2", [0.0, 60.0, 950.0, 950.0, 950.0])
    run("--out", tmp_path, "--summary")
    rows = {row["arm"]: row for row in read(tmp_path / "summary.csv")}
    assert rows.keys() == {"sac_dense", "rrd"}
    assert (rows["sac_dense"]["seeds"], rows["rrd"]["seeds"]) == ("3 of 3", "2 of 3")
    found = [float(rows["rrd"][name]) for name in ("iqm", "iqm_low", "iqm_high", "recovered")]
    assert found == [900.0, 850.0, 950.0, 0.85]
    assert float(rows["sac_dense"]["recovered"]) == 1.0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_chosen_and_ordered_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from learning_runs import make_grid, select_runs  # pyright: ignore[reportMissingImports]
    from run_log import Run  # pyright: ignore[reportMissingImports]

    grid = make_grid(["A", "B"], ["x", "y", "z"], [0, 1])
    assert grid[:4] == [Run("A", "x", 0), Run("A", "y", 0), Run("A", "z", 0), Run("A", "x", 1)]
    chosen = select_runs(grid, "env=B,arm=x,z,seed=1")
    assert chosen == [Run("B", "x", 1), Run("B", "z", 1)]
    assert Run.from_name(chosen[0].name) == chosen[0]
    with pytest.raises(ValueError, match="No run fits"):
        select_runs(grid, "env=C")
    with pytest.raises(ValueError, match="Expected env="):
        select_runs(grid, "task=A")


def test_a_run_that_ended_early_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from learning_curves import stack_curves  # pyright: ignore[reportMissingImports]

    short = [{"step": 1.0, "success": 0.5}, {"step": 2.0, "success": 1.0}]
    long = [{"step": float(step), "success": 0.0} for step in (1, 2, 3, 4)]
    steps, values = stack_curves([short, long], "success")
    np.testing.assert_array_equal(steps, [1, 2, 3, 4])
    np.testing.assert_array_equal(values, [[0.5, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
