"""The figure of a reward's training."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libero_reward_envs.atomic_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def draw_reward_training(
    path: str | Path,
    history: Sequence[Mapping[str, float]],
    title: str,
    *,
    true_return: float | None = None,
) -> None:
    """Draw the losses, and what the rewards of the held-out episodes sum to, as a PNG.

    What is minimised gets a plot of its own where it is not the error of the sampled steps: with a
    bias correction it may lie below zero, and in the return scale it has another unit.

    Args:
        path: The file; written whole or not at all.
        history: The reports of `fit_rrd`.
        title: Stands above.
        true_return: Mean return of the held-out episodes, drawn as a line.
    """
    from matplotlib.figure import Figure

    curves = _columns(history)
    draws_loss = not np.allclose(curves["loss"], curves["data_loss"], equal_nan=True)
    is_judged = bool(np.isfinite(curves["cumulative_reward_mean"]).any())
    n_plots = 1 + draws_loss + is_judged
    figure = Figure(figsize=(4.8 * n_plots, 3.8), layout="constrained")
    figure.suptitle(title)
    plots = iter(figure.subplots(1, n_plots, squeeze=False)[0])
    _draw_errors(next(plots), curves)
    if draws_loss:
        _draw_loss(next(plots), curves)
    if is_judged:
        _draw_returns(next(plots), curves, true_return)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(Path(path), [content.getvalue()])


def _columns(history: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    names = ("step", "loss", "data_loss", "holdout_loss")
    names += ("cumulative_reward_mean", "cumulative_reward_std")
    return {n: np.array([report.get(n, np.nan) for report in history], float) for n in names}


def _draw_errors(axes: "Axes", curves: Mapping[str, np.ndarray]) -> None:
    _plot(axes, curves["step"], curves["data_loss"], _BLUE, "-", "training, sampled steps")
    if np.isfinite(curves["holdout_loss"]).any():
        _plot(axes, curves["step"], curves["holdout_loss"], _ORANGE, "--", "held out, all steps")
    values = np.concatenate([curves["data_loss"], curves["holdout_loss"]])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0:
        axes.set_yscale("log")
    _finish(axes, "squared error of the mean reward", curves["step"])
    _put_legend(axes)


def _draw_loss(axes: "Axes", curves: Mapping[str, np.ndarray]) -> None:
    _plot(axes, curves["step"], curves["loss"], _BLUE, "-", "")
    _finish(axes, "loss that is minimised", curves["step"])


def _draw_returns(
    axes: "Axes", curves: Mapping[str, np.ndarray], true_return: float | None
) -> None:
    steps, mean = curves["step"], curves["cumulative_reward_mean"]
    deviation = curves["cumulative_reward_std"]
    axes.fill_between(
        steps, mean - deviation, mean + deviation, color=_GREEN, alpha=0.2, linewidth=0,
        label="± standard deviation",
    )  # fmt: skip
    _plot(axes, steps, mean, _GREEN, "-", "predicted, mean")
    if true_return is not None:
        axes.axhline(true_return, color="#444444", linewidth=1, linestyle=":", label="true, mean")
    _finish(axes, "cumulative reward, held out", steps)
    _put_legend(axes)


def _put_legend(axes: "Axes") -> None:
    """Above the plot, where no curve and no band lies."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)


def _plot(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, dash: str, label: str
) -> None:
    marker = "o" if len(steps) == 1 else None  # a line through one point shows nothing
    axes.plot(steps, values, color=colour, linestyle=dash, marker=marker, label=label)


def _finish(axes: "Axes", label: str, steps: np.ndarray) -> None:
    axes.set_xlabel("steps of the optimiser")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(steps) and steps[-1] >= 10_000:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
