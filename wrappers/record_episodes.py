"""Turns what happens in an environment into `Episode`s."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.wrappers.taken_actions import get_taken_action

# What a reader of the episode must know to make sense of its actions and images.
ACTION_CONVENTION = (
    "OSC_POSE deltas in the world's axes: xyz (1 is 0.05 m), rotation vector (1 is 0.5 rad), "
    "gripper (-1 opens, 1 closes)"
)
_PACKAGES = ("mujoco", "robosuite", "hf-libero")


class EpisodeSink(Protocol):
    """Where episodes go, such as an `EpisodeWriter`."""

    def append(self, episode: Episode) -> None:
        """Take one episode."""
        ...


class RecordEpisodes(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Hands each finished episode to a file or a function.

    Put it outside the time limit, so that it sees episodes end, and inside whatever changes
    rewards or actions: recorded are the env's own reward `info["reward/env"]` (or the reward it
    returns, where there is none) and the actions that arrive here. The episode is a success if
    `info["is_success"]` was True at any step.

    An episode that is reset or closed before it is terminated or truncated is discarded: how it
    would have ended is not known.

    Args:
        env: The environment; actions must lie in [-1, 1].
        sink: An `EpisodeWriter` or another object with `append`, or a function of one episode. It
            is called inside the `step` that ends the episode, and is not closed by this wrapper.
        episode_metadata: How the episodes are made, as JSON would hold it; joins what the
            environment tells. The attribute of this name may be set anew before any episode ends.

    Raises:
        ValueError: If the environment's actions are not in a `Box` within [-1, 1].

    Example:
        >>> episodes = []
        >>> env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1", max_episode_steps=3), -1, 1)
        >>> env = RecordEpisodes(env, episodes.append)
        >>> observation, info = env.reset(seed=0)
        >>> for _ in range(3):
        ...     step = env.step(np.zeros(1, np.float32))
        >>> len(episodes), len(episodes[0]), episodes[0].metadata["seed"]
        (1, 3, 0)
    """

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        sink: EpisodeSink | Callable[[Episode], Any],
        episode_metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gym.spaces.Box) or space.low.min() < -1 or space.high.max() > 1:
            raise ValueError(
                f"Expected actions in a Box within [-1, 1], got {space}. "
                "Wrap the environment in gymnasium.wrappers.RescaleAction first."
            )
        self.episode_metadata = dict(episode_metadata or {})
        self._send: Callable[[Episode], Any] = sink if callable(sink) else sink.append
        self._seed: int | None = None
        self._observations: list[dict[str, np.ndarray]] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._success = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that has not ended is discarded."""
        self._discard()
        observation, info = self.env.reset(seed=seed, options=options)
        self._seed = seed
        self._observations = [_copy_observation(observation)]
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by one step; the one that ends the episode sends it off."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._observations:  # none after the end of an episode, until the next reset
            self._observations.append(_copy_observation(observation))
            self._actions.append(np.array(get_taken_action(action, info), np.float32))
            self._rewards.append(float(info.get("reward/env", reward)))
            self._success = self._success or bool(info.get("is_success", False))
            if terminated or truncated:
                episode = self._make_episode(bool(terminated), info)
                self._discard()  # first, so that a full disk does not leave half an episode here
                self._send(episode)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Discard an episode that has not ended, and close the environment."""
        self._discard()
        self.env.close()

    def _discard(self) -> None:
        self._observations, self._actions, self._rewards = [], [], []
        self._success = False

    def _make_episode(self, terminated: bool, info: Mapping[str, Any]) -> Episode:
        first = self._observations[0]
        return Episode(
            observations={
                key: np.stack([observation[key] for observation in self._observations])
                for key in first
            },
            actions=np.stack(self._actions),
            rewards=np.array(self._rewards, np.float32),
            terminated=terminated,
            success=self._success,
            task=str(info.get("task", "")),
            instruction=str(info.get("instruction", "")),
            metadata={**self._describe_env(info), **self.episode_metadata},
        )

    def _describe_env(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What is known about the environment; a LIBERO environment tells all of it."""
        env: Any = self.env.unwrapped
        described: dict[str, Any] = {"seed": self._seed, "versions": dict(_package_versions())}
        if self.env.spec is not None:
            described["env_id"] = self.env.spec.id
        for name in ("init_state_id", "assets"):
            if name in info:
                described[name] = info[name]
        if task := getattr(env, "task", None):
            described |= {
                "suite": getattr(task, "suite", None),
                "control_freq_hz": env.metadata.get("render_fps"),
                "action_convention": ACTION_CONVENTION,
            }
            described[PROVENANCE_KEY] = _describe_numbers(env).as_json()
        for name in ("obs_type", "orientation", "image_size", "init_states", "settle_steps"):
            if hasattr(env, name):
                described[name] = getattr(env, name)
        return described


def _describe_numbers(env: Any) -> Provenance:
    """How to read what a LIBERO env gives."""
    has_images = getattr(env, "obs_type", "state") != "state"
    control_freq_hz = env.metadata.get("render_fps")
    return Provenance(
        "libero_reward_envs",
        image_size=(env.image_size, env.image_size) if has_images else None,
        orientation=env.orientation if has_images else None,
        control_freq_hz=None if control_freq_hz is None else float(control_freq_hz),
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        no_ops_filtered=False,
        reward_source="env",
        success_source="env",
    )


@functools.cache
def _package_versions() -> dict[str, str]:
    from libero_reward_envs import __version__

    versions = {"libero-reward-envs": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an environment that needs no simulator
    return versions


def _copy_observation(observation: Any) -> dict[str, np.ndarray]:
    """Return copies, because an environment may write the next observation into the same array."""
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    return {"state": np.array(observation)}
