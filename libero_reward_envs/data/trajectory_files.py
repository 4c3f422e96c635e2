"""Trajectories of labelled images in the `.npy` layout of the success classifier's workflow.

A file is what `np.save` makes of `{"images": {key: (T, C, H, W) float32 in [0, 1]}, "labels": (T,)
float32}`. Frame t is the image after step t, its label whether the task was solved then.
"""

import contextlib
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libero_reward_envs.atomic_files import TEMPORARY_SUFFIX, force_folder_to_disk
from libero_reward_envs.data.safe_pickle import StoredArray, locate_arrays

CHANNELS = (1, 3)
_NAME = re.compile(r"\d{6,}\.npy")


class Trajectory(NamedTuple):
    """The T frames of a trajectory."""

    images: dict[str, np.ndarray]  # (T, C, H, W) float32 in [0, 1], by key
    labels: np.ndarray  # (T,) float32 in [0, 1]; 0.5 and more is success


def write_trajectory(
    folder: str | Path, images: Mapping[str, np.ndarray], labels: np.ndarray
) -> Path:
    """Write a trajectory under the number after the highest one in the folder, whole or not at all.

    Several processes may write into one folder: a name is taken by one of them only, and no file is
    ever replaced. A kill may leave a temporary file, whose name begins with a dot.

    Args:
        folder: Where to write; made if it is not there.
        images: By key, shape (T, C, H, W) with C of 1 or 3, floats in [0, 1], or uint8, which is
            divided by 255.
        labels: Whether the task was solved at each frame, shape (T,), in [0, 1].

    Returns:
        The path, `<folder>/<number of six digits>.npy`.

    Raises:
        ValueError: If shapes, lengths, types or ranges are not these.
        OSError: If it cannot be written; nothing is left behind.
    """
    content = _check_trajectory(images, labels)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "wb") as file:
            # np.save makes the array of objects that it pickles from whatever it is given.
            np.save(file, np.array({"images": content.images, "labels": content.labels}))
            file.flush()
            os.fsync(file.fileno())
        path = _give_name(temporary, folder)
    finally:
        temporary.unlink(missing_ok=True)
    force_folder_to_disk(folder)
    return path


def read_trajectory(path: str | Path) -> Trajectory:
    """Read a whole trajectory; nothing is unpickled, see `safe_pickle`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, asks for anything but arrays, or its images or labels are not
            of the layout; the message names the file.
    """
    file = TrajectoryFile(path)
    for key in file.image_shapes:
        file.check_layout(key)
    return Trajectory({key: file.read_images(key) for key in file.image_shapes}, file.labels)


class TrajectoryFile:
    """A trajectory on disk, of which frames are read when they are needed.

    Holds the labels and the places of the images; the file is open only while something is read.

    Args:
        path: The file.

    Attributes:
        path: The file.
        labels: Shape (T,), float32 in [0, 1].
        image_shapes: (T, ...) of each key as it stands in the file; `check_layout` judges them.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, asks for anything but arrays, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._name_errors():
            with open(self.path, "rb") as file:
                images, labels = _find_parts(locate_arrays(file))
                stored = _read_rows(file, labels, 0, labels.shape[0])
            self.labels = _check_labels(stored)
            for key, image in images.items():
                if not image.shape or image.shape[0] != len(self.labels):
                    raise ValueError(
                        f"{len(self.labels)} labels, but images {key!r} of shape {image.shape}"
                    )
        self._images = images
        self.image_shapes = {key: image.shape for key, image in images.items()}

    def __len__(self) -> int:
        """The number of frames T."""
        return len(self.labels)

    def check_layout(self, key: str) -> None:
        """Check channel order, type and, by the first and the last frame, the range of images.

        Raises:
            ValueError: If there is no such key, or its images are not (T, C, H, W) floats in
                [0, 1]; the message names the file and says what to do.
        """
        with self._name_errors():
            image = self._find(key)
            _check_images_type(key, image.shape, image.dtype)
            for index in (0, len(self) - 1):
                self._read(key, index, index + 1)

    def read_images(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read frames `start` to `stop`, shape (stop - start, C, H, W), float32 in [0, 1].

        Raises:
            ValueError: If there is no such key or a value is not in [0, 1].
        """
        with self._name_errors():
            return self._read(key, start, len(self) if stop is None else min(stop, len(self)))

    def _read(self, key: str, start: int, stop: int) -> np.ndarray:
        with open(self.path, "rb") as file:
            images = _read_rows(file, self._find(key), start, stop)
        images = images.astype(np.float32, copy=False)
        _check_range(key, images)
        return images

    def _find(self, key: str) -> StoredArray:
        if key not in self._images:
            raise ValueError(f"no images {key!r}, it has: {', '.join(self._images)}")
        return self._images[key]

    @contextlib.contextmanager
    def _name_errors(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            message = str(error).strip(".")
            raise ValueError(f"Cannot read {str(self.path)!r}: {message}.") from error


def _find_parts(content: Any) -> tuple[dict[str, StoredArray], StoredArray]:
    """Return images and labels of what lies in a file."""
    if not isinstance(content, dict) or not {"images", "labels"} <= content.keys():
        names = list(content)[:8] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"expected a dictionary with 'images' and 'labels', got {names}")
    images, labels = content["images"], content["labels"]
    if not isinstance(images, dict) or not images:
        raise ValueError("expected 'images' as a dictionary with at least one key")
    for key, array in [*images.items(), ("labels", labels)]:
        if not isinstance(array, StoredArray):
            raise ValueError(f"expected an array under {key!r}, got {type(array).__name__}")
    if len(labels.shape) != 1:
        raise ValueError(f"expected labels of shape (T,), got {labels.shape}")
    return images, labels


