"""Fitting a success classifier to labelled frames."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_batches import ClassifierBatches
from libero_reward_envs.reward_models.classifier_record import describe_data, finish_classifier
from libero_reward_envs.reward_models.classifier_run import (
    ClassifierRun,
    check_numbers,
    train_with_checkpoints,
)
from libero_reward_envs.reward_models.frame_draw import FrameDraw
from libero_reward_envs.reward_models.resnet10 import check_choice

# What is stored with the model; the others do not change what is learnt, but for rounding.
_STORED = (
    *("image_keys", "image_size", "backbone", "use_pretrain", "freeze_encoder", "hidden_dim"),
    *("num_spatial_blocks", "padding", "normalization", "n_epochs", "batch_size"),
    *("learning_rate", "weight_decay", "balance", "target_false_positive_rate", "seed"),
    *("frames_per_epoch", "max_shift_px", "lr_schedule"),
)
# A run may be continued for longer, and the threshold is chosen after it.
_MAY_DIFFER = ("n_epochs", "target_false_positive_rate")


class BestEpoch(NamedTuple):
    """The best epoch so far.

    Attributes:
        report: Its report; "epoch" counts from 1.
        classifier: The network after it, which goes on learning: copy what is to stay.
        optimizer: Its optimiser.
    """

    report: Mapping[str, float]
    classifier: BinaryRewardClassifier
    optimizer: torch.optim.Optimizer


def fit_classifier(
    train: RewardDataset,
    holdout: RewardDataset,
    *,
    image_keys: Sequence[str],
    image_size: Sequence[int],
    backbone: str = "resnet10",
    pretrained_encoder_path: str | Path | None = None,
    use_pretrain: bool = True,
    freeze_encoder: bool = True,
    hidden_dim: int = 256,
    num_spatial_blocks: int = 8,
    padding: str = "symmetric",
    normalization: str = "imagenet",
    n_epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    lr_schedule: str = "constant",
    weight_decay: float = 0.0,
    balance: bool = True,
    frames_per_epoch: int | None = None,
    max_shift_px: int = 0,
    target_false_positive_rate: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_progress: Callable[[Mapping[str, float]], None] | None = None,
    on_batch: Callable[[int], object] | None = None,
    on_best: Callable[[BestEpoch], None] | None = None,
    checkpoint_folder: str | Path | None = None,
    n_workers: int = 0,
    max_cache_bytes: int = 2 * 2**30,
) -> ClassifierRewardModel:
    """Fit a `BinaryRewardClassifier`, choose its best epoch, calibrate it and set its threshold.

    Trained by `ClassifierRun`, whose docstring has the loss. All choices are made on the held-out
    trajectories: the epoch (by average precision), then the temperature (`fit_temperature`), then
    the threshold (`choose_threshold`). Figures on them flatter a little; judge on a third set.

    A seed gives the same weights on one machine with one number of threads and workers; on a GPU
    up to the rounding of cuDNN. The model's `training` has all arguments, the history, counts,
    versions, what was measured, and names and SHA-256 of labels of the trajectories.

    Args:
        train: Frames to learn from.
        holdout: Frames of other trajectories, see `split_trajectories`.
        image_keys: The images that are read; those of the data.
        image_size: Their [C, H, W].
        backbone: See `BinaryRewardClassifier`, also for the following seven.
        pretrained_encoder_path: See there.
        use_pretrain: See there.
        freeze_encoder: See there.
        hidden_dim: See there.
        num_spatial_blocks: See there.
        padding: See there.
        normalization: See there.
        n_epochs: How often every frame, or `frames_per_epoch` of them, are learnt from.
        batch_size: Frames a step of Adam.
        learning_rate: Of Adam, in the first epoch.
        lr_schedule: "constant", or "cosine" for a learning rate that falls to zero as a half cosine
            over `n_epochs`, which cannot be changed then when a run goes on.
        weight_decay: Of Adam, decoupled (AdamW); 0 is Adam.
        balance: Whether both labels weigh the same, whatever their number.
        frames_per_epoch: About how many frames are drawn anew for each epoch, see `FrameDraw`; None
            for all.
        max_shift_px: By up to how many pixels training images are shifted each way, at random.
        target_false_positive_rate: Share of held-out frames without success that may be taken for
            success, in [0, 1).
        seed: Draws the initial weights, the order of the frames and what dropout drops.
        device: Where to train; the model is on it afterwards.
        on_progress: Gets the report of each epoch: epoch, train_loss, train_acc, holdout_loss,
            holdout_acc, holdout_average_precision, holdout_auroc; those before a checkpoint too.
        on_batch: Gets the number of frames of each batch.
        on_best: Gets an epoch that is better than all before it, when it ends.
        checkpoint_folder: Where the state is written after each epoch, and from where the same call
            goes on; None for neither.
        n_workers: Processes that read images; 0 for this one.
        max_cache_bytes: Features of a frozen trunk are kept in memory up to this size.

    Returns:
        The model of the best epoch, of binary rewards.

    Raises:
        ValueError: If an argument is out of range, keys or sizes are not those of the data, a side
            has frames of one label only, or a trajectory is on both sides.
        RuntimeError: If the loss becomes infinite.
    """
    settings: dict[str, Any] = {
        name: list(value) if name in ("image_keys", "image_size") else value
        for name, value in locals().items()
        if name in _STORED
    }
    _check_settings(settings)
    _check_data(train, holdout, settings)
    classifier = _make_classifier(settings, pretrained_encoder_path).to(device)
    about = describe_data(train, holdout) | {"initial_encoder_hash": classifier.encoder_hash}
    batches = ClassifierBatches(
        classifier,
        train,
        holdout,
        batch_size=batch_size,
        seed=seed,
        n_workers=n_workers,
        max_cache_bytes=max_cache_bytes,
        draw=FrameDraw(*train.class_counts(), frames_per_epoch, balance),
        max_shift_px=max_shift_px,
    )
    run = ClassifierRun(
        classifier,
        batches,
        positive_share=float(train.labels.mean(dtype=np.float64)),
        balance=balance,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
        n_decay_epochs=n_epochs if lr_schedule == "cosine" else None,
    )

    def tell(report: Mapping[str, float], is_best: bool) -> None:
        if is_best and on_best is not None:
            on_best(BestEpoch(report, classifier, run.optimizer))
        if on_progress is not None:
            on_progress(report)

    may_differ = _MAY_DIFFER if lr_schedule == "constant" else _MAY_DIFFER[1:]
    belongs_to = {k: v for k, v in settings.items() if k not in may_differ} | about
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    train_with_checkpoints(run, n_epochs, folder, belongs_to, tell, on_batch)
    return finish_classifier(run, settings, about)


def _make_classifier(
    settings: Mapping[str, Any], path: str | Path | None
) -> BinaryRewardClassifier:
    names = ("image_keys", "image_size", "hidden_dim", "num_spatial_blocks", "use_pretrain")
    names += ("freeze_encoder", "backbone", "padding", "normalization", "seed")
    return BinaryRewardClassifier(
        **{name: settings[name] for name in names}, pretrained_encoder_path=path
    )


def _check_settings(settings: Mapping[str, Any]) -> None:
    check_numbers(settings)
    check_choice("lr_schedule", settings["lr_schedule"], ("constant", "cosine"))
    if not 0 <= settings["max_shift_px"] < min(settings["image_size"][1:]):
        raise ValueError(
            f"`max_shift_px` must be at least 0 and less than the image, got "
            f"{settings['max_shift_px']}."
        )


def _check_data(train: RewardDataset, holdout: RewardDataset, settings: Mapping[str, Any]) -> None:
    for name, dataset in (("train", train), ("holdout", holdout)):
        n_negative, n_positive = dataset.class_counts()
        if not n_negative or not n_positive:
            raise ValueError(
                f"Expected frames of both labels in `{name}`, got {n_positive} of label 1 and "
                f"{n_negative} of label 0. Collect trajectories of the other outcome too."
            )
        found = (list(dataset.image_keys), [list(size) for size in dataset.image_sizes])
        keys, size = settings["image_keys"], settings["image_size"]
        if found != (keys, [size] * len(keys)):
            raise ValueError(
                f"Expected images {keys} of [C, H, W] = {size} in `{name}`, got {found[0]} of "
                f"{found[1]}. Give `image_keys` and `image_size` as the data have them."
            )
    common = {(str(source.path), source.name) for source in train.sources} & {
        (str(source.path), source.name) for source in holdout.sources
    }
    if common:
        raise ValueError(
            f"Expected other trajectories in `holdout` than in `train`, got {len(common)} that are "
            f"in both, such as {min(common)}. Split by `split_trajectories`."
        )
    n_allowed = settings["target_false_positive_rate"] * holdout.class_counts()[0]
    if settings["target_false_positive_rate"] > 0 and n_allowed < 1:
        warnings.warn(
            f"{holdout.class_counts()[0]} held-out frames without success are too few for a "
            f"false-positive rate of {settings['target_false_positive_rate']}: the threshold will "
            "allow none. Hold out more.",
            stacklevel=3,
        )
