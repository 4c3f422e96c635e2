"""A few held-out steps as a picture: what the policy sees, what it does, and what it should do."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libero_reward_envs.atomic_files import write_atomically

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, which the colour-blind tell apart
_COLUMN_WIDTH, _ROW_HEIGHT = 2.6, 2.2  # inches
_DPI = 100


class Sample(NamedTuple):
    """One step.

    Attributes:
        views: Pictures of each camera, (H, W, 3) uint8, upright.
        instruction: What is told.
        predicted: Action of the policy, (a,), in the unit of the data.
        target: The recorded one, (a,).
    """

    views: Sequence[np.ndarray]
    instruction: str
    predicted: np.ndarray
    target: np.ndarray


def draw_samples(samples: Sequence[Sample], title: str, path: Path) -> np.ndarray:
    """Draw samples below each other, pictures on the left and actions on the right, as a PNG.

    Args:
        samples: At least one.
        title: Stands above.
        path: The file; its folder is made if need be.

    Returns:
        The drawing, (H, W, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = len(samples[0].views) + 1
    size = (_COLUMN_WIDTH * (n_columns + 1), _ROW_HEIGHT * len(samples) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    widths = [1] * (n_columns - 1) + [2]
    axes = figure.subplots(len(samples), n_columns, squeeze=False, width_ratios=widths)
    for row, sample in zip(axes, samples, strict=True):
        for plot, view in zip(row[:-1], sample.views, strict=True):
            plot.imshow(view)
            plot.set_axis_off()
        row[0].set_title(sample.instruction[:60], fontsize=6, loc="left")
        places = np.arange(len(sample.target))
        row[-1].bar(places - 0.2, sample.target, 0.4, color=_BLUE, label="recorded")
        row[-1].bar(places + 0.2, sample.predicted, 0.4, color=_ORANGE, label="predicted")
        row[-1].axhline(0, color="black", linewidth=0.5)
        row[-1].set_xticks(places)
        row[-1].tick_params(labelsize=6)
    axes[0][-1].legend(fontsize=6)
    axes[-1][-1].set_xlabel("dimension of the action", fontsize=6)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [content.getvalue()])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
