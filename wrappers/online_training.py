"""Training of a reward model inside the wrapper that applies it, from the steps that pass."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.base import RewardModel, Transitions
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd_data import N_EPISODES_TO_VARY, warn_of_equal_returns
from libero_reward_envs.reward_models.training import RewardTrainer
from libero_reward_envs.wrappers.lazy_reward_model import LazyRewardModel

MODEL_VERSION_KEY = "reward/model_version"


class OnlineTraining:
    """Collects the episodes of n envs and trains a reward model on those that have finished.

    `LearnedReward` and `VecLearnedReward` use it with `online=True`. It is itself a
    `RewardTrainer`: `SaveCheckpoints(..., trainer=venv.online_training)` keeps it, episodes
    included, except for those that are not finished.

    Args:
        trainer: Trains the model.
        n_envs: Number of envs.
        capacity: Transitions that are kept, see `EpisodeStore`.
        steps_per_env_step: Reward steps each time all envs have made a step, from the end of the
            first episode on.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self, trainer: RewardTrainer, n_envs: int, *, capacity: int, steps_per_env_step: int
    ) -> None:
        if steps_per_env_step < 1:
            raise ValueError(f"`steps_per_env_step` must be at least 1, got {steps_per_env_step}.")
        self.trainer = trainer
        self.store = EpisodeStore(trainer.model.observation_keys, capacity)
        self.losses: dict[str, float] = {}
        self._steps_per_env_step = steps_per_env_step
        self._capacity = capacity
        self._checked_returns = False
        # None for an episode that was given up.
        self._open: list[list[tuple[Transitions, int, float]] | None] = [[] for _ in range(n_envs)]

    @property
    def model(self) -> RewardModel:
        """The model that is trained."""
        return self.trainer.model

    @property
    def n_steps(self) -> int:
        """How many reward steps were done: the version of the model."""
        return self.trainer.n_steps

    def train(self, source: Any = None, n_steps: int = 1) -> dict[str, float]:
        """Do reward steps on the episodes collected here, or on those of another source."""
        return self.trainer.train(self.store if source is None else source, n_steps)

    def forget_open_episodes(self) -> None:
        """Drop what was collected of episodes that are not finished, as after a reset."""
        self._open = [[] for _ in self._open]

    def finish_open_episodes(self) -> None:
        """Count what was collected of open episodes as episodes that ran out of time."""
        for index in range(len(self._open)):
            self._finish(index)

    def record(self, transitions: Transitions, env_rewards: np.ndarray, dones: np.ndarray) -> None:
        """Take a step of all envs, and train.

        Args:
            transitions: One of each env; next observations as before an env reset itself.
            env_rewards: The env's own rewards, shape (n,).
            dones: Whether the episode is over, by its end or by time, shape (n,).

        Raises:
            ValueError: If an action is outside [-1, 1], or a reward is not finite.
        """
        if np.abs(transitions.actions).max() > 1:
            raise ValueError(
                f"Expected actions in [-1, 1], got {transitions.actions}. Clip them before the env."
            )
        for index, steps in enumerate(self._open):
            if steps is not None:
                steps.append((transitions, index, float(env_rewards[index])))
                if len(steps) >= self._capacity:
                    self._give_up(index)
            if dones[index]:
                self._finish(index)
        self.losses = self.train(n_steps=self._steps_per_env_step)
        if not self._checked_returns and len(self.store.lengths) >= N_EPISODES_TO_VARY:
            self._checked_returns = True
            warn_of_equal_returns(self.store.returns)

    def _finish(self, index: int) -> None:
        steps = self._open[index]
        self._open[index] = []
        if steps:
            self.store.append(_join(steps))

    def _give_up(self, index: int) -> None:
        self._open[index] = None
        warnings.warn(
            f"An episode of {self._capacity} steps or more is not learned from, because at most "
            f"{self._capacity} are kept. Use TimeLimit, or give a larger `capacity`.",
            stacklevel=4,
        )

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the state of the trainer and the finished episodes."""
        arrays, values = self.trainer.get_state()
        episodes = {f"episodes/{name}": value for name, value in self.store.get_state().items()}
        return {**arrays, **episodes}, values

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the training would have that gave this state, with the next episode.

        Raises:
            ValueError: If the state belongs to another kind or size of model.
        """
        prefix = "episodes/"
        own = {name: value for name, value in arrays.items() if not name.startswith(prefix)}
        self.trainer.set_state(own, values)
        self.store.set_state(
            {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
        )
        self.forget_open_episodes()


def make_online_training(
    model: RewardModel,
    n_envs: int,
    *,
    trainer: RewardTrainer | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
    capacity: int = 100_000,
    steps_per_env_step: int = 1,
) -> OnlineTraining:
    """Return the training of `model`; an RRD model needs no trainer, it gets an `RRDTrainer`.

    Args:
        model: The model that the wrapper applies.
        n_envs: Number of envs.
        trainer: Its trainer, for models of another method.
        trainer_kwargs: Arguments of `RRDTrainer`. By default returns are multiplied as when the
            model was fitted, and a model that never was takes its normalisation from the first
            episodes.
        capacity: See `OnlineTraining`.
        steps_per_env_step: See `OnlineTraining`.

    Raises:
        TypeError: If there is no trainer for this model.
        ValueError: If the trainer trains another model, or both it and its arguments are given.
    """
    from libero_reward_envs.reward_models.rrd_model import RRDRewardModel
    from libero_reward_envs.reward_models.rrd_trainer import RRDTrainer

    if trainer is not None and trainer_kwargs:
        raise ValueError("Give `trainer` or `trainer_kwargs`, not both: the latter make a trainer.")
    if trainer is None:
        if not isinstance(model, RRDRewardModel):
            raise TypeError(
                f"online=True trains RRD rewards by itself, got a {type(model).__name__}. "
                "Pass its `trainer`."
            )
        defaults = {
            "return_scale": model.training.get("return_scale", 1.0),
            "normalize_from_data": model.normalize and not model.was_normalized,
        }
        trainer = RRDTrainer(model, **{**defaults, **(trainer_kwargs or {})})
    if trainer.model is not model:
        raise ValueError("Expected a `trainer` of the reward model that is applied, got another's.")
    return OnlineTraining(trainer, n_envs, capacity=capacity, steps_per_env_step=steps_per_env_step)


class LazyOnlineTraining:
    """The training of a wrapper's model, made when the model is loaded, or none.

    Args:
        lazy_model: The model.
        n_envs: Number of envs.
        online: Whether there is any training.
        online_kwargs: Further arguments of `make_online_training`.

    Raises:
        ValueError: If there are arguments but `online` is false.
    """

    def __init__(
        self,
        lazy_model: LazyRewardModel,
        n_envs: int,
        online: bool,
        online_kwargs: Mapping[str, Any] | None,
    ) -> None:
        if online_kwargs and not online:
            raise ValueError("`online_kwargs` are given, but `online` is False. Set online=True.")
        self._lazy_model, self._n_envs, self._online = lazy_model, n_envs, online
        self._arguments = dict(online_kwargs or {})
        self._training: OnlineTraining | None = None

    def get(self) -> OnlineTraining | None:
        """Return the training, or None."""
        if self._online and self._training is None:
            self._training = make_online_training(
                self._lazy_model.get(), self._n_envs, **self._arguments
            )
        return self._training

    def record(
        self, transitions: Transitions, env_rewards: np.ndarray, dones: np.ndarray
    ) -> dict[str, int]:
        """Train on a step of all envs; return the version its rewards are of, for infos."""
        training = self.get()
        if training is None:
            return {}
        version = training.n_steps
        training.record(transitions, env_rewards, dones)
        return {MODEL_VERSION_KEY: version}


def _join(steps: list[tuple[Transitions, int, float]]) -> Episode:
    """Return the steps of one env as an episode."""
    last, index, _ = steps[-1]
    observations = {
        key: np.stack([t.observations[key][i] for t, i, _ in steps] + [value[index]])
        for key, value in last.next_observations.items()
    }
    return Episode(
        observations,
        np.stack([t.actions[i] for t, i, _ in steps]),
        np.array([reward for *_, reward in steps]),
        terminated=bool(last.terminated[index]),
        success=False,
    )
