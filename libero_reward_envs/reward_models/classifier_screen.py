"""A first look at images in 8-bit integers, after which few need to be looked at again."""

from collections.abc import Mapping

import numpy as np
import torch

from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.int8_trunk import Int8Trunk, has_exact_int8
from libero_reward_envs.reward_models.resnet10 import ResNet10

# The largest error of a classifier trained on LIBERO-Object was 0.07, in 1018 rendered frames.
_MIN_MARGIN = 0.5
_ERRORS_PER_MARGIN = 10
_MIN_COMPARED = 32


class ClassifierScreen:
    """Logits of a classifier in less than half the time, and which of them tell the binary reward.

    The trunks are `Int8Trunk`s, the rest is the network's own. A logit further than `margin` from
    the border between the two rewards counts as on the exact one's side. The margin is measured,
    not proven: ten times the largest error seen, and at least 0.5; as long as fewer than 32 rows
    were compared, it is infinite.

    Args:
        classifier: One for which `can_screen` is true.
    """

    def __init__(self, classifier: BinaryRewardClassifier) -> None:
        self._classifier = classifier
        self._version = _count_changes(classifier)
        self._trunks = {
            key: Int8Trunk(trunk)
            for key, trunk in zip(classifier.image_keys, classifier.trunks, strict=True)
            if isinstance(trunk, ResNet10)
        }
        self._largest_error = 0.0
        self._n_compared = 0

    @property
    def is_current(self) -> bool:
        """Whether the trunks' weights are still those of the beginning."""
        return self._version == _count_changes(self._classifier)

    @property
    def margin(self) -> float:
        """How far from the border a logit must be to be believed."""
        if self._n_compared < _MIN_COMPARED:
            return np.inf
        return max(_MIN_MARGIN, _ERRORS_PER_MARGIN * self._largest_error)

    def compute_logits(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (n,), inexact, for images by key, each (n, C, H, W), uint8."""
        features = self._classifier.compute_features(images, self._trunks)
        return self._classifier.classify(features)

    def compare(self, logits: np.ndarray, exact: np.ndarray) -> None:
        """Learn from rows that were computed both ways how large errors are."""
        self._largest_error = max(self._largest_error, float(np.abs(logits - exact).max()))
        self._n_compared += len(exact)


def can_screen(classifier: BinaryRewardClassifier) -> bool:
    """Whether a classifier is one of ResNet-10s on a processor that is good at bytes."""
    trunks = classifier.trunks
    is_resnet10 = all(isinstance(trunk, ResNet10) for trunk in trunks)
    weight = next(classifier.parameters())
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_resnet10 and is_plain and has_exact_int8()


def _count_changes(classifier: BinaryRewardClassifier) -> int:
    # PyTorch counts changes in place, to know whether what it kept for gradients is still right.
    return sum(weight._version for trunk in classifier.trunks for weight in trunk.parameters())
