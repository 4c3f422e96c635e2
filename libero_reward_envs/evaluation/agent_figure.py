"""The figure of an agent's training: true and learned reward, each in a plot of its own."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.evaluation.figures import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_WINDOW = 20  # episodes


def draw_agent_training(path: str | Path, episodes: Mapping[str, np.ndarray], title: str) -> None:
    """Draw success, env return and learned return of the training episodes as a PNG.

    Each return has a plot and an axis of its own, because their units differ. What the agent was
    given is drawn where it is neither the env's reward nor the model's, and nothing learned where
    there is no learned reward. Dots are episodes, lines the mean of up to 20.

    Args:
        path: The file; written whole or not at all.
        episodes: What `read_rewards` returns, one number an episode.
        title: Stands above.
    """
    from matplotlib.figure import Figure

    curves = [("env_return", _BLUE, "true return of an episode", "the env's own reward")]
    if np.isfinite(episodes["model_return"]).any():
        label = "learned return of an episode"
        curves.append(("model_return", _ORANGE, label, "reward model"))
        if not np.allclose(episodes["model_return"], episodes["total_return"], equal_nan=True):
            curves.append(
                ("total_return", _GREEN, "return for the agent", "after mode and weights")
            )
    n_plots = 1 + len(curves)
    figure = Figure(figsize=(4.4 * n_plots, 3.8), layout="constrained")
    figure.suptitle(title)
    first, *others = figure.subplots(1, n_plots, squeeze=False)[0]
    _draw_success(first, episodes["step"], episodes)
    for axes, (name, colour, label, legend) in zip(others, curves, strict=True):
        axes.scatter(episodes["step"], episodes[name], s=8, color=colour, alpha=0.3, linewidths=0)
        _draw_line(axes, episodes["step"], episodes[name], colour, "-", legend)
        _finish(axes, episodes["step"], label)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(Path(path), [content.getvalue()])


def _draw_success(axes: "Axes", steps: np.ndarray, episodes: Mapping[str, np.ndarray]) -> None:
    true, seen = 100 * episodes["success"], 100 * episodes["predicted_success"]
    _draw_line(axes, steps, true, _BLUE, "-", "true")
    if np.isfinite(seen).any():
        _draw_line(axes, steps, seen, _ORANGE, "--", "seen by the model")
    _finish(axes, steps, "episodes with success, %")
    axes.set_ylim(-4, 104)


def _draw_line(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, dash: str, label: str
) -> None:
    known = np.isfinite(values)
    marker = "o" if known.sum() == 1 else None  # a line through one point shows nothing
    means = smooth(values[known], _WINDOW)
    axes.plot(steps[known], means, color=colour, linestyle=dash, marker=marker, label=label)


def _finish(axes: "Axes", steps: np.ndarray, label: str) -> None:
    axes.set_xlabel("env steps")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the plot, where no curve lies, and right of what matplotlib writes at the axis.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    if len(steps) and steps[-1] >= 10_000:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
