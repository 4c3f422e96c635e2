"""Episodes of an evaluation as rows of a file, and the success rates that follow from them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libero_reward_envs.data.json_lines import append_json_line, read_json_lines
from libero_reward_envs.evaluation.success import (
    EpisodeResult,
    summarize_results,
    wilson_interval,
)


@dataclasses.dataclass(frozen=True)
class EpisodeRow:
    """One episode of an evaluation.

    Args:
        task: Its task, `suite/name`.
        trial: Its number among those of the task.
        result: How it went.
        seconds: How long it took, from its reset on.
    """

    task: str
    trial: int
    result: EpisodeResult
    seconds: float

    @property
    def key(self) -> tuple[str, int]:
        """What names the episode."""
        return self.task, self.trial

    def as_json(self) -> dict[str, Any]:
        """Return the row of the file."""
        result = dataclasses.asdict(self.result)
        return {"task": self.task, "trial": self.trial, **result, "seconds": self.seconds}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "EpisodeRow":
        """Return the episode of a row.

        Raises:
            ValueError: If it is none.
        """
        try:
            fields = dict(row)
            own = {name: fields.pop(name) for name in ("task", "trial", "seconds")}
            return cls(result=EpisodeResult(**fields), **own)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error}") from error


def append_row(path: Path, row: EpisodeRow) -> None:
    """Add a row to a file; once this returns it is safe."""
    append_json_line(path, row.as_json())


def read_rows(path: Path) -> dict[tuple[str, int], EpisodeRow]:
    """Return the rows of a file by task and trial; of an episode that was repeated, the last.

    Part of a last line, which a kill leaves, is taken away.

    Raises:
        ValueError: If a line is no row.
    """
    rows = {}
    for number, line in enumerate(read_json_lines(path), start=1):
        try:
            row = EpisodeRow.from_json(line)
        except ValueError as error:
            raise ValueError(f"Cannot read line {number} of {str(path)!r}: {error}.") from error
        rows[row.key] = row
    return rows


def summarize_rows(rows: Iterable[EpisodeRow], errors: str) -> dict[str, Any]:
    """Return success rates of all rows and of each task, with Wilson intervals at 95 %.

    Args:
        rows: The episodes.
        errors: What an episode that was not finished counts as, see `Protocol`.

    Returns:
        "suite" and "tasks", by name; each with the numbers of `SuccessRate`, and with "rate", "low"
        and "high" as the protocol counts.
    """
    by_task: dict[str, list[EpisodeResult]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row.result)
    everything = [result for results in by_task.values() for result in results]
    return {
        "suite": _summarize(everything, errors),
        "tasks": {task: _summarize(results, errors) for task, results in sorted(by_task.items())},
    }


def describe_summary(summary: Mapping[str, Any]) -> str:
    """Return the success rates as a small table."""
    width = max([len("all tasks"), *(len(task) for task in summary["tasks"])])
    lines = [f"{'true success':{width}}{'solved':>11}{'95 %':>16}{'steps':>8}{'errors':>8}"]
    for name, rate in [*summary["tasks"].items(), ("all tasks", summary["suite"])]:
        interval = "-" if rate["rate"] is None else f"{rate['low']:.1%} - {rate['high']:.1%}"
        steps = "-" if rate["mean_steps"] is None else f"{rate['mean_steps']:.0f}"
        counted = f"{rate['successes']}/{rate['counted']}"
        lines.append(f"{name:{width}}{counted:>11}{interval:>16}{steps:>8}{rate['errors']:>8}")
    return "\n".join(lines)


def _summarize(results: Sequence[EpisodeResult], errors: str) -> dict[str, Any]:
    fields = dataclasses.asdict(summarize_results(results))
    counted = fields["episodes"] + (fields["errors"] if errors == "failure" else 0)
    rate = low = high = None
    if counted:
        rate = fields["successes"] / counted
        low, high = wilson_interval(fields["successes"], counted)
    return {**fields, "counted": counted, "rate": rate, "low": low, "high": high}
