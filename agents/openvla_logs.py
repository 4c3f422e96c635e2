"""What a fine-tuning run writes down while it goes on: CSV files, TensorBoard, wandb, trackio."""

import csv
import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.atomic_files import write_atomically

CURVES_FILE = "curves.csv"
HOLDOUT_FILE = "holdout_episodes.csv"
LOG_FOLDER = "logs"
COLUMNS = (
    *("step", "epoch", "learning_rate", "loss", "accuracy", "l1_normalized", "l1_physical"),
    *("holdout_loss", "holdout_accuracy", "holdout_l1_normalized", "holdout_l1_physical"),
)
HOLDOUT_COLUMNS = ("step", "episode", "rows", "loss", "accuracy")
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def check_loggers(names: Sequence[str]) -> None:
    """Check that the programs that are to be logged to are installed.

    Raises:
        ImportError: If one is not.
    """
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ImportError(
                f"`report_to` names {name!r}, which is not installed. Install it by `pip install "
                f"{_PACKAGES[name]}`, or leave it out."
            )


class FinetuneLog:
    """Writes the curves of a run; a run that goes on continues them where its checkpoint was.

    Args:
        folder: Of the run. It gets `curves.csv`, one line a logged update; `holdout_episodes.csv`,
            one line an episode and evaluation; and `logs`.
        report_to: Of "tensorboard", "wandb" and "trackio".
        step: Update that the run goes on from; later lines are dropped.
        project: Name of the project for wandb and trackio.
        settings: Of the run, for these.
    """

    def __init__(
        self,
        folder: Path,
        report_to: Sequence[str] = (),
        *,
        step: int = 0,
        project: str = "openvla",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._curves, self._holdout = folder / CURVES_FILE, folder / HOLDOUT_FILE
        _cut_file(self._curves, COLUMNS, step)
        _cut_file(self._holdout, HOLDOUT_COLUMNS, step)
        self._writer: Any = None
        if "tensorboard" in report_to:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / LOG_FOLDER), purge_step=step + 1)
        self._trackers: list[Any] = []
        for name in ("wandb", "trackio"):
            if name in report_to:
                tracker = importlib.import_module(_PACKAGES[name])
                tracker.init(project=project, name=folder.name, config=dict(settings or {}))
                self._trackers.append(tracker)

    def write(self, values: Mapping[str, float], others: Mapping[str, float] | None = None) -> None:
        """Write one line of `COLUMNS`; what is not in `values` stays empty.

        Args:
            values: By column, "step" among them.
            others: Further values, such as speeds, for the programs only.
        """
        _append(self._curves, [[_show(values.get(name)) for name in COLUMNS]])
        step = int(values["step"])
        named = {("holdout/" if k.startswith("holdout_") else "train/") + k: v
                 for k, v in {**values, **(others or {})}.items() if k != "step"}  # fmt: skip
        if self._writer is not None:
            for name, value in named.items():
                self._writer.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(named, step=step)

    def write_episodes(self, step: int, rows: Sequence[Sequence[float]]) -> None:
        """Write one line of `HOLDOUT_COLUMNS` for each episode, `step` left out of them."""
        _append(self._holdout, [[str(step), *map(_show, row)] for row in rows])

    def write_picture(self, step: int, picture: np.ndarray) -> None:
        """Show a drawing, (H, W, 3) uint8."""
        if self._writer is not None:
            self._writer.add_image("samples", picture, step, dataformats="HWC")
        for tracker in self._trackers:
            tracker.log({"samples": tracker.Image(picture)}, step=step)

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()
        for tracker in self._trackers:
            tracker.finish()


def read_finetune_curves(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a `curves.csv`, NaN where nothing was measured.

    Raises:
        ValueError: If the file has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"Expected the columns {', '.join(COLUMNS)} in {str(path)!r}.")
    values = np.array([[float(v) if v else np.nan for v in row] for row in rows[1:]])
    values = values.reshape(-1, len(COLUMNS))
    return {name: values[:, index] for index, name in enumerate(COLUMNS)}


def _cut_file(path: Path, columns: Sequence[str], step: int) -> None:
    """Begin a file, or leave of one the lines up to a step; a line cut short by a kill goes."""
    kept = [list(columns)]
    if step and path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= step:
                    kept.append(row)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(kept)
    write_atomically(path, [text.getvalue().encode()])


def _append(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _show(value: float | None) -> str:
    """Return a number so that it comes back as it was."""
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
