"""What the published evaluation of OpenVLA on LIBERO does to a picture before the model sees it."""

import numpy as np

from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.data.rlds.images import decode_images, encode_image
from libero_reward_envs.openvla.image_resampling import (
    check_images,
    crop_and_resize,
    resize_lanczos,
    to_float,
    to_uint8,
)

POLICY_IMAGE_SIZE = (224, 224)
CROP_AREA = 0.9  # of the crops that the released checkpoints were trained on
ORIENTATION = "vla180"  # that of the pictures in their training data


def prepare_policy_images(
    images: np.ndarray,
    *,
    orientation: str = "upright",
    jpeg: bool = True,
    size: tuple[int, int] = POLICY_IMAGE_SIZE,
    crop_area: float | None = CROP_AREA,
) -> np.ndarray:
    """Turn, compress, resize and crop pictures as the released checkpoints of LIBERO saw them.

    Kim et al. (2024), "OpenVLA", as published for LIBERO: half a turn of LIBERO's own picture, a
    JPEG round trip as the training data had it, Lanczos resizing, and the middle of the picture,
    because training cut random crops of that area. TensorFlow's pictures within one grey level.

    Args:
        images: Shape (n, H, W, 3), uint8.
        orientation: How they are turned, see `data.orientations`.
        jpeg: Whether they go through a JPEG file.
        size: (height, width) of the result.
        crop_area: Part of the area that is kept, None for all, as for checkpoints that were trained
            without augmentation.

    Returns:
        Shape (n, height, width, 3), uint8.

    Raises:
        ValueError: If the images are of another type or shape, or the orientation is unknown.
    """
    check_images(images)
    turned = turn_images(images, orientation, ORIENTATION)
    resized = resize_lanczos(pass_through_jpeg(turned) if jpeg else turned, size)
    return resized if crop_area is None else crop_center(resized, crop_area)


def pass_through_jpeg(images: np.ndarray) -> np.ndarray:
    """Encode and decode images, (n, H, W, 3) uint8, as TensorFlow does; bit for bit."""
    check_images(images)
    files = [encode_image(image, "jpeg") for image in images]
    return decode_images(files, images.shape[1:], images.dtype)


def crop_center(images: np.ndarray, area: float = CROP_AREA) -> np.ndarray:
    """Return the middle of images stretched to their size, as the published evaluation crops.

    Args:
        images: Shape (n, H, W, 3), uint8.
        area: Part of the area that is kept; the sides are its square root.

    Raises:
        ValueError: If the area is not in (0, 1] or the images are of another type or shape.
    """
    check_images(images)
    if not 0 < area <= 1:
        raise ValueError(f"`area` must be above 0 and at most 1, got {area}.")
    side = np.sqrt(np.float32(area))
    low, high = (1 - side) / 2, (1 + side) / 2
    boxes = np.tile(np.array([low, low, high, high], np.float32), (len(images), 1))
    return to_uint8(np.clip(crop_and_resize(to_float(images), boxes, images.shape[1:3]), 0, 1))
