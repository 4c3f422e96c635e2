"""Resizing and cropping as TensorFlow's image operations compute them, on batches, in float32.

The released checkpoints were trained and evaluated behind these operations. Pillow and OpenCV round
in between, and differ by a grey level on a fifth of the pixels.
"""

import functools

import numpy as np

_LANCZOS_RADIUS = 3.0
_BAND = 32  # pixels that are resized by one matrix


def check_images(images: np.ndarray) -> None:
    """Check that images are of shape (n, H, W, 3) and uint8.

    Raises:
        ValueError: If not; the message says what was found and how to convert it.
    """
    if not isinstance(images, np.ndarray):
        raise ValueError(f"Expected images as a NumPy array, got {type(images).__name__}.")
    if images.dtype != np.uint8:
        span = f" from {images.min():.4g} to {images.max():.4g}" if images.size else ""
        in_unit = images.size and np.issubdtype(images.dtype, np.floating) and images.max() <= 1
        factor = "(255 * images)" if in_unit else "images"
        raise ValueError(
            f"Expected images of dtype uint8, from 0 to 255, got {images.dtype}{span}. Convert "
            f"them by `{factor}.round().astype(np.uint8)` if that range is 0 to "
            f"{1 if in_unit else 255}."
        )
    if images.ndim != 4 or images.shape[3] != 3 or not images.size:
        hint = ""
        if images.ndim == 4 and images.shape[1] == 3:
            hint = " Channels come last: `images.transpose(0, 2, 3, 1)`."
        elif images.ndim == 3 and images.shape[2] == 3:
            hint = " One image is a batch of one: `images[None]`."
        raise ValueError(f"Expected images of shape (n, H, W, 3), got {images.shape}.{hint}")


