"""Attempts at an episode of a wanted outcome, by an expert or by a policy that fails."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.experts import ScriptedExpert, ScriptedPolicy
from libero_reward_envs.agents.failures import make_failing
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.wrappers.record_episodes import RecordEpisodes

MAX_ATTEMPTS = 20  # for one episode of the wanted outcome
EXPERT = "expert"  # the kind of an episode that the expert itself acts in


class EndAfterSuccess(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Truncates an episode some steps after its first success.

    Whether the task is still solved in these steps, each step's own `info["is_success"]` says.

    Args:
        env: An environment that goes on after success (`terminate_on_success=False`).
        n_steps: Steps after the first one with success.
    """

    def __init__(self, env: gym.Env[Any, np.ndarray], n_steps: int):
        super().__init__(env)
        self._n_steps = n_steps
        self._n_left: int | None = None  # None before success

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._n_left = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._n_left is not None:
            self._n_left -= 1
        elif info["is_success"]:
            self._n_left = self._n_steps
        return observation, reward, terminated, truncated or self._n_left == 0, info


class Attempts:
    """Makes episode i of the wanted outcome, from the seed and i alone.

    Args:
        env: The environment. With `steps_after_success` it must go on after success.
        expert: Makes the successes.
        kinds: Kinds of failure, which take turns.
        settings: As `collect_episodes` takes them: "seed", "steps_after_success", "expert_noise";
            all of them are kept in the episode's metadata.

    Attributes:
        n_thrown: Attempts of another outcome than the wanted one, so far.
    """

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        expert: ScriptedExpert,
        kinds: Sequence[str],
        settings: Mapping[str, Any],
    ):
        if settings["steps_after_success"]:
            env = EndAfterSuccess(env, settings["steps_after_success"])
        self._episodes: list[Episode] = []
        self._env = RecordEpisodes(env, self._episodes.append)
        self._expert = expert
        self._kinds = kinds
        self._settings = settings
        self.n_thrown = 0

    def collect(self, index: int, success: bool, n_failures: int) -> Episode:
        """Return episode `index`, before which there are `n_failures` failures.

        Raises:
            RuntimeError: If `MAX_ATTEMPTS` attempts did not give the wanted outcome.
        """
        for attempt in range(MAX_ATTEMPTS):
            entropy = np.random.SeedSequence(self._settings["seed"], spawn_key=(index, attempt))
            rng = np.random.default_rng(entropy)
            kind = EXPERT if success else self._kinds[(n_failures + attempt) % len(self._kinds)]
            episode = self._attempt(index, attempt, kind, rng)
            if episode.success == success:
                return episode
            self.n_thrown += 1
        wanted = "successes" if success else "failures"
        raise RuntimeError(
            f"Expected {wanted} on {self._expert.task.id}, got none in {MAX_ATTEMPTS} attempts at "
            f"episode {index}. Try other `assets` or `failures`."
        )

    def _attempt(self, index: int, attempt: int, kind: str, rng: np.random.Generator) -> Episode:
        policy: ScriptedPolicy = self._expert
        noise = self._settings["expert_noise"]
        if kind != EXPERT:
            policy, noise = make_failing(self._expert, kind, rng), 0.0
        self._env.episode_metadata = {
            "collection": dict(self._settings),
            "episode": index,
            "attempt": attempt,
            "policy": kind,
        }
        self._episodes.clear()
        observation, _ = self._env.reset(seed=int(rng.integers(2**31)))
        policy.reset()
        while not self._episodes:
            action, _ = policy.predict(observation)
            if noise:  # the gripper keeps what the script wants of it
                action[:6] = np.clip(action[:6] + rng.normal(0.0, noise, 6), -1.0, 1.0)
            observation, *_ = self._env.step(action)
        return self._episodes[0]


def is_success_wanted(index: int, success_fraction: float) -> bool:
    """Whether episode `index` is a success; of the first n, `success_fraction` n rounded are."""
    before, after = (
        # The small number takes back what is lost on decimal fractions such as 0.3.
        math.floor(n * success_fraction + 0.5 + 1e-9)
        for n in (index, index + 1)
    )
    return after > before
