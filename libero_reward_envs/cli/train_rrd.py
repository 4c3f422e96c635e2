"""Fit an RRD reward to recorded episodes: `libero-reward train-rrd --data FILE --out FOLDER`.

Writes a reward model that `LiberoRRD-v0`, `LearnedReward` and `VecLearnedReward` take:
`config.json`, `model.safetensors` and a card, `README.md`, with how well it tells held-out
successes from failures.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class TrainRRDArgs:
    """Fit an RRD reward to recorded episodes, successes and failures."""

    data: Path
    """File of episodes, as `libero-reward collect` writes it."""
    out: Path
    """Folder for the reward model."""
    test: Path | None = None
    """Further episodes, to judge the finished reward on; they choose nothing."""
    steps: int = 10_000
    """Steps of the optimiser; 4 episodes x 64 steps each."""
    learning_rate: float = 3e-4
    """Of Adam."""
    holdout_fraction: float = 0.2
    """Share of the episodes that are held out, to judge the reward."""
    offset_margin: float = 0.25
    """How far below zero the reward is put, in spreads of the reward: a reward above zero makes an
    agent linger rather than finish. Negative for no offset."""
    seed: int = 0
    """Draws the held-out episodes, the initial weights and the batches."""
    device: str = "cpu"
    """Where the model is fitted."""


def main(args: TrainRRDArgs) -> None:
    """Fit, judge on held-out episodes, save."""
    import numpy as np
    from tqdm import tqdm

    from libero_reward_envs.data import load_episodes
    from libero_reward_envs.evaluation.reward_quality import judge_reward, split_episodes
    from libero_reward_envs.reward_models.rrd import fit_rrd

    dataset = load_episodes(args.data)
    rng = np.random.default_rng(args.seed)
    train, holdout = split_episodes(dataset, args.holdout_fraction, rng)
    print(f"{args.data}: {len(train)} episodes to fit, {len(holdout)} held out.")
    with tqdm(total=args.steps, desc="RRD", unit="step") as bar:

        def show(report: Mapping[str, float]) -> None:
            bar.update(int(report["step"]) - bar.n)
            bar.set_postfix({name: f"{report[name]:.2e}" for name in report if name != "step"})

        model = fit_rrd(
            train,
            n_steps=args.steps,
            learning_rate=args.learning_rate,
            offset_margin=None if args.offset_margin < 0 else args.offset_margin,
            holdout=holdout,
            on_progress=show,
            seed=args.seed,
            device=args.device,
        )
    quality = judge_reward(model, holdout)
    model.training |= {"command": _command(args), "holdout": quality}
    _print_quality(f"{len(holdout)} held-out episodes", quality)
    if args.test is not None:
        tested = judge_reward(model, load_episodes(args.test))
        model.training["test"] = {"data": args.test.name, **tested}
        _print_quality(args.test.name, tested)
    model.save_pretrained(args.out)
    print(f"Reward model: {args.out}")


def _command(args: TrainRRDArgs) -> str:
    """The command that makes this reward again, given the same episodes."""
    options = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if getattr(args, field.name) != field.default
    }
    words = [
        f"--{name.replace('_', '-')} {value.name if isinstance(value, Path) else value}"
        for name, value in options.items()
    ]
    return " ".join(["libero-reward train-rrd", *words])


def _print_quality(title: str, quality: Mapping[str, object]) -> None:
    print(f"{title}:")
    for name, value in quality.items():
        print(f"  {name:32} {value:.3f}" if isinstance(value, float) else f"  {name:32} {value}")
