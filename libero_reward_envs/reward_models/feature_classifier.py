"""A success classifier on OpenVLA's features as a reward model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel
from libero_reward_envs.reward_models.success_model import SuccessRewardModel


class FeatureClassifierRewardModel(SuccessRewardModel):
    """Rewards transitions that an `OpenVLARewardNet` takes for the task being solved after them.

    Beside the features of o_{t+1} the network sees those of o_t and the action, as every
    `OpenVLARewardNet` does. For probability, threshold and reward type see `SuccessRewardModel`.
    Logits are computed in double precision, so a transition has the same reward alone and in a
    batch. `fit_feature_classifier` fits it.

    Args:
        observation_shapes: Of "openvla/language" and "openvla/vision", see `OpenVLARewardNet`.
        action_size: a; 0 to leave actions out, for data that have none.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether features are scaled by the mean and deviation among the weights.
        reward_type: See `SuccessRewardModel`, also for the following three.
        threshold: See there.
        temperature: See there.
        class_prior: See there.
        seed: Draws the initial weights.
        device: Where rewards are computed.

    Raises:
        ValueError: If an argument is out of range, or the observations are others.
    """

    scores_observations = False  # a reward of the transition, not of where it leads alone

    def __init__(
        self,
        observation_shapes: Mapping[str, Sequence[int]],
        action_size: int,
        *,
        hidden_sizes: Sequence[int] = (512, 512),
        normalize: bool = True,
        reward_type: str = "binary",
        threshold: float = 0.5,
        temperature: float = 1.0,
        class_prior: float | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(
            reward_type=reward_type,
            threshold=threshold,
            temperature=temperature,
            class_prior=class_prior,
        )
        # What computes a number for a transition is the same; here the number is a logit.
        self.scorer = RRDRewardModel(
            observation_shapes,
            action_size,
            architecture="openvla",
            hidden_sizes=hidden_sizes,
            normalize=normalize,
            seed=seed,
            device=device,
        )
        self.observation_keys = self.scorer.observation_keys

    @property
    def device(self) -> torch.device:
        """Where rewards are computed."""
        return self.scorer.device

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""
        names = ("observation_shapes", "action_size", "hidden_sizes", "normalize")
        sizes = self.scorer.arguments
        return {**{name: sizes[name] for name in names}, **self.calibration}

    def get_weights(self) -> dict[str, np.ndarray]:
        """Return copies of weights and normalisation by name, on the CPU."""
        return self.scorer.get_weights()

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over weights and normalisation."""
        self.scorer.set_weights(weights)

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32."""
        if not self.scorer.action_size:
            transitions = transitions._replace(actions=transitions.actions[:, :0])
        logits = self.scorer.compute_reward(transitions)
        if self.reward_type == "continuous":
            return self.to_probability(logits)
        return self.to_binary(logits)
