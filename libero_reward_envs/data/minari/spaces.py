"""Gymnasium spaces as Minari's `metadata.json` holds them, read and written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_MAX_SPACES = 1000
_MAX_DEPTH = 20
_IMAGE_SIDE = 32  # Minari takes what is smaller for no image


@dataclass(frozen=True, eq=False)
class Space:
    """One space that is no `Dict`.

    Attributes:
        kind: Its class: "Box", "Discrete", "Text" and so on.
        shape: Of a `Box`, else ().
        low: Least value of each number of a `Box`, of its shape, float64; else None.
        high: The greatest.
        is_image: Whether Minari stores it as JPEG, unless it is told not to.
    """

    kind: str
    shape: tuple[int, ...] = ()
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    is_image: bool = False


def parse_space(text: Any) -> dict[str, Space]:
    """Return the spaces inside by their names, joined by slashes; what is no `Dict` is under "".

    Raises:
        ValueError: If it is not a space as Minari writes it.
    """
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected a space as JSON text, got {str(text)[:80]!r}") from error
    spaces: dict[str, Space] = {}
    parts = [("", found, 0)]
    for visited, (name, part, depth) in enumerate(parts):
        if not isinstance(part, dict) or visited > _MAX_SPACES or depth > _MAX_DEPTH:
            raise ValueError(f"expected a space under {name!r}, got {str(part)[:80]}")
        subspaces = part.get("subspaces")
        if part.get("type") == "Dict" and isinstance(subspaces, dict):
            prefix = f"{name}/" if name else ""
            parts += [(f"{prefix}{key}", value, depth + 1) for key, value in subspaces.items()]
        else:
            spaces[name] = _parse_box(name, part) if part.get("type") == "Box" else Space(
                str(part.get("type"))
            )  # fmt: skip
    return spaces


def describe_space(layout: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    """Return the space of arrays of some shapes and types, as Minari writes it.

    Args:
        layout: Shape and type of each by its name; those with slashes become a `Dict` inside, and
            "state" alone no `Dict`.

    Raises:
        ValueError: If a name is also the beginning of another.
    """
    if set(layout) == {"state"}:
        return json.dumps(make_box(*layout["state"]))
    space: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for name, (shape, dtype) in layout.items():
        *folders, last = name.split("/")
        inside = space
        for folder in folders:
            inside = inside["subspaces"].setdefault(folder, {"type": "Dict", "subspaces": {}})
            if "subspaces" not in inside:
                break
        if last in inside.get("subspaces", (last,)):
            raise ValueError(
                f"The observation {name!r} cannot be written beside one whose name it continues. "
                "Rename one of them."
            )
        inside["subspaces"][last] = make_box(shape, dtype)
    return json.dumps(space)


def make_box(
    shape: tuple[int, ...], dtype: np.dtype[Any], bounds: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Return a `Box`; by default bytes are pictures and other numbers have no bounds."""
    if bounds is None and dtype.kind in "biu":
        bounds = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    kind = float if dtype.kind == "f" else int
    return {
        "type": "Box",
        "dtype": str(dtype),
        "shape": list(shape),
        "low": np.full(shape, low, kind if bounds else np.float64).tolist(),
        "high": np.full(shape, high, kind if bounds else np.float64).tolist(),
    }


def _parse_box(name: str, part: Mapping[str, Any]) -> Space:
    try:
        shape = tuple(int(size) for size in part["shape"])
        low, high = (np.asarray(part[bound], np.float64) for bound in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the Box space under {name!r} lacks bounds or a shape") from error
    if any(size < 0 for size in shape) or low.size != math.prod(shape) or high.size != low.size:
        raise ValueError(
            f"the Box space under {name!r} of shape {shape} has {low.size} and {high.size} bounds"
        )
    is_image = (
        len(shape) in (2, 3)
        and min(shape[:2]) >= _IMAGE_SIDE
        and part.get("dtype") == "uint8"
        and bool((low == 0).all() and (high == 255).all())
    )
    return Space("Box", shape, low.reshape(shape), high.reshape(shape), is_image)
