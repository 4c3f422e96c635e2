"""What trains a reward model step by step, offline or while an agent learns."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from libero_reward_envs.reward_models.base import RewardModel
from libero_reward_envs.reward_models.rrd_data import SubsequenceSource


@runtime_checkable
class RewardTrainer(Protocol):
    """Trains a reward model on finished episodes, and can be stopped and resumed."""

    # Properties here, so that type checkers take any attributes that can be read as such.
    @property
    def model(self) -> RewardModel:
        """The model that is trained; it may be used between any two calls."""
        ...

    @property
    def n_steps(self) -> int:
        """How many reward steps were done: the version of the model."""
        ...

    def train(self, source: SubsequenceSource, n_steps: int = 1) -> dict[str, float]:
        """Do `n_steps` reward steps; return their mean losses by name, none without an episode."""
        ...

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that later steps depend on: arrays by name, and values as JSON holds them."""
        ...

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the trainer would have that gave this state.

        Raises:
            ValueError: If the state belongs to another kind or size of model.
        """
        ...
