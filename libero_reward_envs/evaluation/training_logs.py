"""The curves of a reward's training: CSV files, TensorBoard events, and a figure."""

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.evaluation.training_figure import draw_reward_training

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CURVES_FILE = "curves.csv"
CURVES_COLUMNS = ("step", "loss", "data_loss", "variance_term", "holdout_loss")
CUMULATIVE_FILE = "cumulative_reward.csv"
CUMULATIVE_COLUMNS = ("step", "mean", "std")
FIGURE_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"

# Files are forced to disk, which may take longer than many steps of the optimiser.
_WRITE_INTERVAL_S = 1.0

# Where TensorBoard shows what `fit_rrd` reports.
_SCALARS = {
    "loss": "train/loss",
    "data_loss": "train/data_loss",
    "variance_term": "train/variance_term",
    "holdout_loss": "holdout/loss",
    "cumulative_reward_mean": "cumulative_reward/mean",
    "cumulative_reward_std": "cumulative_reward/std",
}


class RewardTrainingLog:
    """Keeps the curves of one training in a folder, in agreement with its reports.

    Files are touched with the first report, or at the end if there is none, and then hold the
    earlier reports too: a training that goes on from a checkpoint leaves the curves that an
    unbroken one would have, whatever the stopped one wrote after that checkpoint.

    Args:
        folder: Gets `curves.csv`, `cumulative_reward.csv`, `curves.png` and `tensorboard/<name>`.
        name: Of the run.
        history: The reports of `fit_rrd` before this process began.
        true_return: Mean of the held-out episodes' own returns, a line in the figure; None for no
            line.

    Example:
        >>> import tempfile
        >>> log = RewardTrainingLog(Path(tempfile.mkdtemp()), "rrd")
        >>> log.add({"step": 10, "loss": 0.5, "data_loss": 0.5, "variance_term": 0.0})
        >>> log.finish()
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        history: Iterable[Mapping[str, float]] = (),
        *,
        true_return: float | None = None,
    ) -> None:
        self.history = [dict(report) for report in history]
        self._folder, self._name, self._true_return = Path(folder), name, true_return
        self._events: SummaryWriter | None = None
        self._n_written, self._written_at_s = 0, float("-inf")

    def add(self, report: Mapping[str, float]) -> None:
        """Add a report of `fit_rrd`; the files are written at most once a second."""
        self.history.append(dict(report))
        if time.monotonic() - self._written_at_s >= _WRITE_INTERVAL_S:
            self._write()

    def finish(self) -> None:
        """Write what is not written yet, and the figure."""
        self._write()
        self.close()
        draw_reward_training(
            self._folder / FIGURE_FILE, self.history, self._name, true_return=self._true_return
        )

    def close(self) -> None:
        """Write the reports that were added and are not written yet; without one, nothing."""
        if self._events is not None:
            if self._n_written < len(self.history):
                self._write()
            self._events.close()

    def _write(self) -> None:
        write_reward_curves(self._folder, self.history)
        events = self._events = self._events or self._begin_events()
        for report in self.history[self._n_written :]:
            for name, tag in _SCALARS.items():
                if name in report:
                    events.add_scalar(tag, report[name], int(report["step"]))
        events.flush()
        self._n_written, self._written_at_s = len(self.history), time.monotonic()

    def _begin_events(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder / TENSORBOARD_FOLDER / self._name
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()  # its reports come again below, up to the checkpoint
        # A TensorBoard that looks on forgets what it read of the files above.
        return SummaryWriter(str(folder), purge_step=0)


def write_reward_curves(folder: str | Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write `curves.csv` and `cumulative_reward.csv`, each whole or not at all.

    Numbers are written so that they read back as they were; what a report lacks stays empty.

    Args:
        folder: Where; made if it is not there.
        history: The reports of `fit_rrd`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[_text(report, name) for name in CURVES_COLUMNS] for report in history]
    _write_csv(folder / CURVES_FILE, CURVES_COLUMNS, rows)
    names = ("step", "cumulative_reward_mean", "cumulative_reward_std")
    judged = [report for report in history if names[1] in report]
    rows = [[_text(report, name) for name in names] for report in judged]
    _write_csv(folder / CUMULATIVE_FILE, CUMULATIVE_COLUMNS, rows)


def _text(report: Mapping[str, float], name: str) -> str:
    if name == "step":
        return str(int(report[name]))
    return repr(float(report[name])) if name in report else ""


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, [text.getvalue().encode()])
