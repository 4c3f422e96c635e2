"""The labelled frames of an episode in an HDF5 file, read in parts.

An episode of T steps has T frames, the observations after each step. Their labels are the
observation "is_success", or, where there is none, the rewards, which must then be 0 or 1.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.provenance import read_provenance
from libero_reward_envs.data.safe_hdf5 import (
    find_dataset,
    get_child,
    read_array,
    read_attribute,
    read_rows,
)
from libero_reward_envs.data.trajectory_files import CHANNELS

SUCCESS_KEY = "is_success"  # an episode's observation that holds the label of each frame
_MAX_FRAME_BYTES = 2**26
_MAX_CHUNK_BYTES = 2**28


class OpenFiles:
    """The HDF5 files and datasets last read from, kept open; of one process, never shared by two.

    Args:
        n_files: How many files stay open.
        n_datasets: How many datasets.
    """

    def __init__(self, n_files: int = 32, n_datasets: int = 512) -> None:
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._datasets: OrderedDict[tuple[Path, str], h5py.Dataset] = OrderedDict()
        self._n_files, self._n_datasets = n_files, n_datasets

    def get(self, path: Path, name: str) -> h5py.Dataset:
        """Return a dataset that was checked when its file was indexed.

        Raises:
            OSError: If the file does not open.
            KeyError: If it holds no such dataset.
        """
        dataset = self._datasets.get((path, name))
        if dataset is None:
            if len(self._datasets) >= self._n_datasets:
                self._datasets.popitem(last=False)
            found = self._open(path)[name]
            if not isinstance(found, h5py.Dataset):
                raise KeyError(f"no dataset {name!r}, it was there when the file was indexed")
            dataset = self._datasets[path, name] = found
        return dataset

    def _open(self, path: Path) -> h5py.File:
        if path not in self._files:
            if len(self._files) >= self._n_files:
                closed, file = self._files.popitem(last=False)
                file.close()
                for key in [key for key in self._datasets if key[0] == closed]:
                    del self._datasets[key]
            # Parts are read once: without this, HDF5 2 keeps up to 8 MB of each open dataset.
            self._files[path] = h5py.File(path, "r", rdcc_nbytes=0)
        self._files.move_to_end(path)
        return self._files[path]

    def close(self) -> None:
        """Close all."""
        self._datasets.clear()
        while self._files:
            self._files.popitem()[1].close()


class EpisodeFrames:
    """The frames of an episode in an HDF5 file.

    Attributes:
        orientation: How the images were turned, if the episode says it.

    Raises:
        ValueError: If the episode is damaged or has no labels.
    """

    def __init__(self, path: Path, group: str, image_keys: Sequence[str], demo: h5py.Group) -> None:
        self.path = path
        stem = path.name.partition(".")[0]
        owner = path.parent
        if owner.name.endswith(".pending"):  # not yet merged: named after the file it belongs to
            stem = f"{owner.name.partition('.')[0]}-{stem[:17]}"
            owner = owner.parent
        self.folder = owner.resolve().name
        self.name = f"{stem}-{group.removeprefix('demo_').zfill(4)}"
        self._group = group
        self._keys = tuple(image_keys)
        self.labels = _read_labels(demo)
        self.orientation: str | None = _read_orientation(demo)
        self._sizes: list[tuple[int, ...] | None] = []
        rows_per_chunk = len(self.labels)
        for key in self._keys:
            first = _find_or_none(demo, f"obs/{key}")
            last = _find_or_none(demo, f"final_obs/{key}")
            self._sizes.append(None if first is None else self._check_dataset(first, last))
            if first is not None and first.chunks is not None:
                rows_per_chunk = min(rows_per_chunk, first.chunks[0])
        # Frame t is row t + 1: the first chunk has a frame less, so that no part needs two chunks.
        later = np.arange(rows_per_chunk - 1, len(self.labels) - 1, rows_per_chunk)
        self.part_starts = np.concatenate([[0], later[later > 0]])

    def _check_dataset(self, dataset: Any, last: Any) -> tuple[int, ...]:
        """Return (C, H, W)."""
        if dataset.shape[0] != len(self.labels):
            raise ValueError(f"{dataset.name}: {dataset.shape} for {len(self.labels)} steps")
        if last is None or last.shape != (1, *dataset.shape[1:]) or last.dtype != dataset.dtype:
            raise ValueError(f"{dataset.name} has no last observation of its shape")
        if dataset.chunks is not None:
            expected = -(-dataset.shape[0] // dataset.chunks[0])
            if dataset.id.get_num_chunks() < expected:  # those that lack would read as black
                raise ValueError(f"{dataset.name}: parts of it are missing")
        if dataset.ndim != 4 or dataset.dtype != np.uint8:
            return tuple(dataset.shape[1:])
        height, width, channels = dataset.shape[1:]
        return (channels, height, width)

    def check_layout(self, image_size: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
        """Return (C, H, W) of each key, or raise ValueError if a layout is another."""
        sizes = []
        for key, size in zip(self._keys, self._sizes, strict=True):
            if size is None:
                raise ValueError(f"No images {key!r} in {self._group} of {str(self.path)!r}.")
            if len(size) != 3 or size[0] not in CHANNELS:
                raise ValueError(
                    f"Expected images {key!r} of {self._group} in {str(self.path)!r} as uint8 of "
                    f"shape (T, H, W, C) with one or three channels, got (C, H, W) = {size}."
                )
            sizes.append(size)
        return check_sizes(self.path, self._keys, tuple(sizes), image_size)

    def read(self, start: int, stop: int, files: OpenFiles) -> dict[str, np.ndarray]:
        """Read frames by key, each of shape (stop - start, H, W, C), uint8."""
        images = {}
        place = f"data/{self._group}"
        for key in self._keys:
            rows = files.get(self.path, f"{place}/obs/{key}")
            last = files.get(self.path, f"{place}/final_obs/{key}")
            images[key] = read_rows(rows, last, start + 1, stop + 1)  # frame t is row t + 1
        return images


def _read_labels(demo: h5py.Group) -> np.ndarray:
    length = read_attribute(demo, "num_samples", int)
    rows = _find_or_none(demo, f"obs/{SUCCESS_KEY}")
    last = _find_or_none(demo, f"final_obs/{SUCCESS_KEY}")
    if rows is not None and last is not None:
        labels = np.concatenate([read_array(rows, length)[1:], read_array(last, 1)])
        if labels.ndim != 1:
            raise ValueError(f"labels of shape {labels.shape}, expected ({length},)")
        labels = labels.astype(np.float32)
        wrong = labels[~((labels >= 0) & (labels <= 1))]
    else:
        labels = read_array(get_child(demo, "rewards", h5py.Dataset), length).astype(np.float32)
        wrong = labels[(labels != 0) & (labels != 1)]
    if len(labels) == 0 or len(wrong):
        raise ValueError(
            f"no labels: neither an observation {SUCCESS_KEY!r} in [0, 1] nor rewards of 0 and 1"
            + (f", got {wrong[0]:g}" if len(wrong) else "")
        )
    return labels


def _read_orientation(demo: h5py.Group) -> str | None:
    """Return what the provenance says; episodes that have none may say it beside."""
    try:
        metadata = json.loads(read_attribute(demo, "metadata", str))
        provenance = read_provenance(metadata) if isinstance(metadata, dict) else None
    except (KeyError, ValueError):
        return None
    if not isinstance(metadata, dict):
        return None
    found = metadata.get("orientation") if provenance is None else provenance.orientation
    return found if isinstance(found, str) else None


def _find_or_none(demo: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a dataset below, if it is there, of numbers that lie in the file."""
    dataset = find_dataset(demo, name)
    if dataset is None:
        return None
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} is stored outside the file, which is refused")
    if dataset.dtype.kind not in "biuf" or not dataset.shape:
        raise ValueError(
            f"{dataset.name} is {dataset.dtype} of {dataset.shape}, not rows of numbers"
        )
    row_bytes = dataset.nbytes // max(1, dataset.shape[0])
    if row_bytes > _MAX_FRAME_BYTES:
        raise ValueError(f"{dataset.name} declares {row_bytes} bytes a frame")
    # A chunk is decompressed as a whole, and a small file can declare a large one.
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise ValueError(f"{dataset.name} declares chunks of shape {dataset.chunks}")
    return dataset


def check_sizes(
    path: Path,
    keys: Sequence[str],
    sizes: tuple[tuple[int, ...], ...],
    image_size: Sequence[int] | None,
) -> tuple[tuple[int, ...], ...]:
    """Return the sizes (C, H, W) of the keys, or raise ValueError if one is not `image_size`."""
    for key, size in zip(keys, sizes, strict=True):
        if image_size is not None and size != tuple(image_size):
            raise ValueError(
                f"Expected images {key!r} of (C, H, W) = {tuple(image_size)}, got {size} in "
                f"{str(path)!r}. Give the size that the images have, or collect them anew."
            )
    return sizes
