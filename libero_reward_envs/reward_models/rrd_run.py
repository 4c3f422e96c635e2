"""One training of an RRD reward on a dataset, with its reports and checkpoints."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.checkpoints import Checkpoint, read_newest_checkpoint, write_checkpoint
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel
from libero_reward_envs.reward_models.rrd_trainer import RRDTrainer

_logger = logging.getLogger(__name__)

# A run may be continued for longer; the others do not change what it learns.
_MAY_DIFFER = ("n_steps", "log_interval", "offset_margin")


class RRDRun:
    """A training on a dataset: the trainer, and what was reported so far."""

    def __init__(
        self,
        trainer: RRDTrainer,
        data: EpisodeStore,
        holdout: EpisodeStore | None,
        log_interval: int,
        on_progress: Callable[[Mapping[str, float]], None] | None,
    ) -> None:
        self.trainer, self.data = trainer, data
        self.history: list[dict[str, float]] = []
        self._holdout, self._log_interval, self._on_progress = holdout, log_interval, on_progress
        self._sums: dict[str, float] = {}
        self._n_summed = 0

    def train_until(self, n_steps: int, *, last: bool = True) -> None:
        """Train, with a report after each interval, and one at the end if it is the last."""
        while self.trainer.n_steps < n_steps:
            to_report = self._log_interval - self.trainer.n_steps % self._log_interval
            n = min(to_report, n_steps - self.trainer.n_steps)
            for name, value in self.trainer.train(self.data, n).items():
                self._sums[name] = self._sums.get(name, 0.0) + n * value
            self._n_summed += n
            if n == to_report or (last and self.trainer.n_steps == n_steps):
                self._report()

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the trainer's state and the reports."""
        arrays, values = self.trainer.get_state()
        run = {"history": self.history, "sums": self._sums, "n_summed": self._n_summed}
        return arrays, {"trainer": values, **run}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the run would have that gave this state."""
        self.trainer.set_state(arrays, values["trainer"])
        self.history, self._sums = list(values["history"]), dict(values["sums"])
        self._n_summed = int(values["n_summed"])

    def _report(self) -> None:
        report: dict[str, float] = {"step": self.trainer.n_steps}
        report |= {name: value / self._n_summed for name, value in self._sums.items()}
        self._sums, self._n_summed = {}, 0
        if self._holdout is not None:
            report |= _judge_holdout(self.trainer, self._holdout)
        self.history.append(report)
        _logger.info("RRD: %s", report)
        if self._on_progress is not None:
            self._on_progress(report)


def train_with_checkpoints(
    run: RRDRun, n_steps: int, folder: Path, save_freq: int, arguments: Mapping[str, Any]
) -> None:
    """Train with a checkpoint every `save_freq` steps, from the newest one on if there is one.

    Raises:
        ValueError: If that one belongs to other arguments or data, or is beyond `n_steps`.
    """
    sizes = run.trainer.model.arguments
    belongs_to = {
        "observation_shapes": sizes["observation_shapes"],
        "action_size": sizes["action_size"],
        **{name: value for name, value in arguments.items() if name not in _MAY_DIFFER},
        "episodes": run.data.compute_digest(),
    }
    checkpoint = read_newest_checkpoint(folder)
    if checkpoint is not None:
        _check_belongs(checkpoint, belongs_to)
        if checkpoint.step > n_steps:
            raise ValueError(
                f"{checkpoint.path} is of step {checkpoint.step}, this training ends at {n_steps}. "
                "Ask for more steps, or choose another folder."
            )
        run.set_state(checkpoint.arrays, checkpoint.values["run"])
    while run.trainer.n_steps < n_steps:
        step = run.trainer.n_steps
        target = min(n_steps, step - step % save_freq + save_freq)
        run.train_until(target, last=target == n_steps)
        arrays, values = run.get_state()
        write_checkpoint(
            folder, run.trainer.n_steps, arrays, {"belongs_to": belongs_to, "run": values}
        )


def _check_belongs(checkpoint: Checkpoint, expected: Mapping[str, Any]) -> None:
    found = checkpoint.values.get("belongs_to")
    if found is None or "run" not in checkpoint.values:
        raise ValueError(
            f"{checkpoint.path} is not a checkpoint of fit_rrd. Choose another folder."
        )
    for name, value in expected.items():
        if found.get(name) != value:
            shown = "" if name == "episodes" else f": {found.get(name)!r}, now {value!r}"
            raise ValueError(
                f"{checkpoint.path} belongs to a training that differs in {name}{shown}. Continue "
                "with the same arguments and data, or choose another folder."
            )


def predict_rewards(model: RRDRewardModel, data: EpisodeStore) -> list[np.ndarray]:
    """Return the network's rewards of each episode, without the offset, each of shape (T,)."""
    return [
        model.compute_reward(data.episode(index)).astype(float) + model.reward_offset
        for index in range(len(data.lengths))
    ]


def _judge_holdout(trainer: RRDTrainer, data: EpisodeStore) -> dict[str, float]:
    """Return L_RD in the mean scale, the squared error of rewards per step, and the returns."""
    rewards = predict_rewards(trainer.model, data)
    means = np.array([part.mean() for part in rewards])
    sums = np.array([part.sum() for part in rewards]) / trainer.return_scale
    targets = data.returns * trainer.return_scale / data.lengths
    return {
        "holdout_loss": float(((means - targets) ** 2).mean()),
        "cumulative_reward_mean": float(sums.mean()),
        "cumulative_reward_std": float(sums.std()),
    }
