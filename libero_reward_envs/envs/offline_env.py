"""A dataset of recorded episodes as a Gymnasium environment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from libero_reward_envs.data import Episode, EpisodeDataset, load_episodes
from libero_reward_envs.data.episode_reader import EpisodeReader
from libero_reward_envs.data.step_success import find_step_success
from libero_reward_envs.reward_models.base import BOX_OBSERVATION_KEY

ORDERS = ("sequential", "shuffled", "by_task")


class OfflineEnv(gym.Env[Any, np.ndarray]):
    """Recorded episodes, replayed: `step` takes any action and returns what was recorded.

    Step t of an episode returns o_{t+1} and r_t. The last one is `terminated` if the recorded
    episode was, else `truncated`, so there is no time limit to add. The action that was recorded is
    `info["dataset_action"]`; the one given changes nothing. The package's wrappers that learn from
    (o_t, a_t, o_{t+1}) or save it take the recorded action from there.

    Observation and action spaces are those of the first episode: a single "state" is a `Box`,
    anything else a `Dict`; images are (H, W, C) uint8. Actions are `Box(-1, 1)`. "is_success", the
    labels that `RewardDataCollector` writes, is an observation only if it is asked for.

    `info` has `is_success`, whether the task is solved after this step (see `find_step_success`),
    `success_once`, whether it was so far, `reward/env`, `task`, `instruction`, `episode`, its
    number in the dataset, and `step`, how many are done. `reset` gives the same but the reward.

    `reset(seed=...)` begins the order anew, with another draw for another seed.
    `reset(options={"episode": i})` plays episode i, and the order goes on after it.

    Args:
        dataset: Path of episodes in any format, which `gym.make` keeps as JSON if it is a string,
            or the episodes. Of a path one episode at a time is in memory.
        order: "sequential" as they are stored; "shuffled", all of them in a drawn order, then in
            another; "by_task", each task in turn in a drawn order, then in another, so that each
            comes equally often, with an episode of it, all of them before one is repeated.
        observation_keys: The observations to read; None for all.
        load_kwargs: Further arguments of `load_episodes`, such as `format`, for a path.

    Attributes:
        dataset: The episodes.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If there is no episode, an argument is wrong, or a file is damaged; at a reset,
            if an episode has other observations or actions than the first.

    Example:
        >>> arrays = {"state": np.zeros((3, 4), np.float32)}, np.full((2, 7), 0.5), np.array([0, 1])
        >>> env = OfflineEnv(EpisodeDataset([Episode(*arrays, terminated=True, success=True)]))
        >>> observation, info = env.reset(seed=0)
        >>> steps = [env.step(env.action_space.sample()) for _ in range(2)]
        >>> [(reward, terminated) for _, reward, terminated, _, _ in steps]
        [(0.0, False), (1.0, True)]
        >>> float(steps[1][4]["dataset_action"][0])
        0.5
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        dataset: str | Path | EpisodeDataset,
        *,
        order: str = "sequential",
        observation_keys: Sequence[str] | None = None,
        load_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"Unknown order {order!r}. Choose one of: {', '.join(ORDERS)}.")
        self._reader = EpisodeReader(_load(dataset, load_kwargs or {}), observation_keys)
        self.dataset = self._reader.dataset
        self.order = order
        spaces: dict[str, gym.Space[Any]] = {
            key: _make_space(shape, self._reader.observation_dtypes[key])
            for key, shape in self._reader.observation_shapes.items()
        }
        self._is_box = list(spaces) == [BOX_OBSERVATION_KEY]
        self.observation_space = (
            spaces[BOX_OBSERVATION_KEY] if self._is_box else gym.spaces.Dict(spaces)
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, self._reader.action_shape, np.float32)
        self._groups: list[list[int]] = []  # take turns: episodes of each task, or all as one
        self._turns: list[int] = []  # groups that are still to come before they all begin anew
        self._waiting: dict[int, list[int]] = {}  # of each group, the last one comes next
        self._episode: Episode | None = None
        self._success = np.empty(0, bool)
        self._number = self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the class for what `seed` and `options` decide.

        Raises:
            ValueError: For an unknown option, or an episode that does not fit or is damaged.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._turns, self._waiting = [], {}
        chosen = self._choose(dict(options or {}))
        number = self._draw() if chosen is None else chosen
        self._episode = None  # first, so that never two of them are in memory
        self._episode = self._reader.read(number)
        self._success = find_step_success(self._episode)
        self._number, self._step = number, 0
        return self._observation(), self._info(is_success=False)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return the next recorded transition.

        Raises:
            ValueError: If the action has the wrong shape or is not finite.
            RuntimeError: If the environment was not reset, or its episode is over.
        """
        episode = self._running()
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"Expected an action of shape {self.action_space.shape}, got {action.shape}."
            )
        if not np.isfinite(action).all():
            raise ValueError(f"Expected a finite action, got {action}.")
        recorded, reward = (
            self._running().actions[self._step].copy(),
            float(episode.rewards[self._step]),
        )
        is_success = bool(self._success[self._step])
        self._step += 1
        is_last = self._step == len(episode)
        info = self._info(is_success) | {"reward/env": reward, "dataset_action": recorded}
        terminated = is_last and episode.terminated
        return self._observation(), reward, terminated, is_last and not terminated, info

    def close(self) -> None:
        """Forget the episode."""
        self._episode = None

    def _running(self) -> Episode:
        if self._episode is None:
            raise RuntimeError("Expected `reset()` before the first step.")
        if self._step == len(self._episode):
            raise RuntimeError(
                f"The episode is over after its {self._step} recorded steps. Call `reset()`."
            )
        return self._episode

    def _choose(self, options: dict[str, Any]) -> int | None:
        chosen = options.pop("episode", None)
        if options:
            raise ValueError(f"Unknown reset options {sorted(options)}. Known: episode.")
        if chosen is None:
            return None
        if not isinstance(chosen, int | np.integer) or not 0 <= chosen < len(self.dataset):
            raise ValueError(f"`episode` must be in 0..{len(self.dataset) - 1}, got {chosen!r}.")
        return int(chosen)

    def _draw(self) -> int:
        """Return the number of the next episode."""
        if not self._groups:
            self._groups = self._group()
        if not self._turns:
            self._turns = self.np_random.permutation(len(self._groups)).tolist()
        group = self._turns.pop()
        if not self._waiting.get(group):
            numbers = self._groups[group]
            if self.order == "sequential":
                self._waiting[group] = numbers[::-1]
            else:
                self._waiting[group] = self.np_random.permutation(numbers).tolist()
        return self._waiting[group].pop()

    def _group(self) -> list[list[int]]:
        if self.order != "by_task":
            return [list(range(len(self.dataset)))]
        groups: dict[str, list[int]] = {}
        for number, summary in enumerate(self.dataset.summaries()):
            groups.setdefault(summary.task or summary.instruction, []).append(number)
        return list(groups.values())

    def _observation(self) -> Any:
        assert self._episode is not None
        # Copies, so that nobody changes the episode.
        keys, values = self._reader.observation_shapes, self._episode.observations
        here = {key: np.array(values[key][self._step]) for key in keys}
        return here[BOX_OBSERVATION_KEY] if self._is_box else here

    def _info(self, is_success: bool) -> dict[str, Any]:
        episode = self._episode
        assert episode is not None
        is_over = self._step == len(episode)
        solved_before = bool(self._success[: self._step].any())
        return {
            "is_success": is_success,
            # Labels may leave out a success that the episode knows of; its end says so.
            "success_once": solved_before or (is_over and episode.success),
            "task": episode.task,
            "instruction": episode.instruction,
            "episode": self._number,
            "step": self._step,
        }


def _load(dataset: str | Path | EpisodeDataset, load_kwargs: Mapping[str, Any]) -> EpisodeDataset:
    if not isinstance(dataset, EpisodeDataset):
        dataset = load_episodes(dataset, **load_kwargs)
    elif load_kwargs:
        raise ValueError("`load_kwargs` are for a path, got them with an EpisodeDataset.")
    return dataset


def _make_space(shape: tuple[int, ...], dtype: np.dtype) -> gym.spaces.Box:
    """Return the space of all numbers of a type."""
    low, high = -np.inf, np.inf
    if dtype.kind == "b":
        low, high = 0, 1
    elif dtype.kind != "f":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return gym.spaces.Box(low, high, shape, dtype.type)
