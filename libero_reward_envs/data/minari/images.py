"""Minari's images, which lie in HDF5 as JPEG files, one a row."""

import io
import math
from collections.abc import Iterator

import h5py
import numpy as np

from libero_reward_envs.data.hdf5_heap import HeapReader
from libero_reward_envs.data.safe_hdf5 import check_array

_MAX_FRAME_BYTES = 2**26
_MAX_COMPRESSION_RATIO = 1100  # a picture of one colour reaches about 500 : 1


def is_jpeg_rows(dataset: h5py.Dataset, *, in_image_space: bool) -> bool:
    """Whether a dataset holds JPEG files; those of one size lie in rows of that size."""
    if dataset.dtype.kind == "O":
        return h5py.check_vlen_dtype(dataset.dtype) == np.dtype(np.uint8)
    return in_image_space and dataset.ndim == 2 and dataset.dtype == np.uint8


def count_rows(dataset: h5py.Dataset, n_rows: int) -> None:
    """Raise ValueError unless there are `n_rows` of them."""
    if dataset.dtype.kind != "O":
        check_array(dataset, n_rows)
    elif dataset.shape != (n_rows,):
        raise ValueError(f"expected {n_rows} rows in {dataset.name}, got shape {dataset.shape}")


def read_jpeg_rows(
    file: h5py.File, dataset: h5py.Dataset, n_rows: int, shape: tuple[int, ...] | None
) -> np.ndarray:
    """Read `n_rows` images of a shape, (H, W) or (H, W, 3); None for that of the first.

    Raises:
        ValueError: If the dataset is damaged or an image is of another shape.
    """
    count_rows(dataset, n_rows)
    images: np.ndarray | None = None
    for index, content in enumerate(_walk_rows(file, dataset)):
        try:
            image = _decode(content)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged one
            raise ValueError(f"image {index} of {dataset.name} is damaged: {error}") from error
        if images is None:
            shape = image.shape if shape is None else shape
            if n_rows * math.prod(shape) > _MAX_COMPRESSION_RATIO * file.id.get_filesize():
                raise ValueError(f"{dataset.name} declares more images than the file can hold")
            images = np.empty((n_rows, *shape), np.uint8)
        if image.shape != shape:
            raise ValueError(f"image {index} of {dataset.name} is {image.shape}, not {shape}")
        images[index] = image
    assert images is not None  # n_rows is at least 2
    return images


def _walk_rows(file: h5py.File, dataset: h5py.Dataset) -> Iterator[bytes]:
    if dataset.dtype.kind != "O":
        yield from (row.tobytes() for row in dataset[()])
        return
    with HeapReader(file) as reader:
        yield from reader.read_rows(dataset)


def _decode(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if math.prod(image.size) * 3 > _MAX_FRAME_BYTES or image.mode not in ("L", "RGB"):
            raise ValueError(f"a {image.mode} picture of {image.size} pixels")
        return np.asarray(image)
