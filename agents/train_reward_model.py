"""A reward model that learns while a Stable-Baselines3 agent does."""

import warnings
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.reward_models.rrd_data import (
    N_EPISODES_TO_VARY,
    SubsequenceSource,
    warn_of_equal_returns,
)
from libero_reward_envs.reward_models.training import RewardTrainer

_N_LOGGED = 100  # reward steps whose losses are averaged in the logs


class TrainRewardModel(BaseCallback):
    """Trains a reward model on the agent's own episodes, one reward step for each critic step.

    That is the schedule of Ren et al. (2022), arXiv 2111.13485. The episodes are those of the
    agent's `RelabelReplayBuffer`, which gives the agent rewards of the model as it is then. Reward
    steps begin with the first critic step after the first finished episode, and follow the critic's
    by at most one round of them.

    Where training begins anew or was stopped by a callback, the running episodes do not go on: the
    envs are reset, and the buffer never counts what came before as a finished episode.

    Logs `reward_model/n_steps` and the mean losses as `reward_model/<name>`.

    Args:
        trainer: Trains the model; its `n_steps` is the version that the buffer keeps with rewards.
        source: Episodes to learn from; by default those of the replay buffer.
        steps_per_gradient_step: Reward steps for each critic step.

    Raises:
        ValueError: If `steps_per_gradient_step` is not positive.
            When training begins, if the agent's buffer samples the rewards of another model.
        TypeError: When training begins, if the agent is not an off-policy one with a
            `RelabelReplayBuffer`.
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
        self._sums: dict[str, float] = {}
        self._n_summed = 0
        self._n_missed = 0
        self._checked_returns = False
        self._is_collecting = False

    def _on_training_start(self) -> None:
        self._buffer = self._find_buffer()
        self._source = self._given_source or self._buffer
        self._n_updates = self._count_updates()
        self._buffer.model_version = self.trainer.n_steps
        if self.locals.get("reset_num_timesteps"):
            self._buffer.abandon_episodes()  # the envs were reset

    def _on_rollout_start(self) -> None:
        self._catch_up()  # the algorithm has just trained, or is about to begin
        self._is_collecting = True

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._is_collecting = False

    def _on_training_end(self) -> None:
        self._catch_up()
        if self._is_collecting:
            # A callback stopped the training at a step that SB3 made but does not store. Were it to
            # go on from there, the buffer would join what lies before and after.
            self._is_collecting = False
            self.model._last_obs = None  # so that `learn` resets the envs
            self._buffer.abandon_episodes()
        if self._n_missed and not self.trainer.n_steps:
            warnings.warn(
                f"No reward step was made in {self._n_missed} critic steps, because no episode has "
                "finished within the replay buffer. Limit the length of episodes, or give a larger "
                "`buffer_size`; it is shared by all envs.",
                stacklevel=2,
            )

    def _catch_up(self) -> None:
        n_new = self._count_updates() - self._n_updates
        self._n_updates += n_new
        if n_new <= 0:
            return
        n_steps = n_new * self._ratio
        before = self.trainer.n_steps
        losses = self.trainer.train(self._source, n_steps)
        if self.trainer.n_steps == before:
            self._n_missed += n_new
            return
        self._buffer.model_version = self.trainer.n_steps
        if not self._checked_returns and len(self._source.returns) >= N_EPISODES_TO_VARY:
            self._checked_returns = True
            warn_of_equal_returns(self._source.returns)
        self._log(losses, n_steps)

    def _log(self, losses: dict[str, float], n_steps: int) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + n_steps * value
        self._n_summed += n_steps
        if self._n_summed >= _N_LOGGED:
            self.logger.record("reward_model/n_steps", self.trainer.n_steps)
            for name, value in self._sums.items():
                self.logger.record(f"reward_model/{name}", value / self._n_summed)
            self._sums, self._n_summed = {}, 0

    def _count_updates(self) -> int:
        return int(getattr(self.model, "_n_updates", 0))

    def _find_buffer(self) -> RelabelReplayBuffer:
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, RelabelReplayBuffer):
            raise TypeError(
                "Expected an off-policy agent with replay_buffer_class=RelabelReplayBuffer, got "
                f"{type(self.model).__name__} with {type(buffer).__name__}. For PPO and other "
                "on-policy agents use VecLearnedReward(online=True), which trains the model itself."
            )
        check_same_model(buffer, self.trainer)
        return buffer


def check_same_model(buffer: RelabelReplayBuffer, trainer: RewardTrainer) -> None:
    """Raise ValueError if the buffer samples the rewards of a model that is not trained."""
    if buffer.reward_model is not trainer.model:
        raise ValueError(
            "The replay buffer samples the rewards of another model than the one that is trained; "
            "a loaded agent or buffer holds a copy. Set "
            "`agent.replay_buffer.reward_model = trainer.model`."
        )
