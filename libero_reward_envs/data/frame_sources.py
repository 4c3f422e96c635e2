"""Where labelled frames lie: `.npy` trajectories and HDF5 episodes, found, checked, read in parts.

Frame t of a trajectory is the observation after step t: T steps have T frames in either format.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from libero_reward_envs.data.hdf5 import index_file, open_episodes, pending_files
from libero_reward_envs.data.hdf5_frames import EpisodeFrames, OpenFiles, check_sizes
from libero_reward_envs.data.safe_hdf5 import get_child
from libero_reward_envs.data.trajectory_files import TrajectoryFile

logger = logging.getLogger(__name__)

_NPY_FRAMES_PER_PART = 16


class FrameSource(Protocol):
    """One trajectory on disk."""

    folder: str  # name of the folder it was found in
    name: str  # of the trajectory in that folder
    path: Path
    labels: np.ndarray  # (T,) float32
    part_starts: np.ndarray  # first frames of the parts that are best read as a whole
    orientation: str | None  # how the images were turned, where it is known

    def check_layout(self, image_size: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
        """Return (C, H, W) of each key, or raise ValueError if a layout is another."""
        ...

    def read(self, start: int, stop: int, files: OpenFiles) -> dict[str, np.ndarray]:
        """Read frames by key, each of shape (stop - start, H, W, C), uint8."""
        ...


class NpyFrames:
    """The frames of a `.npy` trajectory.

    Raises:
        ValueError: If the file is damaged.
    """

    def __init__(self, path: Path, image_keys: Sequence[str]) -> None:
        self.path, self.folder, self.name = path, path.parent.resolve().name, path.stem
        self._file = TrajectoryFile(path)
        self._keys = tuple(image_keys)
        self.labels = self._file.labels
        self.orientation: str | None = None  # these files have no place for it
        self.part_starts = np.arange(0, len(self.labels), _NPY_FRAMES_PER_PART)

    def check_layout(self, image_size: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
        """Return (C, H, W) of each key, or raise ValueError if a layout is another."""
        for key in self._keys:
            self._file.check_layout(key)
        sizes = tuple(tuple(self._file.image_shapes[key][1:]) for key in self._keys)
        return check_sizes(self.path, self._keys, sizes, image_size)

    def read(self, start: int, stop: int, files: OpenFiles) -> dict[str, np.ndarray]:
        """Read frames by key, each of shape (stop - start, H, W, C), uint8."""
        images = {}
        for key in self._keys:
            scaled = self._file.read_images(key, start, stop) * np.float32(255) + np.float32(0.5)
            images[key] = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
        return images


def find_sources(path: Path, image_keys: Sequence[str]) -> tuple[list[FrameSource], list[str]]:
    """Find the trajectories of a folder, or of one HDF5 file, sorted by name.

    Files of both kinds may lie in one folder; other files are passed over. Damaged ones, and
    pickles that ask for more than arrays, are named and skipped.

    Returns:
        The trajectories, and what is wrong with each that was skipped.

    Raises:
        FileNotFoundError: If there is no such folder or file.
    """
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        npy = [path / name for name in names if re.fullmatch(r"[^.].*\.npy", name)]
        # An HDF5 file of which nothing is merged yet is known by its folder of waiting episodes.
        hdf5 = {re.sub(r"\.pending$", "", name) for name in names}
        episodes = sorted(
            path / name for name in hdf5 if re.fullmatch(r"[^.].*\.hdf5|.*\.h5", name)
        )
    elif path.exists() or pending_files(path):
        npy, episodes = [], [path]
    else:
        raise FileNotFoundError(f"No trajectories at {str(path)!r}: there is no such folder.")
    found: list[FrameSource] = []
    skipped: list[str] = []
    for file in npy:
        try:
            found.append(NpyFrames(file, image_keys))
        except (OSError, ValueError) as error:
            skipped.append(_name_damage(file, error))
    for file in episodes:
        _find_episodes(file, image_keys, found, skipped)
    for reason in skipped:
        logger.warning("A trajectory is skipped. %s", reason)
    return found, skipped


def _find_episodes(
    path: Path, image_keys: Sequence[str], found: list[FrameSource], skipped: list[str]
) -> None:
    waiting = pending_files(path)  # first: those merged in between are then known by their id
    known: set[str] = set()
    if path.exists():
        try:
            index = index_file(path)
        except (OSError, ValueError) as error:
            skipped.append(_name_damage(path, error))
        else:
            known = {episode_id for _, episode_id in index}
            _open_all(path, [name for name, _ in index], image_keys, found, skipped)
    for file in waiting:
        if file.stem.partition("-")[2] not in known:
            _open_all(file, ["demo_0"], image_keys, found, skipped)


def _open_all(
    path: Path,
    groups: list[str],
    image_keys: Sequence[str],
    found: list[FrameSource],
    skipped: list[str],
) -> None:
    try:
        with open_episodes(path) as data:
            for group in groups:
                try:
                    demo = get_child(data, group, h5py.Group)
                    found.append(EpisodeFrames(path, group, image_keys, demo))
                except (OSError, RuntimeError, KeyError, ValueError) as error:
                    skipped.append(_name_damage(path, error, f", {group}"))
    except (OSError, ValueError) as error:
        skipped.append(_name_damage(path, error))


def _name_damage(path: Path, error: Exception, part: str = "") -> str:
    message = str(error)
    return message if str(path) in message else f"Cannot read {str(path)!r}{part}: {message}."
