"""Fit a success classifier to labelled frames: `libero-reward train-classifier --positive-dir ...`.

Writes the checkpoint `--output-checkpoint` after each epoch that is the best so far, and at the end
the reward model (`config.json`, `model.safetensors`, `README.md`), which knows its threshold and
its temperature too, into `--out`, beside `curves.csv`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libero_reward_envs.cli.openvla_features import check_openvla_args
from libero_reward_envs.cli.train_classifier_args import TrainClassifierArgs

if TYPE_CHECKING:
    from libero_reward_envs.data.frames import RewardDataset
    from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
    from libero_reward_envs.reward_models.classifier_fit import BestEpoch
    from libero_reward_envs.reward_models.success_model import SuccessRewardModel

__all__ = ["TrainClassifierArgs", "main"]

CURVES_FILE = "curves.csv"


def main(args: TrainClassifierArgs) -> None:
    """Read, show, fit, save."""
    from libero_reward_envs.data.frame_pictures import visualize_positive
    from libero_reward_envs.data.frames import split_trajectories

    out = _choose_out(args)
    check_openvla_args(args.openvla)
    if args.openvla.use_openvla_features:
        _train_on_features(args, out)
        return
    dataset = _read_data(args)
    print(dataset.describe())
    if args.visualize_positive:
        pictures = visualize_positive(dataset, args.vis_output_dir)
        print(f"{len(pictures)} frames of success: {args.vis_output_dir}")
    train, holdout = split_trajectories(dataset, args.holdout_fraction, args.seed)
    print(f"To fit: {_describe(train)}. Held out: {_describe(holdout)}.")
    _explain_encoder(args)
    checkpoints = _CheckpointWriter(args.output_checkpoint)
    model = _fit(args, train, holdout, out, checkpoints)
    checkpoints.finish(model)
    model.save_pretrained(out)
    _print_result(args, model)
    print(f"Checkpoint: {args.output_checkpoint}\nReward model and curves: {out}")


def _train_on_features(args: TrainClassifierArgs, out: Path) -> None:
    """Train on OpenVLA's features instead of images."""
    from libero_reward_envs.cli.train_feature_classifier import train_feature_classifier

    _check_data(args)
    history: list[Mapping[str, float]] = []
    try:
        model = train_feature_classifier(args, history, out)
    finally:
        if history:
            _write_curves(out / CURVES_FILE, history)
    model.save_pretrained(out)
    _print_result(args, model)
    print(f"Reward model and curves: {out}\nA .pt file would hold a network on images: none.")


def _print_result(args: TrainClassifierArgs, model: "SuccessRewardModel") -> None:
    best = model.training["best_report"]
    print(
        f"Best of {args.epochs} epochs by held-out average precision: {best['epoch']}\n"
        f"Held out:\n{_tabulate(model.training['quality'])}"
    )


def _read_data(args: TrainClassifierArgs) -> "RewardDataset":
    from libero_reward_envs.data.frames import RewardDataset

    images: dict[str, Any] = {"image_keys": args.image_key, "image_size": args.image_size}
    _check_data(args)
    if args.data is not None:
        return RewardDataset.from_episodes(args.data, **images)
    assert args.positive_dir is not None
    assert args.negative_dir is not None
    return RewardDataset(args.positive_dir, args.negative_dir, **images)


def _check_data(args: TrainClassifierArgs) -> None:
    folders = (args.positive_dir, args.negative_dir)
    if folders == (None, None) if args.data is not None else None not in folders:
        return
    raise ValueError(
        "Expected either --data, for one file, or both --positive-dir and --negative-dir, got "
        f"--data {args.data}, --positive-dir {folders[0]}, --negative-dir {folders[1]}."
    )


def _choose_out(args: TrainClassifierArgs) -> Path:
    out = args.out or args.output_checkpoint.with_suffix("")
    if out.resolve() == args.output_checkpoint.resolve():
        raise ValueError(
            f"Expected another path for the reward model's folder than for the checkpoint, got "
            f"{str(out)!r} for both. Let --output-checkpoint end in .pt, or give --out."
        )
    for path, is_wrong, kind in (
        (out, out.exists() and not out.is_dir(), "a folder"),
        (args.output_checkpoint, args.output_checkpoint.is_dir(), "a file"),
    ):
        if is_wrong:
            raise ValueError(f"Expected {kind} at {str(path)!r}, there is something else.")
    return out


