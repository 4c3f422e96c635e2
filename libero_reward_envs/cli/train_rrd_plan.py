"""What the flags of `libero-reward train-rrd` come to: folders, steps, arguments of `fit_rrd`."""

import dataclasses
import math
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libero_reward_envs.cli.openvla_features import check_openvla_args
from libero_reward_envs.cli.train_rrd_args import (
    DEFAULT_STEPS,
    MethodArgs,
    ScheduleArgs,
    TrainRRDArgs,
)

DEFAULT_TAG = "rrd"
_COUNTS = ("epochs", "cycles", "iterations", "train_batches")
_MAX_REPORTS = 1000  # each judges the held-out episodes once
_NO_FITTING = {
    "uniform": "UniformRewardModel",
    "ircr": "IRCRRewardModel",
}


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What is to be done.

    Args:
        data: The dataset.
        out: Folder of the model and the curves.
        checkpoints: Folder of the checkpoints.
        n_steps: Steps of the optimiser.
        save_freq: Steps between two checkpoints.
        fit: Further keyword arguments of `fit_rrd`.
        notes: What the user should know of flags that change nothing.
    """

    data: Path
    out: Path
    checkpoints: Path
    n_steps: int
    save_freq: int
    fit: dict[str, Any]
    notes: tuple[str, ...]


def make_plan(args: TrainRRDArgs) -> TrainingPlan:
    """Check the flags and put them together.

    Raises:
        ValueError: If a flag, or two together, cannot be followed.
    """
    if not args.policy.rrd_reward_only:
        raise ValueError(
            "No policy is trained here, so --rrd-reward-only must be True. Train one afterwards "
            "with Stable-Baselines3, on `LiberoRRD-v0` with reward_model=OUT or on a wrapper "
            "around your environment; RelabelReplayBuffer and TrainRewardModel let the reward "
            "learn with the policy."
        )
    if (args.data is None) == (args.libero_dataset_path is None):
        came = "neither" if args.data is None else "both"
        raise ValueError(f"Expected one of --data and --libero-dataset-path, got {came}.")
    data = args.data or args.libero_dataset_path
    assert data is not None
    out, checkpoints = _choose_folders(args)
    n_steps, log_interval, save_freq = _count_steps(args.schedule)
    fit = {
        **_choose_method(args.method),
        **_choose_network(args),
        "learning_rate": args.schedule.learning_rate,
        "log_interval": log_interval,
        "seed": args.schedule.seed,
        "device": _choose_device(args.schedule),
    }
    return TrainingPlan(data, out, checkpoints, n_steps, save_freq, fit, tuple(_make_notes(args)))


def make_command(args: TrainRRDArgs) -> str:
    """Return the command that makes this reward again, given the same episodes."""
    words = ["libero-reward", "train-rrd"]
    for name, value in _changed_flags(args):
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *(v.name if isinstance(v, Path) else str(v) for v in values)]
    return shlex.join(words)


def _changed_flags(args: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if dataclasses.is_dataclass(value):
            yield from _changed_flags(value)
        elif value != field.default:
            yield field.name, value


def _choose_folders(args: TrainRRDArgs) -> tuple[Path, Path]:
    tag = DEFAULT_TAG if args.tag is None else args.tag
    if not re.fullmatch(r"[\w.+=-]*\w[\w.+=-]*", tag):
        raise ValueError(
            f"`tag` names a folder, so it must be of letters, digits and . _ - + =, got {tag!r}."
        )
    if args.out is None and args.checkpoint_dir is None:
        raise ValueError("Expected a folder for the reward model: give --out or --checkpoint-dir.")
    if args.out is None:
        assert args.checkpoint_dir is not None
        out = args.checkpoint_dir / tag
        return out, out / "checkpoints"
    return args.out, args.checkpoint_dir or args.out / "checkpoints"


def _count_steps(schedule: ScheduleArgs) -> tuple[int, int, int]:
    """Return the steps in all, between two points of the curves, between two checkpoints."""
    counts = {name: getattr(schedule, name) for name in _COUNTS}
    given = {name: count for name, count in counts.items() if count is not None}
    flags = {"steps": schedule.steps, "save_freq": schedule.save_freq, **given}
    for name, count in flags.items():
        if count is not None and count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}.")
    if given and schedule.steps is not None:
        raise ValueError(
            f"--steps and {', '.join(f'--{name}' for name in given)} both say how long to train. "
            "Leave one out."
        )
    cycle = given.get("iterations", 1) * given.get("train_batches", 1)
    unit = cycle if given else 1
    n_steps = math.prod(given.values()) if given else schedule.steps or DEFAULT_STEPS
    interval = max(cycle, math.ceil(n_steps / _MAX_REPORTS)) if given else max(1, n_steps // 100)
    if schedule.save_freq is None:
        return n_steps, interval, max(1, min(DEFAULT_STEPS, n_steps // 10))
    return n_steps, interval, unit * schedule.save_freq


def _choose_method(method: MethodArgs) -> dict[str, Any]:
    alg = method.alg.lower()
    if alg in _NO_FITTING:
        raise ValueError(
            f"{method.alg!r} has no network to fit: its reward follows from the returns alone. Use "
            f"libero_reward_envs.reward_models.redistribution.{_NO_FITTING[alg]} as it is, or "
            "fit with --alg rrd or lrd."
        )
    if alg not in ("rrd", "lrd"):
        raise ValueError(f"Unknown `alg` {method.alg!r}. Choose one of: rrd, lrd.")
    if alg == "lrd" and (method.rrd_bias_correction or method.variance_weight != "paper"):
        raise ValueError(
            "--alg lrd takes all steps of an episode, which leaves no variance to correct or to "
            "weigh. Use --alg rrd with --rrd-bias-correction or --variance-weight."
        )
    return {
        "episodes_per_step": _count_episodes(method, alg),
        "steps_per_episode": None if alg == "lrd" else method.rrd_sample_size,
        "bias_correction": method.rrd_bias_correction,
        "variance_weight": method.variance_weight,
        "scale": method.scale,
        "episode_sampling": method.episode_sampling,
        "return_scale": method.return_scale,
        "offset_margin": None if method.offset_margin < 0 else method.offset_margin,
    }


def _choose_network(args: TrainRRDArgs) -> dict[str, Any]:
    """Return what the network reads, and which one it is."""
    check_openvla_args(args.openvla)
    if not args.openvla.use_openvla_features:
        if args.openvla_image_keys != TrainRRDArgs.openvla_image_keys:
            raise ValueError(
                "--openvla-image-keys would change nothing without --use-openvla-features. Give "
                "that too, or leave it out."
            )
        return {"observation_keys": args.observation_keys}
    if args.observation_keys != TrainRRDArgs.observation_keys:
        raise ValueError(
            "With --use-openvla-features the reward reads features alone, of the images that "
            "--openvla-image-keys names. Leave --observation-keys out."
        )
    from libero_reward_envs.reward_models.openvla_reward_net import LANGUAGE_KEY, VISION_KEY

    return {
        "observation_keys": (LANGUAGE_KEY, VISION_KEY),
        "architecture": "openvla",
        "hidden_sizes": args.openvla.hidden_sizes,
    }


def _count_episodes(method: MethodArgs, alg: str) -> int:
    batch, sample = method.rrd_batch_size, method.rrd_sample_size
    for name, size in (("rrd_batch_size", batch), ("rrd_sample_size", sample)):
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1, got {size}.")
    n_episodes = batch // sample
    if n_episodes == 0:
        raise ValueError(
            f"A batch of {batch} steps (--rrd-batch-size) holds no episode of {sample} steps "
            f"(--rrd-sample-size). Raise the first to {sample} or more, or lower the second."
        )
    if n_episodes == 1:
        warnings.warn(
            f"Each batch holds one episode ({batch} // {sample}), so gradients are very noisy. "
            f"The authors take 4: --rrd-batch-size {4 * sample}"
            + ("." if alg == "lrd" else f", or --rrd-sample-size {max(1, batch // 4)}."),
            stacklevel=2,
        )
    return n_episodes


def _choose_device(schedule: ScheduleArgs) -> str:
    import torch

    device = "cuda" if schedule.cuda and schedule.device == "cpu" else schedule.device
    if schedule.cuda and not device.startswith("cuda"):
        raise ValueError(f"--cuda and --device {device} contradict each other. Leave one out.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        flag = "--cuda" if schedule.cuda else f"--device {device}"
        raise ValueError(
            f"Expected a CUDA device for {flag}, torch {torch.__version__} finds none. Leave "
            f"{flag} out to train on the CPU."
        )
    return device


def _make_notes(args: TrainRRDArgs) -> Iterator[str]:
    unused = [
        f"--{name.replace('_', '-')}"
        for name in ("basis_alg", "batch_size")
        if getattr(args.policy, name) is not None
    ]
    if unused:
        yield f"No policy is trained, so these change nothing: {', '.join(unused)}."
    if args.policy.env_type == "ep_rews":
        yield "--env-type ep_rews changes nothing: only the sum of an episode's rewards is used."
