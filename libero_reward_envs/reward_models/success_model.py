"""What all reward models that tell success have in common: probability, threshold, reward type."""

import copy
from typing import Any

import numpy as np
from typing_extensions import Self

from libero_reward_envs.reward_models.base import PretrainedRewardModel
from libero_reward_envs.reward_models.frame_scores import to_probability
from libero_reward_envs.reward_models.resnet10 import check_choice

REWARD_TYPES = ("binary", "continuous")


class SuccessRewardModel(PretrainedRewardModel):
    """A reward from the probability of success, p = sigmoid(logit / `temperature`).

    The reward is p, or with `reward_type` "binary" 1 if p > `threshold` and 0 otherwise, both in
    single precision.

    Args:
        reward_type: "binary" or "continuous".
        threshold: The probability above which a binary reward is 1, in [0, 1].
        temperature: Divides the logits, for calibration.
        class_prior: Share of success in training, if known; not used in the reward.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        reward_type: str = "binary",
        threshold: float = 0.5,
        temperature: float = 1.0,
        class_prior: float | None = None,
    ) -> None:
        check_choice("reward_type", reward_type, REWARD_TYPES)
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be in [0, 1], got {threshold}.")
        if not 0 < temperature < np.inf:
            raise ValueError(f"`temperature` must be positive and finite, got {temperature}.")
        if class_prior is not None and not 0 <= class_prior <= 1:
            raise ValueError(f"`class_prior` must be in [0, 1] or None, got {class_prior}.")
        self.reward_type, self.threshold = reward_type, float(threshold)
        self.temperature, self.class_prior = float(temperature), class_prior
        self.training: dict[str, Any] = {}

    def with_reward_type(self, reward_type: str) -> Self:
        """Return this model with other rewards, "binary" or "continuous", and the same network."""
        check_choice("reward_type", reward_type, REWARD_TYPES)
        model = copy.copy(self)
        model.reward_type = reward_type
        return model

    @property
    def calibration(self) -> dict[str, Any]:
        """The arguments of this class, as JSON would hold them."""
        return {
            "reward_type": self.reward_type,
            "threshold": self.threshold,
            "temperature": self.temperature,
            "class_prior": self.class_prior,
        }

    def to_probability(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities of success of logits (n,), float32."""
        return to_probability(logits, self.temperature).astype(np.float32)

    def to_binary(self, logits: np.ndarray) -> np.ndarray:
        """Return 1 where a logit of (n,) stands for success, float32."""
        return (self.to_probability(logits) > np.float32(self.threshold)).astype(np.float32)
