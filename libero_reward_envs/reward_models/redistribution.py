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
    """Keeps the limits of an `IRCRRewardModel` at the returns of the episodes there are.

    The best episodes seen so far count for the upper limit even when they are no longer stored.

    Args:
        model: What is trained, in place.
        n_best: How many of the best episodes' returns are remembered.

    Attributes:
        model: The model.
        n_steps: How often the limits were set.
    """

    def __init__(self, model: IRCRRewardModel | None = None, *, n_best: int = 10) -> None:
        if n_best < 1:
            raise ValueError(f"`n_best` must be at least 1, got {n_best}.")
        self.model = model or IRCRRewardModel()
        self.n_steps = 0
        self._n_best = n_best
        self._best = np.empty(0)
        self._seen: np.ndarray | None = None

    def train(self, source: SubsequenceSource, n_steps: int = 1) -> dict[str, float]:
        """Set the limits; the losses are none."""
        returns = source.returns
        if len(returns) and returns is not self._seen:  # a source gives a new array on any change
            self._seen = returns
            known = np.concatenate([self._best, returns])
            self._best = np.sort(known)[-self._n_best :]
            self.model.lowest, self.model.highest = float(known.min()), float(known.max())
        if len(returns):
            self.n_steps += n_steps
        return {}

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return limits and counter."""
        return {"best": self._best}, {"arguments": self.model.arguments, "n_steps": self.n_steps}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the trainer would have that gave this state."""
        if "best" not in arrays:
            raise ValueError(f"Expected the state of an IRCRTrainer, got arrays {sorted(arrays)}.")
        self._best = np.array(arrays["best"], np.float64)
        self.model.lowest = float(values["arguments"]["lowest"])
        self.model.highest = float(values["arguments"]["highest"])
        self.n_steps = int(values["n_steps"])
