"""Logs true and learned rewards apart, for any Stable-Baselines3 algorithm."""

import csv
import io
import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.wrappers.episode_rewards import PREDICTED_SUCCESS_KEY
from libero_reward_envs.wrappers.learned_reward import LearnedReward
from libero_reward_envs.wrappers.reward_mix import (
    ENV_REWARD_KEY,
    MODEL_REWARD_KEY,
    TOTAL_REWARD_KEY,
    RewardMix,
)

COLUMNS = (
    "step",  # env steps so far, of all envs
    "env",  # number of the env
    "length",
    "env_return",
    "model_return",  # empty without a learned reward
    "total_return",  # what the agent was given
    "changed_steps",  # on which it was not the env's own
    "success",
    "predicted_success",  # empty unless infos tell it
)


class LogRewards(BaseCallback):
    """Logs what episodes are worth by the env, by the reward model, and to the agent.

    Means over the last 100 finished episodes of all envs (SB3's `stats_window_size`), from what
    infos say: `reward/env`, `reward/model` and `reward/total`, sums of an episode;
    `reward/changed_share`, the share of steps whose reward was not the env's own. Where infos have
    `predicted_success`, `reward/false_success_rate` is the share of failed episodes in which
    success was seen, and `reward/missed_success_rate` that of solved ones in which it was not.

    At the end of training a learned reward that never changed a reward is complained of: the agent
    may have been trained on the env's own all along.

    Args:
        path: A CSV file for one line an episode, with `COLUMNS`; None for none. Where training goes
            on from a checkpoint, its lines after the checkpoint are dropped and the others kept.
        if_unused: "warn" or "raise" at the end of training if no reward was ever changed; "ignore"
            for those who call `check_used` themselves, after they have saved the agent.

    Attributes:
        n_changed: How many rewards were not the env's own, all episodes of `path` included.

    Raises:
        ValueError: If `if_unused` is unknown, or when training begins, if the file has other
            columns.

    Example:
        >>> callback = LogRewards("rewards.csv")
        >>> # agent.learn(10_000, callback=callback)
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        if_unused: Literal["warn", "raise", "ignore"] = "warn",
    ) -> None:
        super().__init__()
        if if_unused not in ("warn", "raise", "ignore"):
            raise ValueError(f"`if_unused` must be 'warn', 'raise' or 'ignore', got {if_unused!r}.")
        self.n_changed = 0
        self._model_spoke = False
        self._path = None if path is None else Path(path)
        self._if_unused = if_unused
        self._window: deque[dict[str, float]] = deque()
        self._open: list[dict[str, float]] = []

    def check_used(self) -> None:
        """Raise RuntimeError if a learned reward never changed a reward in this training."""
        if self._model_spoke:  # before a checkpoint that was gone on from, perhaps
            return
        mixes = find_reward_mixes(self.training_env)
        buffer = getattr(self.model, "replay_buffer", None)
        if isinstance(mix := getattr(buffer, "reward_mix", None), RewardMix):
            mixes.append(mix)
        if mixes and not any(mix.n_from_model for mix in mixes):
            mixes[0].check_used()

    def _on_training_start(self) -> None:
        self._open = [{} for _ in range(self.training_env.num_envs)]
        if not self.num_timesteps:
            self.n_changed = 0
        self._window = deque(maxlen=self.model._stats_window_size)
        if self._path is not None:
            rows = self._take_over_rows(self._path)
            self._window.extend(rows)
            self.n_changed = int(sum(row["changed_steps"] for row in rows))
            self._model_spoke = any(row["changed_steps"] and row["model_return"] for row in rows)

    def _take_over_rows(self, path: Path) -> list[dict[str, float]]:
        """Begin the file, or go on from where this training does."""
        rows: list[dict[str, float]] = []
        if self.num_timesteps and path.is_file():
            columns = read_rewards(path)
            table = zip(*columns.values(), strict=True)
            rows = [dict(zip(columns, map(float, row), strict=True)) for row in table]
            rows = [row for row in rows if row["step"] <= self.num_timesteps]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [_format_rows([COLUMNS, *map(_format, rows)]).encode()])
        return rows

    def _on_step(self) -> bool:
        ended = []
        for index, info in enumerate(self.locals["infos"]):
            episode = self._open[index]
            _add_step(episode, info, float(self.locals["rewards"][index]))
            if self.locals["dones"][index]:
                ended.append({**episode, "step": self.num_timesteps, "env": index})
                self._open[index] = {}
        if ended:
            self._finish(ended)
        return True

    def _finish(self, episodes: Sequence[dict[str, float]]) -> None:
        self.n_changed += int(sum(episode["changed_steps"] for episode in episodes))
        self._window.extend(episodes)
        if self._path is not None:
            with open(self._path, "a", newline="", encoding="utf-8") as file:
                file.write(_format_rows(map(_format, episodes)))
        self._log()

    def _on_rollout_end(self) -> None:
        self._log()  # SB3 forgets after each dump, and a rollout may end no episode

    def _log(self) -> None:
        for name, value in summarize_rewards(list(self._window)).items():
            self.logger.record(f"reward/{name}", value)

    def _on_training_end(self) -> None:
        self.n_changed += int(sum(episode.get("changed_steps", 0) for episode in self._open))
        self._open = [{} for _ in self._open]
        if self._if_unused == "ignore":
            return
        try:
            self.check_used()
        except RuntimeError as error:
            if self._if_unused == "raise":
                raise
            warnings.warn(str(error), stacklevel=2)


def summarize_rewards(episodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means that `LogRewards` logs, without those that nothing is known of.

    Args:
        episodes: Rows with `COLUMNS`; NaN where a file has nothing.
    """
    if not episodes:
        return {}
    columns = {
        name: np.array([row.get(name, math.nan) for row in episodes]) for name in COLUMNS[2:]
    }
    summary = {
        "env": columns["env_return"].mean(),
        "model": columns["model_return"].mean(),
        "total": columns["total_return"].mean(),
        "changed_share": columns["changed_steps"].sum() / columns["length"].sum(),
    }
    seen = columns["predicted_success"]
    for name, outcome, wrong in (("false", 0, seen), ("missed", 1, 1 - seen)):
        chosen = wrong[columns["success"] == outcome]
        summary[f"{name}_success_rate"] = chosen.mean() if len(chosen) else math.nan
    return {name: float(value) for name, value in summary.items() if math.isfinite(value)}


