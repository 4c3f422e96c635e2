"""Pictures of how a success classifier detects success: curves, and the frames it was wrong on."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.evaluation.detection import JudgedEpisode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_SPAN = (-40, 20)  # steps around true success


@dataclasses.dataclass(frozen=True, eq=False)
class FilmStrip:
    """Some frames of an episode.

    Args:
        title: Stands above it.
        images: Shape (n, H, W, 3), uint8.
        captions: One under each image.
    """

    title: str
    images: np.ndarray
    captions: Sequence[str]


def draw_detection(
    path: str | Path,
    judged: Sequence[JudgedEpisode],
    threshold: float,
    k: int = 2,
    n: int = 3,
    *,
    title: str = "",
) -> None:
    """Draw the probability over steps, of successes around true success and of failures, as a PNG.

    A line is an episode, a dot the first event of k of n frames above the threshold.

    Args:
        path: The file; written whole or not at all.
        judged: The episodes.
        threshold: Probability.
        k: See `SuccessWindow`.
        n: See there.
        title: Stands above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    figure.suptitle(title)
    solved, failed = figure.subplots(1, 2, sharey=True)
    for episode in judged:
        axes = solved if episode.success else failed
        start = episode.first_success or 0
        trigger = episode.find_trigger(threshold, k, n)
        is_wrong = trigger is not None and (not episode.success or trigger < start)
        colour = _ORANGE if is_wrong else _BLUE
        steps = np.arange(len(episode.labels)) - start
        axes.plot(steps, episode.probabilities, color=colour, linewidth=0.7, alpha=0.5)
        if trigger is not None:
            dot = (trigger - start, episode.probabilities[trigger])
            axes.plot(*dot, marker="o", markersize=3, color=colour)
    n_solved = sum(episode.success for episode in judged)
    solved.axvline(0, color=_GREY, linewidth=1)
    solved.set_xlim(*_SPAN)
    _finish(solved, threshold, f"{n_solved} successes", "steps after true success")
    _finish(failed, threshold, f"{len(judged) - n_solved} failures", "step")
    solved.set_ylabel("probability of success")
    _write(path, figure)


def draw_film_strips(path: str | Path, strips: Sequence[FilmStrip]) -> None:
    """Draw frames of episodes, one episode a row, as a PNG.

    Args:
        path: The file; written whole or not at all.
        strips: The rows; at least one.
    """
    from matplotlib.figure import Figure

    n_columns = max(len(strip.images) for strip in strips)
    figure = Figure(figsize=(1.35 * n_columns, 1.75 * len(strips)), layout="constrained")
    rows = figure.subfigures(len(strips), 1, squeeze=False)[:, 0]
    for row, strip in zip(rows, strips, strict=True):
        row.suptitle(strip.title, fontsize=9, x=0.01, horizontalalignment="left")
        for axes in (cells := row.subplots(1, n_columns, squeeze=False)[0]):
            axes.axis("off")
        for axes, image, caption in zip(cells, strip.images, strip.captions, strict=False):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(caption, fontsize=7, y=-0.2)
    _write(path, figure)


def cut_strip(
    title: str, episode: JudgedEpisode, images: np.ndarray, middle: int, n_images: int = 8
) -> FilmStrip:
    """Return the frames of an episode around a step, with what is true and what was judged.

    Args:
        title: Stands above.
        episode: The episode of T steps.
        images: After each step, shape (T, H, W, 3), uint8.
        middle: The step around which they are.
        n_images: How many.
    """
    start = max(0, min(middle - n_images // 2, len(images) - n_images))
    steps = range(start, min(start + n_images, len(images)))
    captions = [
        f"{step}: {episode.probabilities[step]:.2f}{' solved' if episode.labels[step] else ''}"
        for step in steps
    ]
    return FilmStrip(title, images[start : start + n_images], captions)


def _finish(axes: "Axes", threshold: float, title: str, label: str) -> None:
    axes.axhline(threshold, color=_GREY, linewidth=1, linestyle="--")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.3)


def _write(path: str | Path, figure: "Figure") -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(Path(path), [content.getvalue()])
