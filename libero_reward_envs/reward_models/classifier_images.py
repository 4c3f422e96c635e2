"""The images in observations, as classifiers take them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def read_images(
    observations: Mapping[str, np.ndarray], keys: Sequence[str], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Return the images by key, each (n, H, W, C), uint8.

    Args:
        observations: The images and anything else, by key.
        keys: Which are wanted.
        shape: (H, W, C) of each.

    Raises:
        ValueError: If images are missing, of another size, order of axes or type.
    """
    images: dict[str, np.ndarray] = {}
    for key in keys:
        if key not in observations:
            raise ValueError(
                f"Expected images {key!r}, got only: {', '.join(observations)}. Keep them in "
                "the observation, or use a model of these images."
            )
        images[key] = np.asarray(observations[key])
        _check_images(key, images[key], shape)
    lengths = {key: len(value) for key, value in images.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected as many images of each key, got {lengths}.")
    return images


def take_rows(images: Mapping[str, np.ndarray], rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of images by key."""
    return {key: value[rows] for key, value in images.items()}


def to_tensors(images: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """Return bytes (n, C, H, W) on a device for (n, H, W, C), in the same order in memory."""
    return {key: _to_tensor(value).to(device).permute(0, 3, 1, 2) for key, value in images.items()}


def _to_tensor(images: np.ndarray) -> torch.Tensor:
    # Torch takes no negative strides, and warns of arrays that it could not write to.
    is_plain = images.flags.c_contiguous and images.flags.writeable
    return torch.from_numpy(images if is_plain else np.array(images, order="C"))


def _check_images(key: str, images: np.ndarray, shape: tuple[int, int, int]) -> None:
    expected = f"Expected images {key!r} of shape {('n', *shape)} and type uint8, got "
    came = f"{images.shape} and {images.dtype}. "
    if images.shape[1:] != shape:
        height, width, n_channels = shape
        if images.shape[1:] == (n_channels, height, width):
            hint = "Move the channels last: np.moveaxis(images, 1, -1)."
        elif images.shape == shape:
            hint = "Add the axis of rows: images[None]."
        elif images.ndim == 4 and images.shape[-1] == n_channels:
            hint = f"Render at {height} x {width} pixels, or train a classifier for this size."
        else:
            hint = "Images are (H, W, C), one a row."
        raise ValueError(expected + came + hint)
    if images.dtype != np.uint8:
        hint = "Convert them: np.round({}).astype(np.uint8)."
        if images.dtype.kind == "f":
            is_unit = images.size > 0 and float(images.max()) <= 1
            hint = hint.format("255 * images" if is_unit else "images")
        raise ValueError(expected + came + hint.format("images"))
