"""How one run of a learning benchmark trains a Stable-Baselines3 agent and is evaluated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from run_log import RunLog
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from libero_reward_envs.agents.train_reward_model import TrainRewardModel
from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training
from libero_reward_envs.reward_models.training import RewardTrainer

Rows = Sequence[Mapping[str, float]]


class EvaluateRun(BaseCallback):
    """Evaluates every `every` steps, and ends training early when there is a reason to.

    Args:
        log: Where the evaluations go.
        evaluate: Gives the values of each measure for the agent, one an episode.
        every: Steps between evaluations.
        is_solved: Whether the evaluations so far are enough; the run is then complete.
    """

    def __init__(
        self,
        log: RunLog,
        evaluate: Callable[[BaseAlgorithm], Mapping[str, Sequence[float]]],
        every: int,
        is_solved: Callable[[Rows], bool] = lambda rows: False,
    ) -> None:
        super().__init__()
        self._log, self._evaluate, self._every = log, evaluate, every
        self._is_solved = is_solved
        self._next_evaluation = 0

    @property
    def is_solved(self) -> bool:
        """Whether the run may end before its last step."""
        return self._is_solved(self._log.rows)

    def _on_training_start(self) -> None:
        self._next_evaluation = (self.num_timesteps // self._every + 1) * self._every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next_evaluation:
            self._next_evaluation += self._every
            self._log.add(self.num_timesteps, self._evaluate(self.model))
            if self.is_solved:
                return False
        return not self._log.is_stopping


def learn(
    log: RunLog,
    agent: BaseAlgorithm,
    total_timesteps: int,
    evaluate: EvaluateRun,
    trainer: RewardTrainer | None = None,
    save_freq: int = 10_000,
) -> bool:
    """Train an agent from its newest checkpoint, or from the start, and write checkpoints.

    Args:
        log: Of the run; its `arguments` must be those of the run that a checkpoint is of.
        agent: A new agent.
        total_timesteps: Steps of the whole run.
        evaluate: Evaluates it.
        trainer: Trains the reward model in the agent's `RelabelReplayBuffer`, if there is one.
        save_freq: Steps between checkpoints; there is also one when the process is asked to stop.

    Returns:
        Whether the run is complete.
    """
    identity = {"run": log.run.name, **log.arguments}
    done = resume_training(agent, log.checkpoints, trainer, identity=identity)
    log.go_on_from(done)
    callbacks: list[BaseCallback] = [] if trainer is None else [TrainRewardModel(trainer)]
    callbacks += [
        evaluate,
        SaveCheckpoints(log.checkpoints, save_freq, trainer, identity=identity),
    ]
    agent.learn(total_timesteps - done, callbacks, reset_num_timesteps=False)
    return evaluate.is_solved or (agent.num_timesteps >= total_timesteps and not log.is_stopping)


class RandomAgent:
    """Acts uniformly at random."""

    def __init__(self, action_space: gym.Space, seed: int) -> None:
        self._space = action_space
        self._space.seed(seed)

    def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        """One action for each of a batch of observations."""
        return np.stack([self._space.sample() for _ in observations]), None


def evaluate_returns(agent: Any, envs: Sequence[gym.Env], seed: int) -> list[float]:
    """Return of one deterministic episode in each env, stepped together so the agent sees a batch.

    Args:
        agent: Anything with Stable-Baselines3's `predict`.
        envs: Envs that pay their true reward.
        seed: Env i is reset with `seed + i`.
    """
    observations = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    returns = [0.0] * len(envs)
    going = list(range(len(envs)))
    while going:
        actions, _ = agent.predict(np.stack([observations[i] for i in going]), deterministic=True)
        still_going = []
        for i, action in zip(going, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if not (terminated or truncated):
                still_going.append(i)
        going = still_going
    return returns
