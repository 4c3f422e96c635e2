"""HDF5 files that a source reads from, opened for each read or kept open for many."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from libero_reward_envs.data.open_files import OpenFiles
from libero_reward_envs.data.safe_hdf5 import name_errors, open_hdf5

_CAPACITY = 4  # each may hold a few megabytes of the library's own


class Hdf5Files:
    """Opens files for reading, and keeps them open while there are many reads to come.

    A file that is open cannot be opened for writing in the same process, so that only who asks for
    it has it kept. One that was replaced since is opened anew. Nothing that is open goes along into
    other processes.
    """

    def __init__(self) -> None:
        self._kept = OpenFiles(_CAPACITY)
        self._n_keepers = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Keep open what is read from until the block ends."""
        self._n_keepers += 1
        try:
            yield
        finally:
            self._n_keepers -= 1
            if not self._n_keepers:
                self._kept.close()

    @contextlib.contextmanager
    def open(self, path: Path, *, keep: bool = False) -> Iterator[h5py.File]:
        """Open a file; for errors see `open_hdf5`.

        Args:
            path: The file.
            keep: Whether to keep it open, until a block of `keep` ends or this object is gone.
        """
        if not keep and not self._n_keepers:
            with open_hdf5(path) as file:
                yield file
        else:
            with name_errors(path), self._kept.borrow(_OpenFile, path) as kept:
                yield kept.refresh()


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._identity = _identify(self._path)
        self._file = h5py.File(self._path, "r")

    def refresh(self) -> h5py.File:
        """Return the file that now has this name."""
        if _identify(self._path) != self._identity:
            self.close()
            self._open()
        return self._file

    def close(self) -> None:
        self._file.close()


def _identify(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
