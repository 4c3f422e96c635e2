"""The command as it is typed: the requirement's flags, stopping and going on, bad input."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from libero_reward_envs.checkpoints import read_newest_checkpoint
from libero_reward_envs.cli.main import main
from libero_reward_envs.data import load_episodes
from libero_reward_envs.reward_models.base import load_reward_model

WriteEpisodes = Callable[..., Path]
RLDS_SET = Path(__file__).parents[1] / "data" / "rlds" / "liber_o10"

# The command of the requirement, as it stands there.
COMMAND = """
python scripts/train.py     --env libero-10     --env_type normal     --alg rrd \
    --basis_alg sac     --rrd_reward_only True     --tag pretrain_RRD_Libero10 \
    --libero_dataset_path DATASET     --libero_image_size 256     --cuda     --epochs 10 \
    --cycles 50     --iterations 100     --train_batches 50     --batch_size 32 \
    --rrd_batch_size 32     --rrd_sample_size 32     --save_freq 2 \
    --checkpoint_dir log/checkpoints     --save_final True
"""
SHORTER = {"--epochs": "2", "--cycles": "3", "--iterations": "5", "--train_batches": "2"}


def words_of_the_requirement(dataset: Path, *, cuda: bool) -> list[str]:
    words = shlex.split(COMMAND.replace("DATASET", shlex.quote(str(dataset))))[2:]
    for flag, value in SHORTER.items():
        words[words.index(flag) + 1] = value
    return [word for word in words if cuda or word != "--cuda"]


def run(data: Path, out: Path, *words: str) -> None:
    main(["train-rrd", "--data", str(data), "--out", str(out), *words])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_requirements_command_trains_a_reward(
    write_episodes: WriteEpisodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_episodes(tasks=("libero_10/a", "libero_90/b", "libero_10/c"), n_episodes=24)
    monkeypatch.chdir(tmp_path)
    main(["train-rrd", *words_of_the_requirement(data, cuda=False)])
    out = tmp_path / "log" / "checkpoints" / "pretrain_RRD_Libero10"
    printed = capsys.readouterr()
    assert "12 episodes to fit, 4 held out; 60 steps, episodes in each: 1." in printed.out
    assert "so these change nothing: --basis-alg, --batch-size." in printed.out
    assert "--libero-image-size changes nothing" in printed.out
    assert "one episode (32 // 32)" in printed.err
    assert "60/60" in printed.err  # the progress bar
    model = load_reward_model(out)
    episode = load_episodes(data)[0]
    assert np.isfinite(model.compute_reward(episode.transitions())).all()
    training = json.loads((out / "config.json").read_text())["training"]
    assert training["tag"] == "pretrain_RRD_Libero10"
    assert training["tasks"] == ["libero_10/a", "libero_10/c"]
    assert (training["n_steps"], training["steps_per_episode"]) == (60, 32)
    assert [report["step"] for report in training["history"]] == [10, 20, 30, 40, 50, 60]
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["step_000000040.safetensors", "step_000000060.safetensors"]


def test_the_requirements_command_reads_the_sets_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "modified_libero_rlds"  # a folder of suites, as it is published
    shutil.copytree(RLDS_SET, data / "libero_10_no_noops")
    monkeypatch.chdir(tmp_path)
    main(["train-rrd", *words_of_the_requirement(data, cuda=False)])
    printed = capsys.readouterr()
    assert "3 episodes to fit, 1 held out; 60 steps" in printed.out
    model = load_reward_model(tmp_path / "log" / "checkpoints" / "pretrain_RRD_Libero10")
    dataset = load_episodes(data)
    assert {summary.task.split("/")[0] for summary in dataset.summaries()} == {"libero_10"}
    assert np.isfinite(model.compute_reward(dataset[0].transitions())).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here, so --cuda is no error")
def test_cuda_where_there_is_none_says_to_leave_it_out(
    write_episodes: WriteEpisodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train-rrd", *words_of_the_requirement(write_episodes(), cuda=True)])
    assert stopped.value.code == 1
    assert "Leave --cuda out to train on the CPU" in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_used_where_there_is_some(write_episodes: WriteEpisodes, tmp_path: Path) -> None:
    run(write_episodes(), tmp_path / "out", "--steps", "5", "--cuda")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_curves_agree_with_the_history_of_the_model(
    write_episodes: WriteEpisodes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(write_episodes(), out, "--steps", "200", "--save-freq", "60", "--rrd-bias-correction")
    history = load_reward_model(out).training["history"]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(history) == 100
    curves = read_csv(out / "curves.csv")
    assert [{name: float(value) for name, value in row.items()} for row in curves] == [
        {name: report[name] for name in row} for row, report in zip(curves, history, strict=True)
    ]
    cumulative = read_csv(out / "cumulative_reward.csv")
    assert [(int(row["step"]), float(row["mean"]), float(row["std"])) for row in cumulative] == [
        (r["step"], r["cumulative_reward_mean"], r["cumulative_reward_std"]) for r in history
    ]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def start(data: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    code = "import sys; from libero_reward_envs.cli.main import main; main(sys.argv[1:])"
    arguments = ["train-rrd", "--data", str(data), "--out", str(out), *words]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_goes_on_to_the_same_end(
    kind: signal.Signals,
    write_episodes: WriteEpisodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = write_episodes(), tmp_path / "stopped"
    words = ["--steps=600", "--save-freq=20", "--rrd-batch-size=16", "--rrd-sample-size=4"]
    process = start(data, out, *words)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step_*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL), errors
    if kind == signal.SIGINT:
        assert "Newest checkpoint" in errors
        assert "The same command goes on from there" in errors
    checkpoint = read_newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert 0 < checkpoint.step < 600
    run(data, out, *words)
    assert f"Resuming at step {checkpoint.step} of 600." in capsys.readouterr().out
    run(data, tmp_path / "unbroken", *words)
    same = ["model.safetensors", "curves.csv", "cumulative_reward.csv"]
    for name in same:
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
    events = EventAccumulator(str(out / "tensorboard" / "rrd")).Reload()
    steps = [event.step for event in events.Scalars("holdout/loss")]
    assert steps == list(range(6, 601, 6))
    assert len(list((out / "tensorboard" / "rrd").iterdir())) == 1


def test_a_finished_training_is_not_done_again(
    write_episodes: WriteEpisodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_episodes(), tmp_path / "out"
    run(data, out, "--steps", "30")
    names = ("model.safetensors", "curves.csv", "cumulative_reward.csv", "config.json")
    before = {name: (out / name).read_bytes() for name in names}
    capsys.readouterr()
    run(data, out, "--steps", "30")
    assert "is finished: step 30" in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in names} == before
    run(data, out, "--steps", "40")  # and may be made longer
    assert "Resuming at step 30 of 40." in capsys.readouterr().out
    assert int(read_csv(out / "curves.csv")[-1]["step"]) == 40


def test_the_command_on_the_card_makes_the_same_model_again(
    write_episodes: WriteEpisodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_episodes()
    words = "--env=LIBERO-10 --alg rrd --rrd_sample_size 32 --variance_weight 0.01 --seed 3"
    words += " --epochs 4 --train-batches 5 --tag mine --episode-sampling uniform --test"
    run(data, tmp_path / "first", *words.split(), str(write_episodes("test.h5", seed=1)))
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    command = config["training"]["command"]
    assert str(tmp_path) not in command
    assert config["training"]["test"]["data"] == "test.h5"
    (tmp_path / "first").rename(tmp_path / "earlier")
    main(shlex.split(command)[1:])
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("earlier", "first")
    )
    assert first == second


def test_without_save_final_the_quality_is_printed_and_no_model_is_written(
    write_episodes: WriteEpisodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_episodes(), tmp_path / "out", "--steps", "4", "--save_final", "False")
    assert "matched_auroc" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "checkpoints", "cumulative_reward.csv", "curves.csv", "curves.png", "tensorboard"
    }  # fmt: skip


def test_returns_that_do_not_vary_are_explained(
    write_episodes: WriteEpisodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_episodes(only_successes=True), tmp_path / "out", "--steps", "4")
    assert "nothing about the task can be learned" in capsys.readouterr().err


def test_episodes_of_one_step_are_learned_from(
    write_episodes: WriteEpisodes, tmp_path: Path
) -> None:
    run(write_episodes(lengths=(1,)), tmp_path / "out", "--steps", "4", "--rrd-bias-correction")
    run(write_episodes("more.h5", lengths=(1, 4)), tmp_path / "lrd", "--steps=4", "--alg=lrd")
    assert (tmp_path / "lrd" / "model.safetensors").exists()


def fails(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(data, out, *words)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_a_damaged_file_is_named(
    write_episodes: WriteEpisodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_episodes()
    with h5py.File(data, "r+") as file:
        states = file["data/demo_3/obs/state"]
        assert isinstance(states, h5py.Dataset)
        states[2, 1] = np.nan
    message = fails(capsys, data, tmp_path / "out", "--steps", "4")
    assert f"Cannot read '{data}': Expected finite numbers in `observations['state']`" in message
    os.truncate(data, data.stat().st_size // 2)
    assert f"Cannot read '{data}'" in fails(capsys, data, tmp_path / "out", "--steps", "4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"size": 4}, (), "differs in observation_shapes: {'state': [3]}, now {'state': [4]}"),
        ({"n_episodes": 10}, (), "differs in episodes. Continue"),
        ({}, ("--learning-rate", "0.1"), "differs in learning_rate: 0.0003, now 0.1"),
        ({}, ("--steps", "10"), "is of step 20, this training ends at 10"),
    ],
)
def test_another_trainings_checkpoint_is_refused_and_nothing_is_lost(
    changes: dict[str, int],
    words: tuple[str, ...],
    message: str,
    write_episodes: WriteEpisodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    run(write_episodes(), out, "--steps", "20")
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = write_episodes("other.h5", **changes)
    assert message in fails(capsys, other, out, *(words or ("--steps", "30")))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    write_episodes: WriteEpisodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_episodes(), tmp_path / "out"
    run(data, out, "--steps", "20", "--save-freq", "10")
    model = (out / "model.safetensors").read_bytes()
    shutil.rmtree(out / "tensorboard")
    os.truncate(out / "checkpoints" / "step_000000020.safetensors", 1000)
    capsys.readouterr()
    run(data, out, "--steps", "20", "--save-freq", "10")
    printed = capsys.readouterr()
    assert "Resuming at step 10 of 20." in printed.out
    assert printed.err.count("is damaged and is skipped") == 1
    assert (out / "model.safetensors").read_bytes() == model
