"""Small charts as inline SVG, in colours that follow a page's light or dark style."""

import base64
import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np

# One unit is about one CSS pixel on a phone, where a chart is as wide as the screen, and more
# elsewhere, so that text stays readable.
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 26, 38
_POINT_RADIUS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Points of one colour in a chart.

    Args:
        label: Its name in the legend; "" for none.
        x: Shape (n,).
        y: Shape (n,).
        style: "line"; "faint", a thin line behind the others; or "points".
        colour: Number of the colour, 1 to 4, the page's `--c1` to `--c4`. Points of colour 2 are
            squares, so that colour is not all that tells them apart.
    """

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    style: Literal["line", "faint", "points"] = "line"
    colour: int = 1


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` with its ticks.

    Args:
        label: Quantity and unit.
        low: Value at the beginning.
        high: Value at the end.
        ticks: Values and their texts.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def make_axis(
    label: str, values: Sequence[float] | np.ndarray, *, margin: float = 0.0, n_ticks: int = 5
) -> Axis:
    """Return an axis around values, with round ticks.

    Args:
        label: Quantity and unit.
        values: What must lie on it; [0, 1] is taken when there are none.
        margin: Room at both ends, as a share of the range.
        n_ticks: About how many ticks.
    """
    numbers = np.asarray(values, float)
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    if high == low:
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    low, high = low - margin * (high - low), high + margin * (high - low)
    step = _round_step((high - low) / n_ticks)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((k * step, f"{k * step + 0.0:.{digits}f}") for k in range(first, last + 1))
    return Axis(label, low, high, ticks)


def draw_chart(
    title: str,
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    *,
    bands: Sequence[tuple[float, float]] = (),
    strip: Sequence[bytes] = (),
) -> str:
    """Return a chart as an SVG element.

    Args:
        title: Stands above it, and is what a screen reader says.
        series: What is drawn; lines are broken where a value is not finite.
        x_axis: Horizontal.
        y_axis: Vertical.
        bands: Intervals of x that are shaded.
        strip: JPEG files drawn under the chart in equal parts of the horizontal axis.
    """
    frame = _Frame(x_axis, y_axis)
    size = frame.width / len(strip) if strip else 0.0
    height = _HEIGHT + (size + 8 if strip else 0)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="14">{escape(title)}</text>',
        *[_band(frame, *band) for band in bands],
        *_draw_axes(frame),
        *[_draw_series(frame, one) for one in sorted(series, key=lambda one: one.style != "faint")],
        *_draw_strip(strip, size),
        "</svg>",
        _draw_legend(series),
    ]
    return "".join(parts)


def jpeg_uri(content: bytes) -> str:
    """Return a JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and the up to `window - 1` before it.

    Example:
        >>> smooth([0.0, 1.0, 1.0, 0.0], 2).tolist()
        [0.0, 0.5, 1.0, 0.5]
    """
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, float)]))
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


class _Frame:
    """Where data lies on the drawing."""

    def __init__(self, x_axis: Axis, y_axis: Axis) -> None:
        self.x_axis, self.y_axis = x_axis, y_axis
        self.width = _WIDTH - _LEFT - _RIGHT
        self.height = _HEIGHT - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        axis = self.x_axis
        return _LEFT + self.width * (value - axis.low) / (axis.high - axis.low)

    def y(self, value: float) -> float:
        axis = self.y_axis
        return _TOP + self.height * (1 - (value - axis.low) / (axis.high - axis.low))


def _draw_axes(frame: _Frame) -> list[str]:
    bottom = _TOP + frame.height
    parts = []
    for value, text in frame.y_axis.ticks:
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_LEFT + frame.width}"/>')
        parts.append(
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    for value, text in frame.x_axis.ticks:
        x = frame.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>'
        )
    middle_x, middle_y = _LEFT + frame.width / 2, _TOP + frame.height / 2
    parts += [
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_LEFT + frame.width}"/>',
        f'<text class="label" x="{middle_x:.0f}" y="{bottom + 32}" text-anchor="middle">'
        f"{escape(frame.x_axis.label)}</text>",
        f'<text class="label" transform="translate(11 {middle_y:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(frame.y_axis.label)}</text>',
    ]
    return parts


def _draw_series(frame: _Frame, series: Series) -> str:
    points = [
        (frame.x(float(x)), frame.y(float(y))) for x, y in zip(series.x, series.y, strict=True)
    ]
    if series.style == "points":
        return "".join(_marker(x, y, series.colour) for x, y in points if math.isfinite(x + y))
    path, is_drawing = [], False
    for x, y in points:
        is_finite = math.isfinite(x + y)
        if is_finite:
            path.append(f"{'L' if is_drawing else 'M'}{x:.1f} {y:.1f}")
        is_drawing = is_finite
    return f'<path class="{series.style} s{series.colour}" d="{"".join(path)}"/>'


def _marker(x: float, y: float, colour: int) -> str:
    r = _POINT_RADIUS
    if colour == 2:
        place = f'x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"'
        return f'<rect class="p{colour}" {place}/>'
    return f'<circle class="p{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def _band(frame: _Frame, start: float, end: float) -> str:
    x, width = frame.x(start), frame.x(end) - frame.x(start)
    return (
        f'<rect class="band" x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{frame.height}"/>'
    )


def _draw_strip(strip: Sequence[bytes], size: float) -> list[str]:
    return [
        f'<image href="{jpeg_uri(content)}" x="{_LEFT + index * size:.2f}" y="{_HEIGHT}" '
        f'width="{size - 1:.2f}" height="{size - 1:.2f}"/>'
        for index, content in enumerate(strip)
    ]


def _draw_legend(series: Sequence[Series]) -> str:
    entries = [
        f'<span><i class="k{one.colour}{" square" if _is_square(one) else ""}"></i>'
        f"{escape(one.label)}</span>"
        for one in series
        if one.label
    ]
    return f'<div class="legend">{"".join(entries)}</div>' if entries else ""


def _is_square(series: Series) -> bool:
    return series.style == "points" and series.colour == 2


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
