"""The random crops and colours that OpenVLA is trained with, as TensorFlow computes them."""

import dataclasses
from collections.abc import Callable

import numpy as np

from libero_reward_envs.openvla.image_resampling import (
    check_images,
    crop_and_resize,
    to_float,
    to_uint8,
)


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Crops, then changes brightness, contrast, saturation and hue, in this order.

    The defaults are those of the released checkpoints (Kim et al. 2024, "OpenVLA"). There the two
    offsets of a crop came from one seed and were always equal, so that crops slide along the
    diagonal; `diagonal` repeats that, False draws them apart.

    Args:
        crop_area: Part of the area that a crop keeps; 1 for no crop.
        brightness: What is added at most, either way.
        contrast: Least and largest factor of the distance to each channel's mean.
        saturation: Least and largest factor of the saturation.
        hue: What is added at most, either way; 1 is the whole circle.
        diagonal: Whether crops slide along the diagonal only.

    Raises:
        ValueError: If a range is not one.
    """

    crop_area: float = 0.9
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.05
    diagonal: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"`crop_area` must be in (0, 1], got {self.crop_area}.")
        if self.brightness < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(
                "`brightness` must be at least 0 and `hue` from 0 to 0.5, got "
                f"{self.brightness} and {self.hue}."
            )
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high:
                raise ValueError(f"`{name}` must be (low, high) from 0 on, got {(low, high)}.")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return images, each changed in its own way, shape (n, H, W, 3) uint8.

        Args:
            images: Shape (n, H, W, 3), uint8.
            rng: Where the changes are drawn from.

        Raises:
            ValueError: If the images are of another type or shape.
        """
        check_images(images)
        changes = self.draw(len(images), rng)
        size = images.shape[1:3]
        augmented = np.clip(crop_and_resize(to_float(images), changes.boxes, size), 0, 1)
        steps: tuple[tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], np.ndarray], ...] = (
            (adjust_brightness, changes.brightness),
            (adjust_contrast, changes.contrast),
            (adjust_saturation, changes.saturation),
            (adjust_hue, changes.hue),
        )
        for adjust, amounts in steps:
            augmented = np.clip(adjust(augmented, amounts), 0, 1)
        return to_uint8(augmented)

    def draw(self, n: int, rng: np.random.Generator) -> "ImageChanges":
        """Draw what is done to n images."""
        side = np.sqrt(self.crop_area)
        offsets = rng.uniform(0, 1 - side, (n, 1 if self.diagonal else 2))
        starts = np.broadcast_to(offsets, (n, 2))
        return ImageChanges(
            boxes=np.clip(np.concatenate([starts, starts + side], axis=1), 0, 1),
            brightness=rng.uniform(-self.brightness, self.brightness, n),
            contrast=rng.uniform(*self.contrast, n),
            saturation=rng.uniform(*self.saturation, n),
            hue=rng.uniform(-self.hue, self.hue, n),
        )


@dataclasses.dataclass(frozen=True)
class ImageChanges:
    """What is done to n images.

    Args:
        boxes: Of the crops, (n, 4): y1, x1, y2, x2, from 0 to 1.
        brightness: (n,), as the other three; see the functions below.
        contrast: Factors.
        saturation: Factors.
        hue: Parts of a turn.
    """

    boxes: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray


def adjust_brightness(images: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Return x + delta; images (n, H, W, 3) float32 in [0, 1], deltas (n,). Not clipped."""
    return images + _column(deltas)


def adjust_contrast(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return (x - m) f + m, m the mean of the image's channel. Not clipped."""
    columns = images.sum(axis=1, keepdims=True)  # first what lies together in memory
    means = columns.mean(axis=2, keepdims=True, dtype=np.float64) / images.shape[1]
    means = means.astype(np.float32)
    return (images - means) * _column(factors) + means


def adjust_saturation(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the saturation of HSV by f, at most to 1; images in [0, 1]."""
    # x = v (1 - s k), where k depends on the hue alone: only v - x changes, by the factor of s,
    # which is at most 1 / s = v / chroma.
    value, chroma = _value_and_chroma(images)
    most = np.divide(value, chroma, out=np.zeros_like(value), where=chroma > 0)
    factor = np.minimum(_column(factors)[..., 0], most)
    changed = np.empty_like(images)
    for channel in range(3):
        changed[..., channel] = value - (value - images[..., channel]) * factor
    return changed


def adjust_hue(images: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Turn the hue of HSV by delta, a part of the circle; images in [0, 1]."""
    value, chroma = _value_and_chroma(images)
    hue = _find_hue(images, value, chroma) + _column(deltas)[..., 0]
    hue = (hue - np.floor(hue)) * 6
    turned = np.empty_like(images)
    # How far a channel is from full: by nothing within a sixth of a turn around its colour, by the
    # whole chroma beyond a third.
    for channel, middle in enumerate((3, 2, 4)):
        share = np.abs(hue - middle)
        share = share - 1 if channel == 0 else 2 - share
        np.clip(share, 0, 1, out=share)
        turned[..., channel] = value - chroma * (1 - share)
    return turned


def _value_and_chroma(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest channel of each pixel, and its distance to the smallest, (n, H, W)."""
    red, green, blue = (images[..., channel] for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    return value, value - np.minimum(np.minimum(red, green), blue)


def _find_hue(images: np.ndarray, value: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Return hues as parts of a turn, from -1/6 to 5/6, 0 for grey, shape (n, H, W)."""
    red, green, blue = (images[..., channel] for channel in range(3))
    sixth = np.divide(np.float32(1), 6 * chroma, out=np.zeros_like(chroma), where=chroma > 0)
    hue = sixth * (red - green) + np.float32(4 / 6)
    np.copyto(hue, sixth * (blue - red) + np.float32(2 / 6), where=green == value)
    np.copyto(hue, sixth * (green - blue), where=red == value)
    return hue


def _column(amounts: np.ndarray) -> np.ndarray:
    return np.asarray(amounts, np.float32).reshape(-1, 1, 1, 1)