def _read_rows(file: Any, array: StoredArray, start: int, stop: int) -> np.ndarray:
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    if array.fortran_order and len(array.shape) > 1:  # its rows are not contiguous
        whole = StoredArray(array.dtype, array.shape[::-1], False, array.offset)
        return _read_rows(file, whole, 0, array.shape[-1]).T[start:stop].copy()
    file.seek(array.offset + start * row_bytes)
    rows = np.empty((stop - start, *array.shape[1:]), array.dtype)
    if file.readinto(rows.reshape(-1).view(np.uint8)) != rows.nbytes:
        raise ValueError("the file was cut short")
    return rows


def _check_trajectory(images: Mapping[str, np.ndarray], labels: np.ndarray) -> Trajectory:
    checked = Trajectory({}, _check_labels(np.asarray(labels)))
    if not images:
        raise ValueError("Expected at least one key in `images`, got none.")
    for key, value in images.items():
        image = np.asarray(value)
        if image.dtype == np.uint8:
            image = image.astype(np.float32) / np.float32(255)
        _check_images_type(key, image.shape, image.dtype)
        if len(image) != len(checked.labels):
            raise ValueError(
                f"Expected {len(checked.labels)} images {key!r}, one a label, got {len(image)}."
            )
        _check_range(key, image)
        checked.images[key] = np.ascontiguousarray(image, np.float32)
    return checked


def _check_labels(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected labels of shape (T,) with T > 0, got {labels.dtype} of {labels.shape}."
        )
    labels = labels.astype(np.float32)
    if not ((labels >= 0) & (labels <= 1)).all():  # NaN is neither
        wrong = labels[~((labels >= 0) & (labels <= 1))][0]
        raise ValueError(f"Expected labels in [0, 1], got {wrong:g}.")
    return labels


def _check_images_type(key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    name = f"images {key!r}"
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"Expected {name} of shape (T, C, H, W), got {shape}.")
    if shape[1] not in CHANNELS:
        hint = "has one or three channels"
        if shape[-1] in CHANNELS:
            hint = "this looks like (T, H, W, C), transpose with .transpose(0, 3, 1, 2)"
        raise ValueError(f"Expected {name} of shape (T, C, H, W), got {shape}: {hint}.")
    if dtype.kind != "f":
        raise ValueError(
            f"Expected {name} as floats in [0, 1], got {dtype}. Divide [0, 255] by 255."
        )


def _check_range(key: str, images: np.ndarray) -> None:
    low, high = float(images.min()), float(images.max())  # NaN if one value is
    if low >= 0 and high <= 1:
        return
    hint = " They look like [0, 255]: divide by 255" if 1 < high <= 255 and low >= 0 else ""
    raise ValueError(f"Expected images {key!r} in [0, 1], got {low:g} to {high:g}.{hint}.")


def _give_name(temporary: Path, folder: Path) -> Path:
    """Give a finished file the next name that nobody has."""
    numbers = (int(path.stem) for path in folder.iterdir() if _NAME.fullmatch(path.name))
    number = 1 + max(numbers, default=-1)
    while True:
        path = folder / f"{number:06d}.npy"
        try:
            _take_name(temporary, path)
        except FileExistsError:  # another writer was faster
            number += 1
        else:
            return path


def _take_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the name is taken by an empty file first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
