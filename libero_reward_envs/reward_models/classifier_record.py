"""What is stored with a fitted success classifier: data, calibration, threshold and measures."""

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_run import ClassifierRun
from libero_reward_envs.reward_models.frame_scores import (
    FrameScores,
    choose_threshold,
    fit_temperature,
    measure_scores,
    measure_triggers,
    to_probability,
)


def finish_classifier(
    run: ClassifierRun, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> ClassifierRewardModel:
    """Return the model of a run's best epoch, calibrated and with a threshold.

    Args:
        run: The training; its network has the best weights afterwards.
        settings: The arguments of `fit_classifier` to be stored.
        about: What `describe_data` returned, and more to be stored.
    """
    record = calibrate(run, settings, about)
    assert isinstance(run.classifier, BinaryRewardClassifier)
    return ClassifierRewardModel.from_classifier(
        run.classifier,
        **choose_calibration(record),
        training={"method": "fit_classifier", **record},
        device=next(run.classifier.parameters()).device,
    )


def choose_calibration(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `SuccessRewardModel` that a record gives."""
    quality = record["quality"]
    return {
        "threshold": quality["threshold"],
        "temperature": quality["temperature"],
        "class_prior": record["class_prior"],
    }


def calibrate(
    run: ClassifierRun, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Take the best weights, choose temperature and threshold, and return all that is stored.

    Args:
        run: The training; its network has the best weights afterwards.
        settings: The arguments that it was made with; "target_false_positive_rate" and "seed" are
            used.
        about: Counts of the data, "frames" and "label_1" under "train", and more to be stored.
    """
    run.load_best()
    scores = run.batches.score()
    temperature = fit_temperature(scores.logits, scores.labels)
    threshold = choose_threshold(
        scores.logits, scores.labels, settings["target_false_positive_rate"]
    )
    probability = float(to_probability(np.array(threshold.logit), temperature))
    before, after = measure_scores(scores), measure_scores(scores, temperature)
    rng = np.random.default_rng(settings["seed"])
    return {
        "settings": dict(settings),
        "class_prior": about["train"]["label_1"] / about["train"]["frames"],
        "best_epoch": run.best["epoch"],
        "best_report": run.best,
        "quality": {
            **after,
            "log_loss_before": before["log_loss"],
            "brier_before": before["brier"],
            "ece_before": before["ece"],
            "temperature": temperature,
            "threshold": probability,
            **_measure_threshold(scores, temperature, probability),
            **measure_triggers(scores, threshold.logit, rng),
        },
        **about,
        "versions": _list_versions(),
        "history": run.history,
    }


def _measure_threshold(
    scores: FrameScores, temperature: float, threshold: float
) -> dict[str, float]:
    """Return what the threshold does in single precision, in which rewards are computed."""
    probabilities = to_probability(scores.logits, temperature).astype(np.float32)
    above, labels = probabilities > np.float32(threshold), scores.labels
    n_above = int(above.sum())
    return {
        "false_positive_rate": float(above[~labels].mean()),
        "recall": float(above[labels].mean()),
        "precision": float(labels[above].mean()) if n_above else 0.0,
        "f1": float(2 * (above & labels).sum() / (n_above + labels.sum())),
    }


def describe_data(train: RewardDataset, holdout: RewardDataset) -> dict[str, Any]:
    """Return counts, names and a hash of each side; folders by name, not by path.

    With them stands "orientation", how the images were turned, if all trajectories say the same.
    """
    about: dict[str, Any] = {}
    turned = {source.orientation for side in (train, holdout) for source in side.sources}
    if len(turned) == 1 and None not in turned:
        about["orientation"] = turned.pop()
    for name, dataset in (("train", train), ("holdout", holdout)):
        n_negative, n_positive = dataset.class_counts()
        names = [f"{source.folder}/{source.name}" for source in dataset.sources]
        digest = hashlib.sha256()
        for entry, source in zip(names, dataset.sources, strict=True):
            digest.update(f"{entry}\0{len(source.labels)}\0".encode())
            digest.update(np.ascontiguousarray(source.labels, np.float32).tobytes())
        about[name] = {
            "trajectories": len(names),
            "frames": len(dataset),
            "label_1": n_positive,
            "label_0": n_negative,
            "labels_sha256": digest.hexdigest(),
        }
        about[f"{name}_trajectories"] = names
    return about


def _list_versions() -> dict[str, str]:
    from libero_reward_envs import __version__

    return {
        "libero_reward_envs": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
