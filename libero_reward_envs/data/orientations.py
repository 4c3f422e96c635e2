"""The three ways in which LIBERO's pictures are turned, and how one becomes another."""

import numpy as np

# By name, whether rows and columns run the other way than in OpenGL's order, which is "raw".
_FLIPS = {"upright": (True, False), "raw": (False, False), "vla180": (True, True)}
ORIENTATIONS = tuple(_FLIPS)


def turn_images(images: np.ndarray, orientation: str, wanted: str) -> np.ndarray:
    """Return images in another orientation.

    "raw" is OpenGL's order, upside down, as in LIBERO's own observations and HDF5 files. "upright"
    flips it vertically: the true view. "vla180" turns it by 180 degrees: upright but mirrored, as
    in the data that OpenVLA and its relatives were trained on.

    Args:
        images: Shape (..., H, W, C); any number of leading axes, none too.
        orientation: The one that they have.
        wanted: The one to return.

    Raises:
        ValueError: If an orientation is unknown.

    Example:
        >>> picture = np.arange(4).reshape(2, 2, 1)
        >>> turn_images(picture, "raw", "upright")[..., 0].tolist()
        [[2, 3], [0, 1]]
    """
    for name in (orientation, wanted):
        if name not in _FLIPS:
            raise ValueError(
                f"Unknown orientation {name!r}. Choose one of: {', '.join(ORIENTATIONS)}."
            )
    rows, columns = (
        -1 if here != there else 1
        for here, there in zip(_FLIPS[orientation], _FLIPS[wanted], strict=True)
    )
    return np.ascontiguousarray(images[..., ::rows, ::columns, :])
