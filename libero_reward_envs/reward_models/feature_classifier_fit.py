"""Fitting a success classifier to OpenVLA's features of episodes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY
from libero_reward_envs.data.step_success import find_step_success
from libero_reward_envs.reward_models.classifier_record import calibrate, choose_calibration
from libero_reward_envs.reward_models.classifier_run import (
    ClassifierRun,
    check_numbers,
    train_with_checkpoints,
)
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.feature_batches import FeatureBatches, FeatureNetwork
from libero_reward_envs.reward_models.feature_classifier import FeatureClassifierRewardModel
from libero_reward_envs.reward_models.frame_draw import FrameDraw
from libero_reward_envs.reward_models.openvla_reward_net import LANGUAGE_KEY, VISION_KEY
from libero_reward_envs.reward_models.rrd_trainer import STD_FLOOR

_KEYS = (LANGUAGE_KEY, VISION_KEY)
_NOT_STORED = ("train", "holdout", "device", "on_progress", "on_batch", "checkpoint_folder")
# A run may be continued for longer, and the threshold is chosen after it.
_MAY_DIFFER = ("n_epochs", "target_false_positive_rate")

Labelled = tuple[EpisodeStore, np.ndarray]


def fit_feature_classifier(
    train: Sequence[Episode] | EpisodeDataset,
    holdout: Sequence[Episode] | EpisodeDataset,
    *,
    hidden_sizes: Sequence[int] = (512, 512),
    n_epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.0,
    balance: bool = True,
    frames_per_epoch: int | None = None,
    target_false_positive_rate: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_progress: Callable[[Mapping[str, float]], None] | None = None,
    on_batch: Callable[[int], object] | None = None,
    checkpoint_folder: str | Path | None = None,
) -> FeatureClassifierRewardModel:
    """Fit a `FeatureClassifierRewardModel` as `fit_classifier` fits one to images.

    Labels are those of `find_step_success`. Epoch, temperature and threshold are chosen on the
    held-out episodes. All features are held in memory as float32, so average them over patches.

    Args:
        train: Episodes with the observations "openvla/language" and "openvla/vision".
        holdout: Other such episodes.
        hidden_sizes: Width of each hidden layer.
        n_epochs: See `fit_classifier`, also for the following; a frame is here a step.
        batch_size: See there.
        learning_rate: See there.
        weight_decay: See there.
        balance: See there.
        frames_per_epoch: See there.
        target_false_positive_rate: See there.
        seed: See there.
        device: See there.
        on_progress: See there.
        on_batch: See there.
        checkpoint_folder: See there.

    Returns:
        The model of the best epoch, of binary rewards.

    Raises:
        ValueError: If an argument is out of range, features are missing or of different sizes, or
            a side has steps of one label only.
        RuntimeError: If the loss becomes infinite.
    """
    settings: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in locals().items()
        if name not in _NOT_STORED
    }
    check_numbers(settings)
    sides = {"train": _read(train, "train"), "holdout": _read(holdout, "holdout")}
    about = {name: _describe(*side) for name, side in sides.items()}
    data, labels = sides["train"]
    if (found := sides["holdout"][0]).observation_shapes != data.observation_shapes:
        raise ValueError(
            f"Expected held-out features of {data.observation_shapes}, got "
            f"{found.observation_shapes}."
        )
    model = FeatureClassifierRewardModel(
        data.observation_shapes,
        data.action_size,
        hidden_sizes=hidden_sizes,
        seed=seed,
        device=device,
    )
    scorer = model.scorer
    states = {key: torch.from_numpy(value) for key, value in data.all_states().items()}
    scorer.network.set_normalization(scorer.network.join(states), STD_FLOOR)
    draw = FrameDraw(int((~labels).sum()), int(labels.sum()), frames_per_epoch, balance)
    run = ClassifierRun(
        FeatureNetwork(scorer),
        FeatureBatches(scorer, *sides.values(), batch_size=batch_size, seed=seed, draw=draw),
        positive_share=float(labels.mean()),
        balance=balance,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
    )
    belongs_to = {k: v for k, v in settings.items() if k not in _MAY_DIFFER} | about
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)

    def tell(report: Mapping[str, float], is_best: bool) -> None:
        if on_progress is not None:
            on_progress(report)

    train_with_checkpoints(run, n_epochs, folder, belongs_to, tell, on_batch)
    record = calibrate(run, settings, about)
    fitted = FeatureClassifierRewardModel(
        **{**model.arguments, **choose_calibration(record)}, device=device
    )
    fitted.set_weights(model.get_weights())
    fitted.training = {"method": "fit_feature_classifier", **record}
    return fitted


def _read(dataset: Sequence[Episode] | EpisodeDataset, name: str) -> Labelled:
    """Return the features of all episodes, and the labels of their steps, (steps,) bool."""
    source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
    if not len(source):
        raise ValueError(f"Expected episodes in `{name}`, got none.")
    store = EpisodeStore(_KEYS, sum(len(summary) + 1 for summary in source.summaries()))
    labels = []
    for index in range(len(source)):
        episode = source.read(index)
        store.append(episode)
        labels.append(find_step_success(episode))
    joined = np.concatenate(labels)
    if joined.all() or not joined.any():
        raise ValueError(
            f"Expected steps with success and without in `{name}`, got {int(joined.sum())} of the "
            f"one and {int((~joined).sum())} of the other. Where rewards do not tell it, the "
            f"observation {SUCCESS_KEY!r} must."
        )
    return store, joined


def _describe(store: EpisodeStore, labels: np.ndarray) -> dict[str, Any]:
    return {
        "trajectories": len(store.lengths),
        "frames": len(labels),
        "label_1": int(labels.sum()),
        "label_0": int((~labels).sum()),
        "sha256": store.compute_digest(),
    }
