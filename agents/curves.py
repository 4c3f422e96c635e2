"""Learning curves of Stable-Baselines3 training, one line an episode."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

COLUMNS = ("step", "length", "env_return", "learned_return", "success")


class LogCurves(BaseCallback):
    """Writes what each finished training episode was worth, by the env and by the learned reward.

    The env's own return comes from `Monitor`, which stands inside the learned reward; the learned
    return is the sum of the rewards that the agent was given.

    Args:
        path: The CSV file, with `COLUMNS`; "step" is the number of steps in all envs so far.
        on_step: Called with the number of steps so far.
    """

    def __init__(self, path: str | Path, on_step: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self._path = Path(path)
        self._report_step = on_step
        self._learned_returns = np.zeros(0)

    def _on_training_start(self) -> None:
        self._learned_returns = np.zeros(self.training_env.num_envs)
        with open(self._path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)

    def _on_step(self) -> bool:
        self._learned_returns += self.locals["rewards"]
        rows = []
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            learned_return = float(self._learned_returns[index])
            rows.append([self.num_timesteps, *_describe(info), learned_return, _success(info)])
            self._learned_returns[index] = 0.0
        if rows:
            with open(self._path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        if self._report_step is not None:
            self._report_step(self.num_timesteps)
        return True


def read_curves(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a file that `LogCurves` wrote, each of one number an episode.

    Raises:
        ValueError: If the file has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"Expected the columns {', '.join(COLUMNS)} in {str(path)!r}.")
    values = np.array(rows[1:], float).reshape(-1, len(COLUMNS))
    return {name: values[:, index] for index, name in enumerate(COLUMNS)}


def _describe(info: dict[str, Any]) -> tuple[int, float]:
    if "episode" not in info:
        raise RuntimeError("Expected a `Monitor` around each env, as make_vec_env puts it.")
    return int(info["episode"]["l"]), float(info["episode"]["r"])


def _success(info: dict[str, Any]) -> int:
    return int(bool(info.get("is_success", False)))
