"""One run of a learning benchmark on disk: while it trains, and when it is complete."""

import csv
import dataclasses
import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.evaluation.run_folder import installed_versions


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of one agent."""

    env: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.env}__{self.arm}__s{self.seed}"

    @classmethod
    def from_name(cls, name: str) -> "Run":
        env, arm, seed = name.split("__")
        return cls(env, arm, int(seed.removeprefix("s")))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue().encode()])


def read_rows(path: Path) -> list[dict[str, float]]:
    """The evaluations of a run."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                key: int(value) if key in ("step", "n") else float(value)
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


class RunLog:
    """What one run has found so far, on disk.

    Args:
        run: The run.
        folder: Where the results of the benchmark lie.
        scale: What the numbers of steps are multiplied by; below 1 for tests of the scripts.
    """

    def __init__(self, run: Run, folder: Path, scale: float = 1.0) -> None:
        self.run = run
        self.scale = scale
        self.arguments: dict[str, Any] = {}
        self.csv = folder / f"{run.name}.csv"
        self.json = folder / f"{run.name}.json"
        self.partial = folder / f"{run.name}.partial"
        self.partial.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, float]] = []
        self._start = time.perf_counter()
        self._seconds_before = 0.0
        self._is_stopping = False

    @property
    def checkpoints(self) -> Path:
        """Folder for the checkpoints of the run; gone when it is complete."""
        return self.partial / "checkpoints"

    @property
    def is_stopping(self) -> bool:
        """Whether the process was asked to stop: save, and return False from `train`."""
        return self._is_stopping

    def stop(self, *_: object) -> None:
        """Ask the run to stop; a signal handler."""
        self._is_stopping = True

    def seconds(self) -> float:
        """Wall time so far, that of earlier processes up to their last evaluation included."""
        return self._seconds_before + time.perf_counter() - self._start

    def go_on_from(self, step: int) -> None:
        """Take up the evaluations of an earlier process up to the step of its checkpoint."""
        path = self.partial / "rows.csv"
        known = read_rows(path) if path.exists() else []
        self.rows = [row for row in known if row["step"] <= step]
        self._seconds_before = self.rows[-1]["wall_s"] if self.rows else 0.0
        if step:
            print(f"{self.run.name}: goes on from step {step}", flush=True)

    def add(self, step: int, measures: Mapping[str, Sequence[float]]) -> None:
        """Note an evaluation: the values of each measure, one an episode."""
        row: dict[str, float] = {"step": step}
        for name, values in measures.items():
            row[name] = round(float(np.mean(values)), 4)
            row[f"{name}_std"] = round(float(np.std(values)), 4)
        row["n"] = len(next(iter(measures.values())))
        row["wall_s"] = round(self.seconds(), 1)
        self.rows.append(row)
        write_rows(self.partial / "rows.csv", self.rows)
        found = ", ".join(f"{name} {row[name]:.1f}" for name in measures)
        print(f"{self.run.name}: step {step}, {found}, {self.seconds():.0f} s", flush=True)

    def finish(self) -> None:
        """Write the results for good."""
        about = {
            **dataclasses.asdict(self.run),
            "arguments": self.arguments,
            "versions": installed_versions(),
            "wall_s": round(self.seconds(), 1),
        }
        write_atomically(self.json, [(json.dumps(about, indent=1) + "\n").encode()])
        write_rows(self.csv, self.rows)
        shutil.rmtree(self.partial)