def _explain_encoder(args: TrainClassifierArgs) -> None:
    if args.pretrained_encoder_path is None:
        print(
            "No --pretrained-encoder-path: the encoder is trained from the start "
            "(use_pretrain=False, freeze_encoder=False)."
        )
    else:
        frozen = "trained further" if args.train_encoder else "frozen"
        print(f"Encoder: {args.backbone} of {args.pretrained_encoder_path}, {frozen}.")


def _fit(
    args: TrainClassifierArgs,
    train: "RewardDataset",
    holdout: "RewardDataset",
    out: Path,
    checkpoints: "_CheckpointWriter",
) -> "ClassifierRewardModel":
    """Train with a progress bar and curves."""
    from tqdm import tqdm

    from libero_reward_envs.reward_models.classifier_fit import fit_classifier

    is_pretrained = args.pretrained_encoder_path is not None
    history: list[Mapping[str, float]] = []
    n_frames = min(len(train), args.frames_per_epoch or len(train))
    with tqdm(total=args.epochs * n_frames, desc="classifier", unit="frame") as bar:

        def show(report: Mapping[str, float]) -> None:
            bar.set_postfix(_shorten(report), refresh=False)
            bar.update(int(report["epoch"]) * n_frames - bar.n)
            history.append(report)
            _write_curves(out / CURVES_FILE, history)

        return fit_classifier(
            train,
            holdout,
            image_keys=args.image_key,
            image_size=args.image_size,
            backbone=args.backbone,
            pretrained_encoder_path=args.pretrained_encoder_path,
            use_pretrain=is_pretrained,
            freeze_encoder=is_pretrained and not args.train_encoder,
            hidden_dim=args.hidden_dim,
            num_spatial_blocks=args.num_spatial_blocks,
            padding=args.padding,
            normalization=args.normalization,
            n_epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.lr,
            lr_schedule=args.lr_schedule,
            weight_decay=args.weight_decay,
            balance=args.balance,
            frames_per_epoch=args.frames_per_epoch,
            max_shift_px=args.max_shift_px,
            target_false_positive_rate=args.target_false_positive_rate,
            seed=args.seed,
            device=args.device,
            on_progress=show,
            on_batch=bar.update,
            on_best=checkpoints.write,
            checkpoint_folder=args.checkpoint_dir,
            n_workers=args.workers,
        )


class _CheckpointWriter:
    """Keeps the `.pt` file that of the best epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._epoch: float | None = None

    def write(self, best: "BestEpoch") -> None:
        """Write the network and its optimiser."""
        self._write(best.classifier, best.report, best.optimizer.state_dict())

    def finish(self, model: "ClassifierRewardModel") -> None:
        """Write the model's network, if its epoch was before a checkpoint that was gone on from."""
        if self._epoch != model.training["best_epoch"]:
            self._write(model.classifier, model.training["best_report"], {})

    def _write(self, classifier: Any, report: Mapping[str, float], state: dict[str, Any]) -> None:
        from libero_reward_envs.reward_models.classifier_pt import write_checkpoint_pt

        write_checkpoint_pt(
            self._path,
            classifier,
            epoch=int(report["epoch"]),
            train_loss=report["train_loss"],
            train_acc=report["train_acc"],
            optimizer_state_dict=state,
        )
        self._epoch = report["epoch"]


def _write_curves(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write a row an epoch, with numbers that read back as they were."""
    from libero_reward_envs.atomic_files import write_atomically

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([history[0].keys(), *(report.values() for report in history)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [text.getvalue().encode()])


def _describe(dataset: "RewardDataset") -> str:
    n_negative, n_positive = dataset.class_counts()
    return (
        f"{len(dataset.sources)} trajectories, {len(dataset)} frames "
        f"({n_positive} of label 1, {n_negative} of label 0)"
    )


def _shorten(report: Mapping[str, float]) -> dict[str, str]:
    names = {"train_loss": "loss", "train_acc": "acc", "holdout_average_precision": "held_out_AP"}
    return {short: f"{report[name]:.3f}" for name, short in names.items()}


def _tabulate(quality: Mapping[str, object]) -> str:
    return "\n".join(
        f"  {name:26} {value:.4g}" if isinstance(value, float) else f"  {name:26} {value}"
        for name, value in quality.items()
    )
