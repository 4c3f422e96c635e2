"""A reward model that learns while a Stable-Baselines3 agent does."""

from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from libero_reward_envs.reward_models.rrd_data import SubsequenceSource
from libero_reward_envs.reward_models.training import RewardTrainer

_N_LOGGED = 1000  # reward steps whose losses are averaged in the logs


class TrainRewardModel(BaseCallback):
    """Trains a reward model on the agent's own episodes, one reward step for each critic step.

    That is the schedule of Ren et al. (2022), arXiv 2111.13485. The episodes are those of the
    agent's `RelabelReplayBuffer`, which gives the agent rewards of the model as it is then. Reward
    steps begin with the first critic step after the first finished episode, and follow the critic's
    by at most one round of them.

    Logs `reward_model/n_steps` and the mean losses as `reward_model/<name>`.

    Args:
        trainer: Trains the model; its `n_steps` is the version that the buffer keeps with rewards.
        source: Episodes to learn from; by default those of the replay buffer.
        steps_per_gradient_step: Reward steps for each critic step.

    Raises:
        ValueError: If `steps_per_gradient_step` is not positive.
        TypeError: When training begins, if there is no `source` and the agent has no buffer that
            offers its episodes.
    """

    def __init__(
        self,
        trainer: RewardTrainer,
        *,
        source: SubsequenceSource | None = None,
        steps_per_gradient_step: int = 1,
    ) -> None:
        super().__init__()
        if steps_per_gradient_step < 1:
            raise ValueError(
                f"`steps_per_gradient_step` must be at least 1, got {steps_per_gradient_step}."
            )
        self.trainer = trainer
        self._given_source = source
        self._ratio = steps_per_gradient_step
        self._n_updates = 0
        self._losses: deque[tuple[int, dict[str, float]]] = deque(maxlen=_N_LOGGED)

    def _on_training_start(self) -> None:
        self._source = self._find_source()
        self._n_updates = self._count_updates()
        self._tell_version()

    def _on_rollout_start(self) -> None:
        self._catch_up()  # an off-policy algorithm has just trained, or is about to begin

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._catch_up()

    def _catch_up(self) -> None:
        n_new = self._count_updates() - self._n_updates
        self._n_updates += n_new
        if n_new <= 0:
            return
        n_steps = n_new * self._ratio
        losses = self.trainer.train(self._source, n_steps)
        if losses:
            self._losses.append((n_steps, losses))
            self._tell_version()
        self._log()

    def _log(self) -> None:
        self.logger.record("reward_model/n_steps", self.trainer.n_steps)
        weights = [n for n, _ in self._losses]
        for name in self._losses[0][1] if self._losses else ():
            values = [losses[name] for _, losses in self._losses]
            self.logger.record(f"reward_model/{name}", float(np.average(values, weights=weights)))

    def _tell_version(self) -> None:
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if hasattr(buffer, "model_version"):
            buffer.model_version = self.trainer.n_steps

    def _count_updates(self) -> int:
        return int(getattr(self.model, "_n_updates", 0))

    def _find_source(self) -> SubsequenceSource:
        if self._given_source is not None:
            return self._given_source
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if isinstance(self.model, OffPolicyAlgorithm) and hasattr(buffer, "gather"):
            return buffer
        raise TypeError(
            "Expected an off-policy agent with replay_buffer_class=RelabelReplayBuffer, got "
            f"{type(self.model).__name__} with {type(buffer).__name__}. For PPO and other "
            "on-policy agents use VecLearnedReward(online=True), which trains the model itself."
        )
