"""Curves and tables of the learning benchmarks, from the CSV files of their runs."""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run_log import Run, read_rows

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.evaluation.aggregate import bootstrap_interval, interquartile_mean

Results = Mapping[Run, list[dict[str, float]]]

# Okabe and Ito's colours, which the colour-blind tell apart, each with a dash of its own for print.
STYLES = (
    ("#000000", "-"),
    ("#999999", "--"),
    ("#0072B2", "-"),
    ("#D55E00", "-."),
    ("#009E73", ":"),
    ("#CC79A7", (0, (5, 1, 1, 1))),
)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot of a figure.

    Args:
        env: Whose runs it shows.
        title: Stands above it.
        levels: Horizontal lines, by their names.
        limits: Of the vertical axis, where the measure has any.
    """

    env: str
    title: str
    levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limits: tuple[float, float] | None = None


def read_results(folder: Path, runs: Sequence[Run]) -> dict[Run, list[dict[str, float]]]:
    """The evaluations of the runs that are complete."""
    paths = {run: folder / f"{run.name}.csv" for run in runs}
    return {run: read_rows(path) for run, path in paths.items() if path.exists()}


def select(results: Results, env: str, arm: str) -> list[list[dict[str, float]]]:
    """The complete runs of an arm, in the order of their seeds."""
    runs = sorted((r for r in results if (r.env, r.arm) == (env, arm)), key=lambda r: r.seed)
    return [results[run] for run in runs]


def final_values(
    results: Results, env: str, arm: str, measure: str, n_last: int = 3
) -> list[float]:
    """Mean of the last evaluations of each complete run."""
    return [
        float(np.mean([row[measure] for row in rows[-n_last:]]))
        for rows in select(results, env, arm)
    ]


def describe(strata: Sequence[Sequence[float]]) -> tuple[float, float, float] | None:
    """Interquartile mean over the seeds of one or more envs, and its 95 % bootstrap interval."""
    if not strata or not all(strata):
        return None
    values = [value for stratum in strata for value in stratum]
    return interquartile_mean(values), *bootstrap_interval(strata, np.random.default_rng(0))


def stack_curves(runs: Sequence[list[dict[str, float]]], measure: str) -> tuple[np.ndarray, ...]:
    """Steps (n,), and values (runs, n); a run that ended early counts on with its last value."""
    steps = sorted({row["step"] for rows in runs for row in rows})
    values = [
        np.interp(steps, [row["step"] for row in rows], [row[measure] for row in rows])
        for rows in runs
    ]
    return np.array(steps), np.array(values)


def draw_curves(
    path: Path,
    panels: Sequence[Panel],
    arms: Mapping[str, str],
    runs: Sequence[Run],
    results: Results,
    measure: str,
    label: str,
) -> None:
    """Write a PNG: for each panel, the mean over seeds of each arm and the range of the seeds.

    Args:
        path: The file.
        panels: From left to right.
        arms: Names in the legend by arm, in the order of the colours.
        runs: The whole grid, so that what is missing can be named.
        results: What there is of it.
        measure: The column.
        label: Of the vertical axis.
    """
    figure = Figure(figsize=(4.6 * len(panels), 4.5), layout="constrained")
    handles: dict[str, Artist] = {}
    for column, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        missing: dict[str, list[str]] = {}
        for (arm, name), (colour, dash) in zip(arms.items(), STYLES, strict=False):
            n_planned = sum((run.env, run.arm) == (panel.env, arm) for run in runs)
            found = select(results, panel.env, arm)
            if len(found) < n_planned:
                missing.setdefault(f"{len(found)} of {n_planned} seeds", []).append(name)
            if found:
                steps, values = stack_curves(found, measure)
                axes.fill_between(
                    steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0
                )
                handles[name] = axes.plot(
                    steps, values.mean(0), color=colour, linestyle=dash, linewidth=1.8, label=name
                )[0]
        axes.set_xlim(left=0)
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        _finish_axes(axes, panel, missing, label if column == 0 else "")
    order = [name for name in arms.values() if name in handles]
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower center",
        ncols=min(2 * len(panels), len(order)) or 1,
        frameon=False,
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(path, [content.getvalue()])


def _finish_axes(
    axes: Axes, panel: Panel, missing: Mapping[str, Sequence[str]], label: str
) -> None:
    axes.set_title(panel.title)
    notes = [f"incomplete: {n} of {', '.join(names)}" for n, names in missing.items()]
    lines = [line for note in notes for line in textwrap.wrap(note, 46)]
    axes.set_xlabel("\n".join(["environment steps", *lines]))
    axes.set_ylabel(label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    for name, value in panel.levels.items():
        axes.axhline(value, color="#666666", linewidth=1, linestyle=(0, (1, 3)))
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
        )
