"""The rewards of n envs whose episodes are running, with what the rule must remember of them."""

from typing import Any

import numpy as np

from libero_reward_envs.reward_models.base import RewardModel, Transitions, check_rewards
from libero_reward_envs.reward_models.success_window import SuccessWindow
from libero_reward_envs.wrappers.reward_mix import (
    ENV_REWARD_KEY,
    MODEL_REWARD_KEY,
    TOTAL_REWARD_KEY,
    RewardMix,
    check_scores_observations,
    score_observations,
)

PREDICTED_SUCCESS_KEY = "predicted_success"
_N_CHECKED = 10  # steps on which the model is asked whether it reads more than the mode allows


class EpisodeRewards:
    """Computes the rewards of n envs, step after step, each env in an episode of its own.

    All envs are one batch for the model; where episodes begin, mode "difference" or "potential"
    takes a second one for their first observations.

    Args:
        reward_mix: The rule.
        n_envs: Number of envs.
        model_learns: Whether the model changes between steps. Then the observation before a step is
            scored anew with the one after it: the difference is the step's, not the model's.
    """

    def __init__(self, reward_mix: RewardMix, n_envs: int, *, model_learns: bool = False) -> None:
        self._mix = reward_mix
        self._model_learns = model_learns
        self._begins = np.ones(n_envs, bool)
        self._scores = np.zeros(n_envs, np.float32)  # of the observations that the envs are at
        self._window = SuccessWindow(n_envs, *reward_mix.success_window)
        self._n_checked = 0

    def forget(self) -> None:
        """Begin a new episode in each env."""
        self._begins[:] = True

    def compute(
        self, model: RewardModel, transitions: Transitions, env_rewards: Any, ended: np.ndarray
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return the total rewards, shape (n,), float32, and what each info is to gain.

        Args:
            model: The reward model.
            transitions: One step of each env.
            env_rewards: The env's own rewards, shape (n,).
            ended: Whether the step ended an episode, by a time-out too, (n,), bool.

        Raises:
            ValueError: If the model returns anything but n finite float32 numbers, or reads more
                than the mode allows.
        """
        model_rewards = check_rewards(model.compute_reward(transitions), len(ended), model)
        self._window.forget(self._begins)
        is_success = model_rewards > np.float32(self._mix.find_threshold(model))
        total = self._mix.combine(
            env_rewards,
            model_rewards,
            model,
            scores_before=self._find_scores_before(model, transitions, model_rewards),
            terminated=transitions.terminated,
            ended=ended,
            is_event=self._window.add(is_success),
        )
        self._scores = model_rewards
        self._begins = np.array(ended, bool)
        return total, self._describe(env_rewards, model_rewards, total)

    def _find_scores_before(
        self, model: RewardModel, transitions: Transitions, model_rewards: np.ndarray
    ) -> np.ndarray | None:
        if not self._mix.compares_observations:
            return None
        if self._n_checked < _N_CHECKED:
            check_scores_observations(model, transitions, model_rewards)
            self._n_checked += 1
        scores = self._scores.copy()
        unknown = np.ones_like(self._begins) if self._model_learns else self._begins
        if unknown.any():
            first = transitions.rows(unknown)
            scores[unknown] = score_observations(model, first.observations, first.actions)
        return scores

    def _describe(
        self, env_rewards: Any, model_rewards: np.ndarray, total: np.ndarray
    ) -> list[dict[str, Any]]:
        rows = zip(env_rewards, model_rewards, total, strict=True)
        infos: list[dict[str, Any]] = [
            {
                ENV_REWARD_KEY: float(of_env),
                MODEL_REWARD_KEY: float(of_model),
                TOTAL_REWARD_KEY: float(of_both),
            }
            for of_env, of_model, of_both in rows
        ]
        if self._mix.mode == "success":
            for info, fired in zip(infos, self._window.fired, strict=True):
                info[PREDICTED_SUCCESS_KEY] = bool(fired)
        return infos


def compute_episode_rewards(
    reward_mix: RewardMix, model: RewardModel, transitions: Transitions, env_rewards: Any
) -> np.ndarray:
    """Return the total rewards of a whole episode, shape (T,), float32.

    Args:
        reward_mix: The rule.
        model: The reward model.
        transitions: The T steps of the episode, in their order.
        env_rewards: The env's own rewards, shape (T,).

    Raises:
        ValueError: If the model returns anything but T finite float32 numbers, or reads more than
            the mode allows.
    """
    n_steps = len(transitions.terminated)
    model_rewards = check_rewards(model.compute_reward(transitions), n_steps, model)
    before = None
    if reward_mix.compares_observations:
        check_scores_observations(model, transitions, model_rewards)
        first = transitions.rows(slice(1))
        start = score_observations(model, first.observations, first.actions)
        before = np.concatenate([start, model_rewards[:-1]])
    window = SuccessWindow(1, *reward_mix.success_window)
    is_success = model_rewards > np.float32(reward_mix.find_threshold(model))
    return reward_mix.combine(
        env_rewards,
        model_rewards,
        model,
        scores_before=before,
        terminated=transitions.terminated,
        ended=np.arange(n_steps) == n_steps - 1,
        is_event=np.array([window.add(np.array([here]))[0] for here in is_success]),
    )
