"""`libero-reward train-classifier --use-openvla-features`: success told from OpenVLA's features."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libero_reward_envs.cli.openvla_features import encode_with_cache, load_encoders
from libero_reward_envs.cli.train_classifier_args import TrainClassifierArgs
from libero_reward_envs.data.episodes import EpisodeDataset, chain_datasets
from libero_reward_envs.data.formats import load_episodes
from libero_reward_envs.encoders.openvla_record import RECORD_KEY, describe_openvla_features
from libero_reward_envs.evaluation.reward_quality import split_episodes
from libero_reward_envs.reward_models.feature_classifier_fit import fit_feature_classifier

if TYPE_CHECKING:
    from libero_reward_envs.reward_models.feature_classifier import FeatureClassifierRewardModel


def train_feature_classifier(
    args: TrainClassifierArgs, history: list[Mapping[str, float]], out: Path
) -> "FeatureClassifierRewardModel":
    """Compute features, fit with a progress bar, and return the model.

    Args:
        args: The flags of `train-classifier`.
        history: Takes the report of each epoch.
        out: Folder of the reward model, for messages.

    Raises:
        ValueError: If a flag cannot be followed, or the data do not fit.
    """
    from tqdm import tqdm

    _refuse_flags(args)
    folders = (args.data,) if args.data is not None else (args.negative_dir, args.positive_dir)
    paths = [path for path in folders if path is not None]
    parts = [load_episodes(path) for path in paths]
    everything = chain_datasets(parts)
    images = args.image_key
    if images == TrainClassifierArgs.image_key:  # the name in trajectories of other programs
        images = ("agentview_image",)
    encoders = load_encoders(args.openvla, everything, images)
    model = args.openvla.openvla_model
    assert model is not None
    record = describe_openvla_features(model, encoders, everything)
    encoded = chain_datasets(
        [
            encode_with_cache(part, path, encoders, args.openvla)
            for part, path in zip(parts, paths, strict=True)
        ]
    )
    rng = np.random.default_rng(args.seed)
    train, holdout = split_episodes(encoded, args.holdout_fraction, rng)
    print(f"To fit: {_describe(train)}. Held out: {_describe(holdout)}.")
    n_steps = sum(len(summary) for summary in train.summaries())
    n_frames = min(n_steps, args.frames_per_epoch or n_steps)
    with tqdm(total=args.epochs * n_frames, desc="classifier", unit="frame") as bar:

        def show(report: Mapping[str, float]) -> None:
            bar.update(int(report["epoch"]) * n_frames - bar.n)
            history.append(report)

        fitted = fit_feature_classifier(
            train,
            holdout,
            hidden_sizes=args.openvla.hidden_sizes,
            n_epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.lr,
            weight_decay=args.weight_decay,
            balance=args.balance,
            frames_per_epoch=args.frames_per_epoch,
            target_false_positive_rate=args.target_false_positive_rate,
            seed=args.seed,
            device=args.device,
            on_progress=show,
            on_batch=bar.update,
            checkpoint_folder=args.checkpoint_dir,
        )
    fitted.training[RECORD_KEY] = record
    return fitted


def _refuse_flags(args: TrainClassifierArgs) -> None:
    """Raise a ValueError for flags of the network on images, which is not there."""
    names = ("pretrained_encoder_path", "train_encoder", "backbone", "padding", "normalization")
    names += ("image_size", "hidden_dim", "num_spatial_blocks", "max_shift_px", "lr_schedule")
    names += ("visualize_positive", "workers")
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(args, name) != getattr(TrainClassifierArgs, name)
    ]
    if given:
        raise ValueError(
            f"{', '.join(given)} would change nothing with --use-openvla-features, where a network "
            "on features takes the place of that on images. Leave them out."
        )


def _describe(dataset: EpisodeDataset) -> str:
    summaries = dataset.summaries()
    n_successes = sum(summary.success for summary in summaries)
    return f"{len(summaries)} episodes, {n_successes} of them successes"
