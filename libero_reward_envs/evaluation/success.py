"""Whether an agent solves its task: true success on fixed initial states, with an interval."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np


class Agent(Protocol):
    """What acts, with Stable-Baselines3's `predict`: its algorithms, policies, scripted experts."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Return the action for one observation, and the state of a recurrent agent."""
        ...


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """One episode of an evaluation.

    Args:
        init_state_id: The stored initial state, or None where the env has none.
        seed: What the env was reset with.
        steps: Steps until the end.
        success: Whether the task was solved; None after an error, which is no failure of the agent.
        env_return: Sum of the env's own rewards.
        model_return: Sum of the learned rewards; None if the env has none.
        error: What went wrong, if the episode could not be finished.
        assets: Which object models ran, as the env says; only "official" gives benchmark numbers.
    """

    init_state_id: int | None
    seed: int
    steps: int
    success: bool | None
    env_return: float
    model_return: float | None
    error: str | None = None
    assets: str | None = None


@dataclasses.dataclass(frozen=True)
class SuccessRate:
    """The share of episodes that succeeded, without those that ended in an error.

    Args:
        successes: Episodes that succeeded.
        episodes: Episodes that were finished.
        errors: Episodes that were not.
        low: Lower end of the Wilson interval at 95 %; None without a finished episode.
        high: Upper end.
        mean_steps: Mean number of steps; None without a finished episode.
        mean_env_return: Mean of the env's own returns; None without a finished episode.
    """

    successes: int
    episodes: int
    errors: int
    low: float | None
    high: float | None
    mean_steps: float | None
    mean_env_return: float | None


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a success probability, after Wilson (1927).

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), where p = successes / n.
    Unlike the normal approximation it stays within 0 and 1 and has a width at p = 0 and p = 1.

    Raises:
        ValueError: If there is no trial, too many successes, or `confidence` is not in (0, 1).

    Example:
        >>> low, high = wilson_interval(10, 10)
        >>> round(low, 3), high
        (0.722, 1.0)
    """
    from scipy.stats import norm

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n with n > 0, got {successes} of {n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1), got {confidence}.")
    z = float(norm.ppf(0.5 + confidence / 2))
    share = successes / n
    centre = share + z**2 / (2 * n)
    half_width = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    low, high = (centre - half_width) / scale, (centre + half_width) / scale
    # Exact at the ends, where rounding would leave 1e-17.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def evaluate_agent(
    agent: Agent,
    env: gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]],
    n_episodes: int,
    *,
    seed: int = 0,
    init_state_ids: Sequence[int] | None = None,
    deterministic: bool = True,
    on_episode: Callable[[EpisodeResult], object] | None = None,
) -> list[EpisodeResult]:
    """Run an agent and record what the env itself says of each episode.

    Success is `info["is_success"]` at any step, never a learned reward. Episode k is reset with
    `seed + k`. An error of env or agent ends its episode only and is kept apart from failure.

    Args:
        agent: Anything with Stable-Baselines3's `predict`; its `reset`, if any, begins an episode.
        env: The env, which stays open, or what makes one, which is closed.
        n_episodes: Episodes to run.
        seed: See above.
        init_state_ids: Stored initial states, taken in turn; by default the seed decides.
        deterministic: Whether the agent acts by its mode rather than at random.
        on_episode: Called with each result.

    Raises:
        ValueError: If `n_episodes` is not positive, or there is no id in `init_state_ids`.
    """
    if n_episodes < 1:
        raise ValueError(f"`n_episodes` must be at least 1, got {n_episodes}.")
    if init_state_ids is not None and not len(init_state_ids):
        raise ValueError("`init_state_ids` must name at least one initial state, or be None.")
    running = env if isinstance(env, gym.Env) else env()
    results = []
    try:
        for index in range(n_episodes):
            chosen = None if init_state_ids is None else init_state_ids[index % len(init_state_ids)]
            result = _run_episode(agent, running, seed + index, chosen, deterministic)
            results.append(result)
            if on_episode is not None:
                on_episode(result)
    finally:
        if running is not env:
            running.close()
    return results


def summarize_results(results: Sequence[EpisodeResult]) -> SuccessRate:
    """Return the success rate of an evaluation."""
    finished = [result for result in results if result.success is not None]
    successes = sum(bool(result.success) for result in finished)
    low, high = wilson_interval(successes, len(finished)) if finished else (None, None)
    return SuccessRate(
        successes=successes,
        episodes=len(finished),
        errors=len(results) - len(finished),
        low=low,
        high=high,
        mean_steps=_mean([result.steps for result in finished]),
        mean_env_return=_mean([result.env_return for result in finished]),
    )


def _run_episode(
    agent: Agent, env: gym.Env[Any, Any], seed: int, init_state_id: int | None, deterministic: bool
) -> EpisodeResult:
    steps, env_return, success = 0, 0.0, False
    model_return: float | None = None
    error: str | None = None
    used_id, assets = init_state_id, None
    try:
        options = None if init_state_id is None else {"init_state_id": init_state_id}
        observation, info = env.reset(seed=seed, options=options)
        used_id, assets = info.get("init_state_id", init_state_id), info.get("assets")
        if callable(reset := getattr(agent, "reset", None)):
            reset()
        state, is_over = None, False
        while not is_over:
            start = np.array([steps == 0])
            action, state = agent.predict(observation, state, start, deterministic)
            observation, reward, terminated, truncated, info = env.step(action)
            steps += 1
            env_return += float(info.get("reward/env", reward))
            if "reward/model" in info:
                model_return = (model_return or 0.0) + float(info["reward/model"])
            success = success or bool(info.get("is_success", False))
            is_over = terminated or truncated
    except Exception as problem:  # whatever it was, the other episodes still count
        error = f"{type(problem).__name__}: {problem}"
    outcome = success if error is None else None
    return EpisodeResult(used_id, seed, steps, outcome, env_return, model_return, error, assets)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
