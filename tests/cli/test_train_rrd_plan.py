import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libero_reward_envs.cli.train_rrd_args import (
    MethodArgs,
    PolicyArgs,
    ScheduleArgs,
    TrainRRDArgs,
)
from libero_reward_envs.cli.train_rrd_plan import make_command, make_plan

DATA, OUT = Path("folder/data.h5"), Path("folder/out")
ARGS = TrainRRDArgs(data=DATA, out=OUT)


def plan_schedule(**changes: Any) -> tuple[int, int, int]:
    plan = make_plan(dataclasses.replace(ARGS, schedule=ScheduleArgs(**changes)))
    return plan.n_steps, plan.fit["log_interval"], plan.save_freq


def plan_method(**changes: Any) -> dict[str, Any]:
    return make_plan(dataclasses.replace(ARGS, method=MethodArgs(**changes))).fit


def test_steps_come_from_the_schedule() -> None:
    assert plan_schedule() == (10_000, 100, 1000)
    assert plan_schedule(steps=7) == (7, 1, 1)
    assert plan_schedule(steps=500, save_freq=2) == (500, 5, 2)
    counts = {"epochs": 10, "cycles": 50, "iterations": 100, "train_batches": 50}
    assert plan_schedule(**counts, save_freq=2) == (2_500_000, 5000, 10_000)
    assert plan_schedule(**counts) == (2_500_000, 5000, 10_000)
    assert plan_schedule(epochs=3, train_batches=4) == (12, 4, 1)
    assert plan_schedule(cycles=50_000) == (50_000, 50, 5000)  # at most 1000 points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 10, "cycles": 2}, "--steps and --cycles both say how long"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"train_batches": -1}, "`train_batches` must be at least 1, got -1"),
        ({"save_freq": 0}, "`save_freq` must be at least 1, got 0"),
        ({"cuda": True, "device": "mps"}, "--cuda and --device mps contradict each other"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_schedule(**changes)


def test_batches_are_of_whole_episodes() -> None:
    fit = plan_method()
    assert (fit["episodes_per_step"], fit["steps_per_episode"]) == (4, 64)
    fit = plan_method(rrd_batch_size=100, rrd_sample_size=30)
    assert (fit["episodes_per_step"], fit["steps_per_episode"]) == (3, 30)
    with pytest.warns(UserWarning, match=r"one episode \(32 // 32\).*--rrd-sample-size 8"):
        plan_method(rrd_batch_size=32, rrd_sample_size=32)
    message = r"32 steps \(--rrd-batch-size\) holds no episode of 64 steps \(--rrd-sample-size\)"
    with pytest.raises(ValueError, match=message):
        plan_method(rrd_batch_size=32)
    with pytest.raises(ValueError, match="`rrd_sample_size` must be at least 1, got 0"):
        plan_method(rrd_sample_size=0)


def test_algorithms_are_those_that_fit_something() -> None:
    assert plan_method(alg="RRD", rrd_bias_correction=True)["bias_correction"]
    fit = plan_method(alg="lrd")
    assert (fit["steps_per_episode"], fit["episodes_per_step"]) == (None, 4)
    assert plan_method(offset_margin=-1.0)["offset_margin"] is None
    with pytest.raises(ValueError, match=r"no network to fit.*IRCRRewardModel"):
        plan_method(alg="ircr")
    with pytest.raises(ValueError, match=r"no network to fit.*UniformRewardModel"):
        plan_method(alg="uniform")
    with pytest.raises(ValueError, match=r"Unknown `alg` 'sac'\. Choose one of: rrd, lrd"):
        plan_method(alg="sac")
    with pytest.raises(ValueError, match="no variance to correct"):
        plan_method(alg="lrd", rrd_bias_correction=True)


def test_what_trains_a_policy_is_refused_or_named() -> None:
    with pytest.raises(ValueError, match=r"(?s)No policy is trained.*Stable-Baselines3"):
        make_plan(dataclasses.replace(ARGS, policy=PolicyArgs(rrd_reward_only=False)))
    policy = PolicyArgs("ep_rews", "sac", 32)
    notes = " ".join(make_plan(dataclasses.replace(ARGS, policy=policy)).notes)
    assert "so these change nothing: --basis-alg, --batch-size." in notes
    assert "ep_rews changes nothing" in notes
    assert not make_plan(ARGS).notes


@pytest.mark.parametrize(
    ("flags", "folders"),
    [
        ({"out": OUT}, ("folder/out", "folder/out/checkpoints")),
        ({"out": OUT, "tag": "x"}, ("folder/out", "folder/out/checkpoints")),
        ({"out": OUT, "checkpoint_dir": Path("c")}, ("folder/out", "c")),
        ({"checkpoint_dir": Path("c"), "tag": "x"}, ("c/x", "c/x/checkpoints")),
        ({"checkpoint_dir": Path("c")}, ("c/rrd", "c/rrd/checkpoints")),
    ],
)
def test_folders(flags: dict[str, Any], folders: tuple[str, str]) -> None:
    plan = make_plan(TrainRRDArgs(data=DATA, **flags))
    assert (plan.out.as_posix(), plan.checkpoints.as_posix()) == folders


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data": DATA}, "give --out or --checkpoint-dir"),
        ({"out": OUT}, "one of --data and --libero-dataset-path, got neither"),
        ({"data": DATA, "libero_dataset_path": DATA, "out": OUT}, "got both"),
        ({"data": DATA, "out": OUT, "tag": "a/b"}, "`tag` names a folder"),
        ({"data": DATA, "out": OUT, "tag": ".."}, "`tag` names a folder"),
        ({"data": DATA, "out": OUT, "tag": ""}, "`tag` names a folder"),
    ],
)
def test_paths_that_are_missing_or_too_many(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(TrainRRDArgs(**flags))


def test_the_command_names_what_differs_from_the_defaults_and_no_folder() -> None:
    args = TrainRRDArgs(
        data=Path("a folder/my data.h5"),
        out=OUT,
        save_final=False,
        observation_keys=("state", "image"),
        method=MethodArgs(rrd_bias_correction=True, variance_weight=0.5),
        schedule=ScheduleArgs(steps=5),
    )
    assert make_command(args) == (
        "libero-reward train-rrd --data 'my data.h5' --out out --no-save-final "
        "--observation-keys state image --rrd-bias-correction --variance-weight 0.5 --steps 5"
    )


def test_the_arguments_are_known_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "import libero_reward_envs.cli.train_rrd\n"
        "heavy = {'torch', 'h5py', 'matplotlib', 'scipy', 'tensorboard', 'libero'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