def resize_lanczos(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by the Lanczos kernel of three lobes with antialiasing, as `tf.image.resize`.

    Rounded to even at the end, nowhere in between: within one grey level of TensorFlow, which sums
    in another order, and equal on more than 99.9 % of the values.

    Args:
        images: Shape (n, H, W, 3), uint8.
        size: (height, width) wanted; the aspect ratio is not kept.

    Returns:
        Shape (n, height, width, 3), uint8; the images themselves if they have the size.

    Raises:
        ValueError: If the images are of another type or shape.
    """
    check_images(images)
    height, width = images.shape[1:3]
    if (height, width) == tuple(size):
        return images
    resized = np.empty((len(images), *size, 3), np.uint8)
    lower = np.empty((3, size[0], width), np.float32)
    planes = np.empty((3, *size), np.float32)
    for row, image in zip(resized, images, strict=True):
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
        for rows, seen, weights in _lanczos_bands(height, size[0]):
            np.matmul(weights, pixels[:, seen], out=lower[:, rows])
        for columns, seen, weights in _lanczos_bands(width, size[1]):
            np.matmul(lower[:, :, seen], weights.T, out=planes[:, :, columns])
        np.clip(np.rint(planes, out=planes), 0, 255, out=planes)
        row[:] = planes.transpose(1, 2, 0)
    return resized


def crop_and_resize(images: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut a box out of each image and stretch it to a size, as `tf.image.crop_and_resize`.

    Bilinear; the corners of the box fall on the middles of the corner pixels of the result.

    Args:
        images: Shape (n, H, W, C), float32.
        boxes: Shape (n, 4): y1, x1, y2, x2, as parts of H - 1 and W - 1, from 0 to 1.
        size: (height, width) of the result.

    Returns:
        Shape (n, height, width, C), float32.

    Raises:
        ValueError: If there is another number of boxes than of images, or one reaches outside.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.shape != (len(images), 4):
        raise ValueError(f"Expected boxes of shape ({len(images)}, 4), got {boxes.shape}.")
    if not ((boxes >= 0) & (boxes <= 1)).all():
        raise ValueError(f"Expected boxes within [0, 1], got {boxes.min()} to {boxes.max()}.")
    height, width, channels = images.shape[1:]
    cut = np.empty((len(images), *size, channels), np.float32)
    # Memory is touched once a batch: for pictures of this size that costs more than the sums.
    across, right = np.empty((2, height, size[1] * channels), np.float32)
    above, below = np.empty((2, size[0], size[1] * channels), np.float32)
    for row, image, (y1, x1, y2, x2) in zip(cut, images, boxes, strict=True):
        x_before, x_after, x_parts = _bilinear_places(x1, x2, width, size[1])
        y_before, y_after, y_parts = _bilinear_places(y1, y2, height, size[0])
        pixels = image.reshape(height, width * channels)
        np.take(pixels, _of_channels(x_before, channels), axis=1, out=across, mode="clip")
        np.take(pixels, _of_channels(x_after, channels), axis=1, out=right, mode="clip")
        _move_towards(across, right, np.repeat(x_parts, channels))
        np.take(across, y_before, axis=0, out=above, mode="clip")
        np.take(across, y_after, axis=0, out=below, mode="clip")
        _move_towards(above, below, y_parts[:, None])
        row[:] = above.reshape(row.shape)
    return cut


def to_float(images: np.ndarray) -> np.ndarray:
    """Return uint8 images as float32 in [0, 1], as `tf.image.convert_image_dtype`."""
    return images.astype(np.float32) * np.float32(1 / 255)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Return float32 images as uint8, as `tf.image.convert_image_dtype(saturate=True)`.

    x 255.5 without its fraction, so that all of [0, 1] is used evenly: not rounding of 255 x.
    """
    scaled = images * np.float32(255.5)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _lanczos_bands(n_in: int, n_out: int) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Return what each of n_in pixels adds to each of n_out, by bands of the latter.

    A pixel sees few others, so nearly all of the whole matrix is zero.

    Returns:
        The pixels of a band, those that it sees, and the weights, (band, seen) float32.
    """
    scale = n_in / n_out
    stretch = max(1.0, scale)  # antialiasing: the kernel covers all pixels that become one
    middles = (np.arange(n_out) + 0.5) * scale
    distances = np.abs(np.arange(n_in) + 0.5 - middles[:, None]) / stretch
    kernel = np.sinc(distances) * np.sinc(distances / _LANCZOS_RADIUS)
    kernel = np.where(distances < _LANCZOS_RADIUS, kernel, 0.0)
    weights = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    bands = []
    for start in range(0, n_out, _BAND):
        band = slice(start, min(start + _BAND, n_out))
        places = np.flatnonzero(weights[band].any(axis=0))
        seen = slice(int(places[0]), int(places[-1]) + 1)
        bands.append((band, seen, np.ascontiguousarray(weights[band, seen])))
    return tuple(bands)


def _bilinear_places(
    start: np.float32, stop: np.float32, n_in: int, n_out: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels before and after each place, and how far it lies between them, (n_out,)."""
    last = np.float32(n_in - 1)
    if n_out > 1:
        step = (stop - start) * last / np.float32(n_out - 1)
        places = start * last + np.arange(n_out, dtype=np.float32) * step
    else:
        places = np.full(1, np.float32(0.5) * (start + stop) * last, np.float32)
    places = np.clip(places, 0, last)  # rounding may lead past the last pixel
    before = np.floor(places).astype(np.intp)
    after = np.minimum(before + 1, n_in - 1)
    return before, after, places - before.astype(np.float32)


def _of_channels(pixels: np.ndarray, n_channels: int) -> np.ndarray:
    """Return where the values of pixels of a row lie, if those of a pixel lie side by side."""
    return (pixels[:, None] * n_channels + np.arange(n_channels)).ravel()


def _move_towards(values: np.ndarray, others: np.ndarray, parts: np.ndarray) -> None:
    """Change values to v + (o - v) p, and the others to what is left over from that."""
    others -= values
    others *= parts
    values += others
