"""Writing Minari sets so that neither a kill nor a full disk loses what was written before."""

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from libero_reward_envs.atomic_files import (
    TEMPORARY_SUFFIX,
    force_file_to_disk,
    force_folder_to_disk,
    write_atomically,
)
from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.file_locks import lock_folder
from libero_reward_envs.data.minari.layout import (
    Layout,
    check_layout,
    make_layout,
    read_layout,
    write_episode,
)
from libero_reward_envs.data.minari.spaces import describe_space, make_box
from libero_reward_envs.data.safe_hdf5 import get_child, open_hdf5, read_attribute

MAIN_FILE = "main_data.hdf5"
METADATA_FILE = "metadata.json"
_MINARI_VERSION = "0.5.4"  # the first that can be told that images are not JPEG
_ID = re.compile(r"([\w-]+(/[\w-]+)*/)?[\w-]+-v\d+")
_SINGLE = "episode"  # the group of a file that waits


class MinariWriter(ClosedAtExit):
    """Appends episodes to a Minari set in HDF5, images as they are, without JPEG.

    Minari reads them as `minari.load_dataset` does any set; success, task, instruction and metadata
    stand in the attributes of an episode, where this package finds them again. Each episode is
    written whole to `.pending` and forced to disk; `close` adds what waits to a copy of the
    HDF5 file, which then takes its place, and after it `metadata.json`. What a killed run wrote
    waits for the next writer; until then Minari does not see it.

    Args:
        path: The folder of the set; made if it is not there, else appended to.
        dataset_id: Minari's name of it, ending in "-v<number>"; by default the folder's name.
        description: What the set is, for its readers.

    Raises:
        ValueError: If `dataset_id` is no such name, or there is a set of another writer.
        RuntimeError: If another process is writing the set.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> episode = Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.ones(1), True, True)
        >>> with MinariWriter(tempfile.mkdtemp() + "/reach-v0") as writer:
        ...     writer.append(episode)
        >>> len(writer)
        1
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dataset_id: str | None = None,
        description: str | None = None,
    ) -> None:
        self._folder = Path(path) / "data"
        self._pending = Path(path) / ".pending"
        self._id = Path(path).resolve().name if dataset_id is None else dataset_id
        if not _ID.fullmatch(self._id):
            raise ValueError(
                f"Expected a name such as 'libero/goal-v0', got {self._id!r}. Give `dataset_id`."
            )
        self._description = description
        self._lock: int | None = lock_folder(self._pending, Path(path))
        try:
            for leftover in self._pending.glob(f"*{TEMPORARY_SUFFIX}"):
                leftover.unlink()
            self._layout: Layout | None = None
            merged = self._index_merged()
            waiting = [path for path in self._list_waiting() if path.stem[9:] not in merged]
            if self._layout is None and waiting:
                with open_hdf5(waiting[0]) as file:
                    self._layout = read_layout(get_child(file, _SINGLE, h5py.Group))
            self._length = len(merged) + len(waiting)
            self._next_number = 1 + max(
                (int(path.stem[:8]) for path in self._list_waiting()), default=-1
            )
        except BaseException:
            self._release()
            raise

    def __len__(self) -> int:
        """The number of episodes in the set, with those that wait."""
        return self._length

    def append(self, episode: Episode) -> None:
        """Add one episode; once this returns, a kill or a power cut no longer loses it.

        Raises:
            ValueError: If it has no actions, or other observations than the episodes before it.
            OSError: If it cannot be written. What was written before is safe.
            RuntimeError: If the writer is closed.
        """
        if self._lock is None:
            raise RuntimeError(f"The writer of {self._id!r} is closed.")
        layout = make_layout(episode)
        check_layout(layout, layout if self._layout is None else self._layout)
        episode_id = uuid.uuid4().hex
        name = f"{self._next_number:08d}-{episode_id}.hdf5"
        # Built in memory: of a full disk, plain files tell more plainly than the HDF5 library does.
        with h5py.File(name, "w", driver="core", backing_store=False, block_size=2**20) as file:
            write_episode(file.create_group(_SINGLE), episode, episode_id)
            file.flush()
            image = file.id.get_file_image()
        write_atomically(self._pending / name, [image])
        self._layout = layout
        self._next_number += 1
        self._length += 1

    def close(self) -> None:
        """Add the new episodes to the set. Calling it again does nothing.

        Raises:
            OSError: If the set cannot be written. Nothing is lost: the next writer's `close` adds
                the episodes that wait.
        """
        if self._lock is None:
            return
        try:
            self._merge()
        finally:
            self._release()

    def _merge(self) -> None:
        waiting = self._list_waiting()
        if self._length == 0:
            return
        self._folder.mkdir(exist_ok=True)
        main = self._folder / MAIN_FILE
        merged = self._index_merged()
        # A kill between renaming and removing leaves episodes that are merged already.
        new = [path for path in waiting if path.stem[9:] not in merged]
        if new:
            temporary = self._pending / f"merged{TEMPORARY_SUFFIX}"
            try:
                if merged:
                    shutil.copyfile(main, temporary)
                _append_files(temporary, new, len(merged))
                os.replace(temporary, main)
            finally:
                temporary.unlink(missing_ok=True)
            force_folder_to_disk(self._folder)
        # Minari believes the number of episodes here; so it comes after them.
        write_atomically(self._folder / METADATA_FILE, [self._make_metadata(main).encode()])
        for path in waiting:
            path.unlink()

    def _make_metadata(self, main: Path) -> str:
        assert self._layout is not None
        observations = {key: value for key, value in self._layout.items() if key != ""}
        with open_hdf5(main) as file:
            groups = _list_groups(file)
            total_steps = sum(read_attribute(group, "total_steps", int) for group in groups)
        actions = make_box(*self._layout[""], bounds=(-1, 1))
        metadata: dict[str, Any] = {
            "total_episodes": len(groups),
            "total_steps": total_steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": describe_space(observations),
            "action_space": json.dumps(actions),
            "dataset_id": self._id,
            "minari_version": _MINARI_VERSION,
            "dataset_size": round(main.stat().st_size / 1e6, 1),
        }
        if self._description is not None:
            metadata["description"] = self._description
        return json.dumps(metadata)

    def _index_merged(self) -> set[str]:
        """Return the ids of the episodes in the set, and learn what they hold."""
        main = self._folder / MAIN_FILE
        if not main.exists():
            return set()
        with open_hdf5(main) as file:
            groups = _list_groups(file)
            if not all("episode_id" in group.attrs for group in groups):
                raise ValueError("it was not written by this package. Write to another folder")
            if groups:
                self._layout = read_layout(groups[0])
            return {read_attribute(group, "episode_id", str) for group in groups}

    def _list_waiting(self) -> list[Path]:
        return sorted(self._pending.glob("[0-9]*-*.hdf5"))

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # not empty: episodes wait
                self._pending.rmdir()
            os.close(self._lock)
            self._lock = None


def _append_files(path: Path, new: Sequence[Path], first_number: int) -> None:
    with h5py.File(path, "a") as file:
        for number, part in enumerate(new, start=first_number):
            with open_hdf5(part) as source:
                source.copy(_SINGLE, file, name=f"episode_{number}")
            file[f"episode_{number}"].attrs["id"] = number
    force_file_to_disk(path)


def _list_groups(file: h5py.File) -> list[h5py.Group]:
    return [get_child(file, str(name), h5py.Group) for name in file]
