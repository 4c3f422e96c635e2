"""Single frames of trajectories, read in the parts in which their files are stored."""

import bisect
import os

import numpy as np

from libero_reward_envs.data.frame_sources import FrameSource
from libero_reward_envs.data.hdf5_frames import OpenFiles


class FrameReader:
    """Reads single frames, keeping the last part of a file for the ones after it."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._files = OpenFiles()
        self._part: tuple[FrameSource, int, dict[str, np.ndarray]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {}  # open files do not travel to other processes

    def __setstate__(self, state: dict[str, object]) -> None:
        self._forget()

    def read(self, source: FrameSource, frame: int) -> dict[str, np.ndarray]:
        """Return a frame by key, (H, W, C) uint8."""
        if self._process != os.getpid():  # after a fork
            self._forget()
        bounds = [*source.part_starts.tolist(), len(source.labels)]
        position = bisect.bisect_right(bounds, frame)
        start, stop = bounds[position - 1], bounds[position]
        if self._part is None or self._part[0] is not source or self._part[1] != start:
            self._part = (source, start, source.read(start, stop, self._files))
        return {key: images[frame - start] for key, images in self._part[2].items()}