def read_rewards(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a file that `LogRewards` wrote, one number an episode, NaN for none.

    Raises:
        ValueError: If the file has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"Expected the columns {', '.join(COLUMNS)} in {str(path)!r}.")
    whole = [row for row in rows[1:] if len(row) == len(COLUMNS)]  # a kill may cut the last one
    values = np.array([[text or "nan" for text in row] for row in whole], float)
    values = values.reshape(-1, len(COLUMNS))
    return {name: values[:, index] for index, name in enumerate(COLUMNS)}


def find_reward_mixes(venv: VecEnv) -> list[RewardMix]:
    """Return the rule of each learned reward around or within the envs; none if there is none."""
    inner: Any = venv
    while isinstance(inner, VecEnvWrapper):
        if isinstance(mix := vars(inner).get("reward_mix"), RewardMix):
            return [mix]
        inner = inner.venv
    wrapped = [index for index, found in enumerate(venv.env_is_wrapped(LearnedReward)) if found]
    return venv.get_attr("reward_mix", wrapped) if wrapped else []


def _add_step(episode: dict[str, float], info: Mapping[str, Any], reward: float) -> None:
    of_env = float(info.get(ENV_REWARD_KEY, reward))
    total = float(info.get(TOTAL_REWARD_KEY, reward))
    added = {"length": 1, "env_return": of_env, "total_return": total}
    if MODEL_REWARD_KEY in info:
        added["model_return"] = float(info[MODEL_REWARD_KEY])
    added["changed_steps"] = total != of_env
    for name, value in added.items():
        episode[name] = episode.get(name, 0) + value
    success = {"success": info.get("is_success", False)}
    if PREDICTED_SUCCESS_KEY in info:
        success["predicted_success"] = info[PREDICTED_SUCCESS_KEY]
    for name, value in success.items():
        episode[name] = max(episode.get(name, 0), int(bool(value)))


def _format(episode: Mapping[str, float]) -> list[str]:
    values = [episode.get(name, math.nan) for name in COLUMNS]
    return ["" if math.isnan(value) else f"{value:.9g}" for value in values]


def _format_rows(rows: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
