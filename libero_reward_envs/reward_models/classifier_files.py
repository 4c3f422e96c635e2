"""Success classifiers from a folder, the Hub, or a `.pt` checkpoint."""

from pathlib import Path
from typing import Any, cast

from libero_reward_envs.reward_models.base import CHECKPOINT_SUFFIX, find_folder
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_pt import read_checkpoint_pt
from libero_reward_envs.reward_models.saving import read_config


def load_classifier(path: str | Path) -> ClassifierRewardModel:
    """Load a success classifier.

    A `.pt` checkpoint, see `read_checkpoint_pt`, knows neither threshold nor temperature: they are
    0.5 and 1 then.

    Args:
        path: A folder written by `save_pretrained`, a Hub id, or a `.pt` checkpoint.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged, holds anything else, or its weights do not fit.
    """
    if is_checkpoint(path):
        return ClassifierRewardModel.from_classifier(read_checkpoint_pt(path).classifier)
    return cast("ClassifierRewardModel", ClassifierRewardModel.from_pretrained(path))


def read_classifier_config(path: str | Path) -> dict[str, Any]:
    """Return the arguments of a saved classifier, and under "training" how it was made.

    Args:
        path: As for `load_classifier`.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged, or holds anything but a classifier.
    """
    if is_checkpoint(path):
        return {**load_classifier(path).arguments, "training": {}}
    folder = find_folder(path)
    config = read_config(folder)
    if config["class_name"] != ClassifierRewardModel.__name__:
        raise ValueError(
            f"Expected a success classifier in {str(folder)!r}, got a {config['class_name']}."
        )
    return {**config["arguments"], "training": config["training"]}


def is_checkpoint(path: str | Path) -> bool:
    """Whether the path is that of a `.pt` checkpoint."""
    return Path(path).suffix == CHECKPOINT_SUFFIX
