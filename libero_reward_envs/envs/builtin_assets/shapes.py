"""Primitive shapes in a body's frame: boxes, cylinders, capsules, and the bodies built from them.

Lengths are in metres, angles in degrees, quaternions (w, x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclass(frozen=True)
class Shape:
    """One primitive.

    Args:
        kind: MuJoCo's geom type: "box", "cylinder", "capsule", "sphere" or "ellipsoid".
        position: Its centre, shape (3,).
        size: MuJoCo's size numbers of that type (half lengths, radii).
        quaternion: Its orientation, shape (4,).
    """

    kind: str
    position: Vector
    size: tuple[float, ...]
    quaternion: Quaternion = IDENTITY


def rotation(axis: str, angle_deg: float) -> Quaternion:
    """Returns the quaternion of a turn about "x", "y" or "z", shape (4,)."""
    half = math.radians(angle_deg) / 2
    x, y, z = (component * math.sin(half) for component in _AXES[axis])
    return (math.cos(half), x, y, z)


def multiply(first: Quaternion, second: Quaternion) -> Quaternion:
    """Returns the quaternion that turns by `second`, then by `first`, shape (4,)."""
    w1, x1, y1, z1 = first
    w2, x2, y2, z2 = second
    return (
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
    )


def box(centre: Vector, half: Vector, turn: tuple[str, float] | None = None) -> Shape:
    """Returns a box with half lengths `half`, turned about one axis if `turn` says so."""
    return Shape("box", centre, half, rotation(*turn) if turn else IDENTITY)


def slab(low: Vector, high: Vector) -> Shape:
    """Returns the axis-aligned box between two opposite corners."""
    centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    return Shape("box", _vector(centre), _vector(half))


def cylinder(centre: Vector, radius: float, half: float, axis: str = "z") -> Shape:
    """Returns a cylinder of half length `half` along `axis`."""
    turns = {"x": ("y", 90.0), "y": ("x", -90.0), "z": ("z", 0.0)}
    return Shape("cylinder", centre, (radius, half), rotation(*turns[axis]))


def capsule(centre: Vector, radius: float, half: float, axis: str = "z") -> Shape:
    """Returns a capsule whose straight part has half length `half` along `axis`."""
    upright = cylinder(centre, radius, half, axis)
    return Shape("capsule", centre, upright.size, upright.quaternion)


def rod(start: Vector, end: Vector, half_width: float, half_depth: float) -> Shape:
    """Returns a box from `start` to `end`, which share their x or their y.

    Args:
        start: Centre of one end face.
        end: Centre of the other end face.
        half_width: Half length along the shared axis.
        half_depth: Half length across both.
    """
    dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
    half = math.hypot(dx, dy, dz) / 2
    centre = _vector([(a + b) / 2 for a, b in zip(start, end, strict=True)])
    if abs(dy) < 1e-9:
        turn = rotation("y", math.degrees(math.atan2(dx, dz)))
        return Shape("box", centre, (half_depth, half_width, half), turn)
    turn = rotation("x", math.degrees(math.atan2(-dy, dz)))
    return Shape("box", centre, (half_width, half_depth, half), turn)


def disc(centre: Vector, radius: float, half: float, axis: str = "z") -> list[Shape]:
    """Returns a round slab as three crossed boxes whose twelve edges lie on the circle.

    Boxes instead of one cylinder: box against box has up to eight contact points in MuJoCo,
    a cylinder has one, and whatever stands on it rocks.
    """
    shapes = []
    for angle_deg in (15.0, 45.0, 75.0):
        a = radius * math.cos(math.radians(angle_deg))
        b = radius * math.sin(math.radians(angle_deg))
        sizes: dict[str, Vector] = {"x": (half, a, b), "y": (a, half, b), "z": (a, b, half)}
        shapes.append(box(centre, sizes[axis]))
    return shapes


def ring(
    centre_xy: tuple[float, float],
    bottom: tuple[float, float],
    top: tuple[float, float],
    thickness: float,
    directions_deg: Sequence[float] = tuple(range(0, 360, 30)),
    half_width: float | None = None,
    twist_deg: float = 0.0,
) -> list[Shape]:
    """Returns the wall of a cup or bowl: boxes around the vertical axis, leaning outwards.

    Args:
        centre_xy: Where the axis stands.
        bottom: (radius, height) of the middle of the wall at its lower end.
        top: (radius, height) of the middle of the wall at its upper end.
        thickness: Of the wall.
        directions_deg: Where the boxes stand, seen from the axis: 0 is +x and 90 is +y.
        half_width: Half length of a box around the axis; if left out, evenly spread boxes meet.
        twist_deg: How far every box is turned about its own long line up the wall.
    """
    (low_radius, low_z), (high_radius, high_z) = bottom, top
    radius, z = (low_radius + high_radius) / 2, (low_z + high_z) / 2
    lean_deg = math.degrees(math.atan2(high_radius - low_radius, high_z - low_z))
    slope = math.hypot(high_radius - low_radius, high_z - low_z) / 2
    meeting = max(low_radius, high_radius) * math.tan(math.pi / len(directions_deg))
    width = meeting if half_width is None else half_width
    shapes = []
    for around_deg in directions_deg:
        angle = math.radians(around_deg)
        x = centre_xy[0] + radius * math.cos(angle)
        y = centre_xy[1] + radius * math.sin(angle)
        tilt = multiply(rotation("y", lean_deg), rotation("z", twist_deg))
        turn = multiply(rotation("z", around_deg), tilt)
        shapes.append(Shape("box", (x, y, z), (thickness / 2, width, slope), turn))
    return shapes


def _vector(values: Sequence[float]) -> Vector:
    x, y, z = values
    return (x, y, z)
