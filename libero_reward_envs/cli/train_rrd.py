"""Fit an RRD reward to recorded episodes: `libero-reward train-rrd --data FILE --out FOLDER`.

Writes a reward model that `LiberoRRD-v0`, `LearnedReward` and `VecLearnedReward` take:
`config.json`, `model.safetensors` and a card, `README.md`, with how well it tells held-out
successes from failures. Beside it lie the curves of the training and its checkpoints, from which
the same command goes on after a stop.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libero_reward_envs.cli.train_rrd_args import TrainRRDArgs

if TYPE_CHECKING:
    from libero_reward_envs.checkpoints import Checkpoint
    from libero_reward_envs.cli.train_rrd_plan import TrainingPlan
    from libero_reward_envs.data.episodes import EpisodeDataset
    from libero_reward_envs.reward_models.rrd import RRDRewardModel

__all__ = ["TrainRRDArgs", "main"]


def main(args: TrainRRDArgs) -> None:
    """Fit, judge on held-out episodes, save."""
    import numpy as np

    from libero_reward_envs.cli import train_rrd_data
    from libero_reward_envs.cli.train_rrd_plan import DEFAULT_TAG, make_command, make_plan
    from libero_reward_envs.evaluation.reward_quality import judge_reward, split_episodes

    plan = make_plan(args)
    print(*plan.notes, sep="\n", end="\n" if plan.notes else "")
    dataset = train_rrd_data.read_dataset(plan.data, args.env)
    if args.libero_image_size is not None:
        uses_features = args.openvla.use_openvla_features
        images = args.openvla_image_keys if uses_features else args.observation_keys
        train_rrd_data.check_image_size(dataset, images, args.libero_image_size)
    encode, record = _choose_features(args, dataset)
    rng = np.random.default_rng(args.schedule.seed)
    train, holdout = split_episodes(encode(dataset, plan.data), args.holdout_fraction, rng)
    test = None
    if args.test is not None:
        test = encode(train_rrd_data.read_dataset(args.test, args.env), args.test)
        keys = plan.fit["observation_keys"]
        train_rrd_data.check_test_episodes(train, test, keys, str(args.test))
    print(
        f"{plan.data}: {len(train)} episodes to fit, {len(holdout)} held out; "
        f"{plan.n_steps} steps, episodes in each: {plan.fit['episodes_per_step']}."
    )
    model = _fit(plan, args.tag or DEFAULT_TAG, train, holdout)
    quality = judge_reward(model, holdout)
    model.training |= {"command": make_command(args), "tag": args.tag, "holdout": quality}
    model.training |= record
    _print_quality(f"{len(holdout)} held-out episodes", quality)
    if args.test is not None and test is not None:
        tested = judge_reward(model, test)
        model.training["test"] = {"data": args.test.name, **tested}
        _print_quality(args.test.name, tested)
    print(f"Curves: {plan.out}")
    if args.save_final:
        model.save_pretrained(plan.out)
        print(f"Reward model: {plan.out}")
    else:
        print(
            f"No reward model is written, as --no-save-final says. Checkpoints: {plan.checkpoints}"
        )


def _choose_features(
    args: TrainRRDArgs, dataset: "EpisodeDataset"
) -> tuple["Callable[[EpisodeDataset, Path], EpisodeDataset]", dict[str, Any]]:
    """Return what adds features to episodes, and what is to be stored of them."""
    if not args.openvla.use_openvla_features:
        return lambda episodes, _: episodes, {}
    from libero_reward_envs.cli.openvla_features import encode_with_cache, load_encoders
    from libero_reward_envs.encoders.openvla_record import RECORD_KEY, describe_openvla_features

    assert args.openvla.openvla_model is not None
    encoders = load_encoders(args.openvla, dataset, args.openvla_image_keys)
    record = describe_openvla_features(args.openvla.openvla_model, encoders, dataset)
    return lambda episodes, path: encode_with_cache(episodes, path, encoders, args.openvla), {
        RECORD_KEY: record
    }


def _fit(
    plan: "TrainingPlan", name: str, train: "EpisodeDataset", holdout: "EpisodeDataset"
) -> "RRDRewardModel":
    """Train with a progress bar and curves, from the newest checkpoint on."""
    import numpy as np
    from tqdm import tqdm

    from libero_reward_envs.evaluation.training_logs import RewardTrainingLog
    from libero_reward_envs.reward_models.rrd import fit_rrd

    checkpoint = _read_checkpoint(plan)
    first_step, history = 0, []
    if checkpoint is not None:
        first_step, history = checkpoint.step, checkpoint.values["run"]["history"]
    true_return = float(np.mean([summary.episode_return for summary in holdout.summaries()]))
    log = RewardTrainingLog(plan.out, name, history, true_return=true_return)
    with tqdm(total=plan.n_steps, initial=first_step, desc="RRD", unit="step") as bar:

        def show(report: Mapping[str, float]) -> None:
            bar.set_postfix(_shorten(report), refresh=False)
            bar.update(int(report["step"]) - bar.n)
            log.add(report)

        try:
            model = fit_rrd(
                train,
                n_steps=plan.n_steps,
                holdout=holdout,
                on_progress=show,
                checkpoint_folder=plan.checkpoints,
                save_freq=plan.save_freq,
                **plan.fit,
            )
            log.finish()
        except KeyboardInterrupt:
            _say_how_to_go_on(plan)
            raise
        finally:
            log.close()
    return model


def _read_checkpoint(plan: "TrainingPlan") -> "Checkpoint | None":
    """Return the newest checkpoint, if any, and say what becomes of it.

    Raises:
        ValueError: If it is no reward training's, or of a longer one.
    """
    from libero_reward_envs.checkpoints import read_newest_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `fit_rrd` reads it again and warns
        checkpoint = read_newest_checkpoint(plan.checkpoints)
    if checkpoint is None:
        return None
    if not {"belongs_to", "run"} <= checkpoint.values.keys():
        raise ValueError(
            f"Expected checkpoints of a reward's training, {str(checkpoint.path)!r} is of another. "
            "Choose another folder with --checkpoint-dir or --out."
        )
    if checkpoint.step > plan.n_steps:
        raise ValueError(
            f"{str(checkpoint.path)!r} is of step {checkpoint.step}, this training ends at "
            f"{plan.n_steps}. Ask for as many steps or more, or choose another folder."
        )
    if checkpoint.step == plan.n_steps:
        print(f"The training in {plan.checkpoints} is finished: step {checkpoint.step}.")
    else:
        print(f"Resuming at step {checkpoint.step} of {plan.n_steps}.")
    return checkpoint


def _say_how_to_go_on(plan: "TrainingPlan") -> None:
    from libero_reward_envs.checkpoints import read_newest_checkpoint

    newest = read_newest_checkpoint(plan.checkpoints)
    found = "There is no checkpoint yet" if newest is None else f"Newest checkpoint: {newest.path}"
    print(f"\n{found}. The same command goes on from there.", file=sys.stderr)


def _shorten(report: Mapping[str, float]) -> dict[str, str]:
    """Return what the progress bar shows of a report."""
    names = {"loss": "loss", "holdout_loss": "held_out", "cumulative_reward_mean": "return"}
    return {short: f"{report[name]:.2e}" for name, short in names.items() if name in report}


def _print_quality(title: str, quality: Mapping[str, object]) -> None:
    print(f"{title}:")
    for name, value in quality.items():
        print(f"  {name:32} {value:.3f}" if isinstance(value, float) else f"  {name:32} {value}")
