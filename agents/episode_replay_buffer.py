"""A replay buffer that knows its episodes, for Box and Dict observations, with n-step returns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from libero_reward_envs.agents.episode_index import EpisodeIndex
from libero_reward_envs.agents.replay_state import check_ring_arrays
from libero_reward_envs.reward_models.base import (
    BOX_OBSERVATION_KEY,
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    Transitions,
)
from libero_reward_envs.wrappers.taken_actions import get_taken_action


class EpisodeReplayBuffer(DictReplayBuffer):
    """Replay buffer of Stable-Baselines3 from which finished episodes can be drawn too.

    Inside, a Box observation stands under "state". Finished episodes that are still whole in here
    can be drawn from: `lengths`, `returns` and `gather`, which gives observations that are raw,
    also under `VecNormalize` (there SB3 restores last observations only within `clip_obs`).

    An env that was reset before its episode ended is noticed where its next observation is not the
    one announced (`TrainRewardModel` tells of resets that leave no such trace): that episode never
    counts as finished, and n-step returns stop there.

    Args:
        buffer_size: Transitions, of all envs together.
        observation_space: Box or Dict.
        action_space: As in SB3.
        device: Of the samples.
        n_envs: Number of envs.
        optimize_memory_usage: Must be False; it cannot live with time-outs.
        handle_timeout_termination: Whether the agent bootstraps at time-outs, as in SB3.
        n_steps: Steps whose rewards are discounted and summed, up to the end of the episode.
        gamma: Discount in that sum; give the agent's if `n_steps` is not 1.

    Attributes:
        terminated: Whether a transition ended its episode other than by time, bool.
        episodes: The index of finished episodes.

    Raises:
        ValueError: If an argument is not valid.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "Expected optimize_memory_usage=False, got True: it keeps no next observation of "
                "an episode's last step, which time-outs and rewards need."
            )
        if n_steps < 1 or not 0 <= gamma <= 1:
            raise ValueError(
                f"Expected n_steps >= 1 and gamma in [0, 1], got n_steps={n_steps}, gamma={gamma}."
            )
        self._is_box = not isinstance(observation_space, spaces.Dict)
        if not isinstance(observation_space, spaces.Dict):
            observation_space = spaces.Dict({BOX_OBSERVATION_KEY: observation_space})
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.n_steps = n_steps
        self.gamma = gamma
        self._keys_to_read: tuple[str, ...] = tuple(self.observations)
        # SB3's own `timeouts` stay empty without `handle_timeout_termination`.
        self.terminated = np.zeros((self.buffer_size, n_envs), bool)
        self.episodes = EpisodeIndex(self.buffer_size, n_envs)

    @property
    def lengths(self) -> np.ndarray:
        """T of each finished episode, shape (E,), int64."""
        return self.episodes.lengths

    @property
    def returns(self) -> np.ndarray:
        """Sum of the env's own rewards of each finished episode, shape (E,), float64."""
        return self.episodes.returns

    def gather(self, episodes: np.ndarray, steps: np.ndarray) -> Transitions:
        """Return steps (n, K) of episodes (n,) as n * K transitions, episode after episode."""
        repeated = np.repeat(episodes, steps.shape[1])
        return self._read(*self.episodes.locate(repeated, steps.ravel()), repeated)

    def add(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes a Box observation too
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one transition of each env, with the action that was taken (`get_taken_action`)."""
        row = self.pos
        action = np.stack(
            [get_taken_action(action[index], info) for index, info in enumerate(infos)]
        )
        self.timeouts[row] = 0  # SB3 leaves it where it does not handle time-outs
        first, second = (
            side if isinstance(side, dict) else {BOX_OBSERVATION_KEY: side}
            for side in (obs, next_obs)
        )
        super().add(first, second, action, reward, done, infos)
        dones = np.asarray(done, bool)
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos], bool)
        self.terminated[row] = dones & ~truncated
        self._end_broken_episodes(row)
        self.episodes.add(self.rewards[row], dones)

    def abandon_episodes(self) -> None:
        """Say that no running episode goes on: the envs will be reset, or other data follows."""
        if self.episodes.n_added:
            self._end_running(self.pos - 1, np.ones(self.n_envs, bool))

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self.episodes = EpisodeIndex(self.buffer_size, self.n_envs)

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return what a checkpoint needs: arrays by name, which are views, and JSON values."""
        indexed, values = self.episodes.get_state()
        arrays = {name: array[: self.size()] for name, array in self._ring_arrays().items()}
        arrays |= {f"episodes/{name}": array for name, array in indexed.items()}
        return arrays, {**values, **self._settings()}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Hold what the buffer held that gave this state.

        Raises:
            ValueError: If that buffer was made otherwise; then nothing changes.
        """
        for name, own in self._settings().items():
            if values.get(name) != own:
                raise ValueError(
                    f"Expected the state of a buffer with {name} {own}, got {values.get(name)}. "
                    "Make the buffer as it was made then."
                )
        n_added = int(values["n_added"])
        n_filled = min(n_added, self.buffer_size)
        ring = self._ring_arrays()
        indexed = {f"episodes/{name}": name for name in self.episodes.get_state()[0]}
        check_ring_arrays(arrays, ring, indexed.keys(), n_filled)
        self.episodes.set_state({indexed[key]: arrays[key] for key in indexed}, values)
        for name, array in ring.items():
            array[:n_filled] = arrays[name]
        self.pos, self.full = n_added % self.buffer_size, n_added >= self.buffer_size

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a state to fit, as JSON would hold it."""
        return {
            "n_rows": self.buffer_size,
            "n_envs": self.n_envs,
            "n_steps": self.n_steps,
            "gamma": self.gamma,
        }

    def _ring_arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays with a row a step and a column an env."""
        names = ("actions", "rewards", "dones", "timeouts", "terminated")
        arrays = {name: getattr(self, name) for name in names}
        arrays |= {f"observations/{key}": a for key, a in self.observations.items()}
        return arrays | {f"next_observations/{key}": a for key, a in self.next_observations.items()}

    def _end_broken_episodes(self, row: int) -> None:
        """Find the envs whose observation is not the one that the step before announced."""
        if self.episodes.n_added == 0 or self.buffer_size == 1:
            return
        broken = np.zeros(self.n_envs, bool)
        for key, array in self.observations.items():
            differs = array[row] != self.next_observations[key][row - 1]
            broken |= differs.reshape(self.n_envs, -1).any(1)
        if broken.any():
            self._end_running(row - 1, broken)

    def _end_running(self, row: int, columns: np.ndarray) -> None:
        columns = columns & (self.dones[row] == 0)
        self.timeouts[row, columns] = 1  # n-step returns stop here and bootstrap
        self.episodes.abandon(columns)

    def _get_samples(  # pyright: ignore[reportIncompatibleMethodOverride]  # Box samples too
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        # SB3 draws from NumPy's global generator; the same draws give the same rows as there.
        columns = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002
        return self._make_samples(batch_inds, columns, None, env)

    def _make_samples(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        episodes: np.ndarray | None,
        env: VecNormalize | None,
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        last, discounts = rows, None
        if self.n_steps == 1:
            rewards = self._compute_rewards(rows, columns, episodes)
        else:
            last, rewards, factors = self._sum_rewards(rows, columns, episodes)
            discounts = self.to_torch(factors[:, None], copy=False)
        # Time-outs are no ends for the agent: SB3's rule, which needs `handle_timeout_termination`.
        dones = self.dones[last, columns] * (1 - self.timeouts[last, columns])
        samples: Any = ReplayBufferSamples if self._is_box else DictReplayBufferSamples
        return samples(
            observations=self._to_agent(self.observations, rows, columns, env),
            actions=self.to_torch(self.actions[rows, columns], copy=False),
            next_observations=self._to_agent(self.next_observations, last, columns, env),
            dones=self.to_torch(dones[:, None], copy=False),
            rewards=self.to_torch(rewards[:, None], copy=False),
            discounts=discounts,
        )

    def _sum_rewards(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the last row of each n-step return, the return, and gamma to the steps in it."""
        steps = np.arange(self.n_steps)
        window = (rows[:, None] + steps) % self.buffer_size
        beside = np.broadcast_to(columns[:, None], window.shape)
        ends = (self.dones[window, beside] > 0) | (self.timeouts[window, beside] > 0)
        # After the newest row come the oldest ones, of another episode.
        ends |= window == (self.pos - 1) % self.buffer_size
        n_more = np.where(ends.any(1), ends.argmax(1), self.n_steps - 1)
        inside = steps <= n_more[:, None]
        repeated = None
        if episodes is not None:
            repeated = np.broadcast_to(episodes[:, None], window.shape)[inside]
        rewards = np.zeros(window.shape, np.float32)
        rewards[inside] = self._compute_rewards(window[inside], beside[inside], repeated)
        powers = self.gamma ** np.arange(self.n_steps, dtype=np.float32)
        discounts = self.gamma ** (n_more + 1).astype(np.float32)
        return (rows + n_more) % self.buffer_size, (rewards * powers).sum(1), discounts

    def _to_agent(
        self,
        side: Mapping[str, np.ndarray],
        rows: np.ndarray,
        columns: np.ndarray,
        env: VecNormalize | None,
    ) -> Any:
        found: Any = {key: array[rows, columns] for key, array in side.items()}
        if self._is_box:
            found = self._normalize_obs(found[BOX_OBSERVATION_KEY], env)
            return self.to_torch(found, copy=False)
        found = self._normalize_obs(found, env)
        return {key: self.to_torch(value, copy=False) for key, value in found.items()}

    def _compute_rewards(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> np.ndarray:
        """Return the reward of some transitions, shape (n,), float32."""
        return self.rewards[rows, columns]

    def _read(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> Transitions:
        """Return raw transitions, with what is known of their episodes if these are given."""
        facts = {EPISODE_RETURN_KEY: self.returns, EPISODE_LENGTH_KEY: self.lengths}
        named = facts.keys() & set(() if episodes is None else self._keys_to_read)
        known = {key: facts[key][episodes].astype(np.float32) for key in named}
        first, second = (
            {key: side[key][rows, columns] for key in self._keys_to_read if key in side} | known
            for side in (self.observations, self.next_observations)
        )
        return Transitions(
            first, self.actions[rows, columns], second, self.terminated[rows, columns]
        )
