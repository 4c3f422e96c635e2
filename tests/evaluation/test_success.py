"""True success, its interval, and errors that are no failures."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from libero_reward_envs.agents.experts import make_expert
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.evaluation.success import (
    EpisodeResult,
    evaluate_agent,
    summarize_results,
    wilson_interval,
)
from libero_reward_envs.wrappers.learned_reward import LearnedReward


class Corridor(gym.Env[Any, Any]):
    """Success on reaching 3; steps of -1 or +1; `is_success` only when there."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.is_closed = False
        self.resets: list[tuple[int | None, Any]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets.append((seed, options))
        self.place = 0
        return self._observation(), dict(options or {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 1 if action[0] > 0 else -1
        is_there = self.place == 3
        is_over = is_there or self.place == -3
        return self._observation(), float(is_there), is_there, is_over, {"is_success": is_there}

    def close(self) -> None:
        self.is_closed = True

    def _observation(self) -> np.ndarray:
        return np.array([self.place], np.float32)


class Walker:
    """Walks one way; turns round in each following episode if told so; may break."""

    def __init__(self, direction: float = 1.0, turns: bool = False, breaks_in: int = -1) -> None:
        self.direction, self.turns, self.breaks_in = direction, turns, breaks_in
        self.episode = -1

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        if episode_start[0]:
            assert state is None
            self.episode += 1
            self.direction *= -1 if self.turns and self.episode > 0 else 1
        if self.episode == self.breaks_in:
            raise FloatingPointError("no action")
        return np.array([self.direction], np.float32), self.episode


class PaysForWalking:
    observation_keys = ("state",)

    def compute_reward(self, transitions: Any) -> np.ndarray:
        return np.full(len(transitions.actions), 10.0, np.float32)


def test_success_is_what_the_env_says() -> None:
    results = evaluate_agent(Walker(turns=True), Corridor(), 4)
    assert [result.success for result in results] == [True, False, True, False]
    assert [result.env_return for result in results] == [1.0, 0.0, 1.0, 0.0]
    assert {result.steps for result in results} == {3}
    assert results[0].model_return is None


def test_a_learned_reward_is_shown_and_decides_nothing() -> None:
    env = LearnedReward(Corridor(), PaysForWalking())
    [result] = evaluate_agent(Walker(direction=-1.0), env, 1)
    assert (result.success, result.env_return, result.model_return) == (False, 0.0, 30.0)


def test_seeds_and_initial_states_are_fixed() -> None:
    env = Corridor()
    results = evaluate_agent(Walker(), env, 3, seed=7, init_state_ids=[4, 5])
    assert [seed for seed, _ in env.resets] == [7, 8, 9]
    assert [result.init_state_id for result in results] == [4, 5, 4]


def test_an_error_is_no_failure_and_the_other_episodes_count() -> None:
    results = evaluate_agent(Walker(breaks_in=1), Corridor(), 3)
    assert [result.success for result in results] == [True, None, True]
    assert results[1].error == "FloatingPointError: no action"
    summary = summarize_results(results)
    assert (summary.successes, summary.episodes, summary.errors) == (2, 2, 1)


def test_an_interrupt_stops_the_evaluation() -> None:
    class Interrupted(Walker):
        def predict(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_agent(Interrupted(), Corridor(), 1)


def test_an_env_that_is_made_is_closed_and_one_that_is_given_is_not() -> None:
    given, made = Corridor(), Corridor()
    evaluate_agent(Walker(), given, 1)
    evaluate_agent(Walker(), lambda: made, 1)
    assert (given.is_closed, made.is_closed) == (False, True)


def test_nothing_finished_gives_no_rate() -> None:
    summary = summarize_results([EpisodeResult(0, 0, 5, None, 0.0, None, "broken")])
    assert (summary.episodes, summary.errors, summary.low, summary.mean_steps) == (0, 1, None, None)


def test_wilson_intervals_match_scipy() -> None:
    from scipy.stats import binomtest

    for successes, n in ((0, 10), (3, 10), (10, 10), (1, 1), (57, 200)):
        for confidence in (0.9, 0.95):
            expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
            assert wilson_interval(successes, n, confidence) == pytest.approx(
                (expected.low, expected.high), abs=1e-12
            )


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_episodes"):
        evaluate_agent(Walker(), Corridor(), 0)
    with pytest.raises(ValueError, match="init_state_ids"):
        evaluate_agent(Walker(), Corridor(), 1, init_state_ids=[])


def test_an_evaluation_in_the_simulator_repeats_itself(make_env: Callable[..., LiberoEnv]) -> None:
    class Reacher:
        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
            return np.tanh(np.asarray(observation[:7], np.float32)), None

    env = gym.wrappers.TimeLimit(make_env(), 5)
    first, second = (evaluate_agent(Reacher(), env, 2, seed=3) for _ in range(2))
    assert first == second
    assert [result.steps for result in first] == [5, 5]
    assert first[0].init_state_id is not None


def test_each_row_says_which_object_models_ran():
    env = gym.make("libero_reward_envs:Libero-v0", assets="builtin", max_episode_steps=3)
    rows = evaluate_agent(make_expert(find_task()), env, 1, seed=0, init_state_ids=[4])
    env.close()
    assert rows[0].error is None
    assert (rows[0].assets, rows[0].init_state_id, rows[0].steps) == ("builtin", 4, 3)
