"""Writing episodes so that neither a kill nor a full disk loses what was written before."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.atomic_files import force_file_to_disk, force_folder_to_disk
from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.file_locks import lock_folder
from libero_reward_envs.data.hdf5 import (
    demo_number,
    index_file,
    make_header,
    open_episodes,
    pending_files,
    pending_folder,
    write_episode,
)

_TEMPORARY_SUFFIX = ".tmp"


class EpisodeWriter(ClosedAtExit):
    """Appends episodes to an HDF5 file in LIBERO's layout.

    HDF5 has no journal: a process killed while it changes a file can leave one that no longer
    opens, whatever the order of its writes. So the file is never changed in place. Each episode is
    built in memory, written whole to `<path>.pending/`, forced to disk, and given its name; from
    then on `load_episodes` reads it. `close` merges what waits into a copy of the file and
    renames the copy over it. A kill at any moment leaves complete episodes, and perhaps temporary
    files, which the next writer removes. The price: `close` copies the file, and needs the space.

    Args:
        path: The file; made if it is not there, else appended to.
        env_args: What robomimic reads from `env_args`, as JSON would hold it; for a new file only.
        compression: "gzip" or "lzf", for images.

    Raises:
        ValueError: If there is a file that is damaged or not of this format.
        RuntimeError: If another process is writing the file.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/episodes.hdf5"
        >>> episode = Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.ones(1), True, True)
        >>> with EpisodeWriter(path) as writer:
        ...     writer.append(episode)
        >>> len(writer)
        1
    """

    def __init__(
        self,
        path: str | Path,
        *,
        env_args: Mapping[str, Any] | None = None,
        compression: str = "gzip",
    ) -> None:
        if compression not in ("gzip", "lzf"):
            raise ValueError(f"`compression` must be 'gzip' or 'lzf', got {compression!r}.")
        self._path = Path(path)
        self._folder = pending_folder(self._path)
        self._env_args = dict(env_args or {})
        self._compression = compression
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = lock_folder(self._folder, self._path)
        try:
            for leftover in self._folder.glob(f"*{_TEMPORARY_SUFFIX}"):
                leftover.unlink()
            waiting = pending_files(self._path)
            self._next_number = 1 + max(
                (int(file.stem.partition("-")[0]) for file in waiting), default=-1
            )
            merged = (
                {episode_id for _, episode_id in index_file(self._path)}
                if self._path.exists()
                else set()
            )
            self._length = len(merged | {file.stem.partition("-")[2] for file in waiting})
        except BaseException:
            self._release()
            raise

    def __len__(self) -> int:
        """The number of episodes in the file, with those that wait."""
        return self._length

    def append(self, episode: Episode, *, states: np.ndarray | None = None) -> None:
        """Add one episode; once this returns, a kill or a power cut no longer loses it.

        Args:
            episode: The episode.
            states: The simulator's flattened states before each step, shape (T, D), for robomimic's
                playback; `load_episodes` does not read them.

        Raises:
            OSError: If it cannot be written, for example because the disk is full. What was written
                before stays readable, and the writer can be used on.
            ValueError: If `states` has not one row a step.
        """
        if self._lock is None:
            raise RuntimeError(f"The writer of {str(self._path)!r} is closed.")
        if states is not None and (states.ndim != 2 or len(states) != len(episode)):
            raise ValueError(f"Expected `states` of shape ({len(episode)}, D), got {states.shape}.")
        episode_id = uuid.uuid4().hex
        name = f"{self._next_number:08d}-{episode_id}.hdf5"
        # Built in memory: of a full disk, plain files tell more plainly than the HDF5 library does.
        with h5py.File(name, "w", driver="core", backing_store=False, block_size=2**20) as file:
            data = file.create_group("data")
            make_header(data, self._env_args)
            write_episode(
                data.create_group("demo_0"), episode, episode_id, states, self._compression
            )
            data.attrs["num_demos"], data.attrs["total"] = 1, len(episode)
            file.flush()
            image = file.id.get_file_image()
        temporary = self._folder / (name + _TEMPORARY_SUFFIX)
        try:
            with open(temporary, "wb") as target:
                target.write(image)
            force_file_to_disk(temporary)
            os.replace(temporary, self._folder / name)
            force_folder_to_disk(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise OSError(
                error.errno,
                f"Could not write an episode of {len(image)} bytes ({error.strerror}). "
                f"The {self._length} episodes before it are safe",
                str(self._path),
            ) from error
        self._next_number += 1
        self._length += 1

    def close(self) -> None:
        """Merge the new episodes into the file. Calling it again does nothing.

        Raises:
            OSError: If the merged file cannot be written. Nothing is lost: `load_episodes` reads
                the episodes where they wait, and the next writer's `close` merges them.
        """
        if self._lock is None:
            return
        temporary = self._folder / f"merged{_TEMPORARY_SUFFIX}"
        try:
            self._merge(temporary)
        except (OSError, RuntimeError) as error:  # h5py reports a failed close as the latter
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(
                number,
                f"Could not merge new episodes ({os.strerror(number)}). They are safe in "
                f"{str(self._folder)!r}, load_episodes reads them, and the next writer merges them",
                str(self._path),
            ) from error
        finally:
            with contextlib.suppress(OSError):  # there only if merging failed
                temporary.unlink()
            self._release()

    def _merge(self, temporary: Path) -> None:
        waiting = pending_files(self._path)
        if not waiting:
            return
        merged = index_file(self._path) if self._path.exists() else []
        known = {episode_id for _, episode_id in merged}
        # A kill between renaming and removing leaves episodes that are merged already.
        new = [file for file in waiting if file.stem.partition("-")[2] not in known]
        if new:
            if merged:
                shutil.copyfile(self._path, temporary)
            number = 1 + max((demo_number(name) for name, _ in merged), default=-1)
            with h5py.File(temporary, "r+" if merged else "w") as file:
                _append_files(file, new, number, self._env_args)
            force_file_to_disk(temporary)
            os.replace(temporary, self._path)
            force_folder_to_disk(self._path.parent)
        for file in waiting:
            file.unlink()

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(
                OSError
            ):  # not empty: episodes wait, or another file lies there
                self._folder.rmdir()
            os.close(self._lock)
            self._lock = None


def _append_files(file: Any, new: list[Path], first_number: int, env_args: dict[str, Any]) -> None:
    if "data" not in file:
        make_header(file.create_group("data"), env_args)
    data = file["data"]
    total = int(data.attrs["total"])
    for number, path in enumerate(new, start=first_number):
        with open_episodes(path) as source:
            source.copy("demo_0", data, name=f"demo_{number}")
        total += int(data[f"demo_{number}"].attrs["num_samples"])
    data.attrs["num_demos"] = sum(name.startswith("demo_") for name in data)
    data.attrs["total"] = total
