"""Rewards that only spread an episode's return evenly: the baselines of return decomposition."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from libero_reward_envs.reward_models.base import (
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    PretrainedRewardModel,
    Transitions,
)
from libero_reward_envs.reward_models.rrd_data import SubsequenceSource


class UniformRewardModel(PretrainedRewardModel):
    """Gives every step of an episode the same share of its return, r_t = R / T.

    The end point of randomized return decomposition with one sampled step (Ren et al., 2022, arXiv
    2111.13485, section 3). It reads what only a finished episode knows, so it serves in a
    `RelabelReplayBuffer` and on recorded episodes, not in wrappers that give rewards step by step.
    """

    observation_keys = (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)

    def __init__(self) -> None:
        self.training: dict[str, Any] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def get_weights(self) -> dict[str, np.ndarray]:
        """There are none."""
        return {}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32."""
        returns = np.asarray(transitions.observations[EPISODE_RETURN_KEY], np.float64)
        lengths = np.asarray(transitions.observations[EPISODE_LENGTH_KEY], np.float64)
        return (returns / lengths).astype(np.float32)


class IRCRRewardModel(PretrainedRewardModel):
    """Gives every step its episode's return, between 0 for the worst and 1 for the best one.

    r_t = (R - R_min) / (R_max - R_min), after Gangwani et al. (2020), "Learning Guidance Rewards
    with Trajectory-space Smoothing", as in the comparison of Ren et al. (2022). Differs from the
    code that was released with the latter: batches are drawn from the whole buffer, not half of
    them from the ten best episodes. Limits that coincide give 0.

    Args:
        lowest: R_min.
        highest: R_max.

    Raises:
        ValueError: If a limit is not finite or `lowest` is above `highest`.
    """

    observation_keys = (EPISODE_RETURN_KEY,)

    def __init__(self, lowest: float = 0.0, highest: float = 0.0) -> None:
        if not (np.isfinite([lowest, highest]).all() and lowest <= highest):
            raise ValueError(f"Expected finite limits, lowest first, got {lowest} and {highest}.")
        self.lowest, self.highest = float(lowest), float(highest)
        self.training: dict[str, Any] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""
        return {"lowest": self.lowest, "highest": self.highest}

    def get_weights(self) -> dict[str, np.ndarray]:
        """There are none."""
        return {}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32."""
        returns = np.asarray(transitions.observations[EPISODE_RETURN_KEY], np.float64)
        spread = self.highest - self.lowest
        if spread <= 0:
            return np.zeros(len(returns), np.float32)
        return ((returns - self.lowest) / spread).astype(np.float32)


class IRCRTrainer:
    """Keeps an `IRCRRewardModel` between the worst episode there is and the best ever seen.

    Args:
        model: What is trained, in place.

    Attributes:
        model: The model.
        n_steps: How often the limits were set.
    """

    def __init__(self, model: IRCRRewardModel | None = None) -> None:
        self.model = model or IRCRRewardModel()
        self.n_steps = 0
        self._seen: np.ndarray | None = None

    def train(self, source: SubsequenceSource, n_steps: int = 1) -> dict[str, float]:
        """Set the limits; the losses are none.

        Raises:
            ValueError: If a return is not finite.
        """
        returns = source.returns
        if not len(returns):
            return {}
        if returns is not self._seen:  # a source gives another array on any change
            highest = float(returns.max())
            if not np.isfinite([returns.min(), highest]).all():
                raise ValueError(f"Expected finite returns, got {returns.min()} to {highest}.")
            self._seen = returns
            self.model.lowest = float(returns.min())
            self.model.highest = max(highest, self.model.highest) if self.n_steps else highest
        self.n_steps += n_steps
        return {}

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return limits and counter."""
        return {}, {"limits": self.model.arguments, "n_steps": self.n_steps}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the trainer would have that gave this state.

        Raises:
            ValueError: If it is the state of another kind of trainer.
        """
        if "limits" not in values:
            raise ValueError(f"Expected the state of an IRCRTrainer, got values {sorted(values)}.")
        self.model.lowest = float(values["limits"]["lowest"])
        self.model.highest = float(values["limits"]["highest"])
        self.n_steps = int(values["n_steps"])
