"""The episodes of an HDF5 file of this package, of which some may still wait to be merged."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from libero_reward_envs.data.episode_steps import EpisodeSteps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5 import (
    check_episode,
    find_data,
    index_file,
    list_demos,
    open_episodes,
    pending_files,
    read_episode,
    read_group_steps,
    read_summary,
)
from libero_reward_envs.data.hdf5_files import Hdf5Files
from libero_reward_envs.data.safe_hdf5 import describe_error, get_child, read_attribute
from libero_reward_envs.data.source_errors import DAMAGE

_T = TypeVar("_T")


class Hdf5Source:
    """The episodes of a file, followed by those that wait to be merged into it.

    Args:
        path: The file.
        on_error: "raise", or "skip" to leave out episodes whose attributes or sizes are damaged.

    Attributes:
        skipped: What is wrong with each episode that was left out.
    """

    def __init__(self, path: Path, *, on_error: str = "raise") -> None:
        self._path = path
        self._skips = on_error == "skip"
        self._files = Hdf5Files()
        self._merged: np.ndarray | None = None  # numbers of the episodes in the file
        self._waiting: list[Path] = []
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self._index()) + len(self._waiting)

    def keep_open(self) -> contextlib.AbstractContextManager[None]:
        """Keep the file open until the context ends."""
        return self._files.keep()

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read episode `index`, with all observations or only those named."""
        return self._visit(index, lambda demo: read_episode(demo, observation_keys))

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of episode `index`; the file stays open for more of them."""
        read = functools.partial(read_group_steps, start=start, stop=stop, keys=observation_keys)
        return self._visit(index, read, keep=True)

    def summaries(self) -> list[EpisodeSummary]:
        """Return one summary an episode, without reading observations."""
        with self._files.keep():
            return [self._visit(index, read_summary) for index in range(len(self))]

    def _visit(self, index: int, read: Callable[[h5py.Group], _T], *, keep: bool = False) -> _T:
        """Return what is read from the group of an episode."""
        try:
            return self._open(index, read, keep)
        except FileNotFoundError:  # merged since: the order is the same, the place is another
            self._reindex()
            return self._open(index, read, keep)

    def _open(self, index: int, read: Callable[[h5py.Group], _T], keep: bool) -> _T:
        path, group = self._locate(index)
        with self._files.open(path, keep=keep) as file:
            return read(get_child(find_data(file), group, h5py.Group))

    def _locate(self, index: int) -> tuple[Path, str]:
        merged = self._index()
        if index < len(merged):
            return self._path, f"demo_{merged[index]}"
        return self._waiting[index - len(merged)], "demo_0"

    def _index(self) -> np.ndarray:
        if self._merged is None:
            self.skipped = []
            # Waiting episodes are listed first: those merged in between are then known by their id.
            waiting = pending_files(self._path)
            merged, known = np.empty(0, np.int32), set()
            # With none waiting, a file that is not there is an error, which opening it raises.
            if self._path.exists() or not waiting:
                merged, known = self._index_file(with_ids=bool(waiting))
            new = [path for path in waiting if path.stem.partition("-")[2] not in known]
            self._waiting = [path for path in new if self._is_whole(path)]
            self._merged = merged
        return self._merged

    def _index_file(self, *, with_ids: bool) -> tuple[np.ndarray, set[str]]:
        """Return the numbers of the file's episodes and, if they are wanted, their ids."""
        if not self._skips:
            with open_episodes(self._path) as data:
                numbers = list_demos(data)
            return numbers, {known for _, known in index_file(self._path)} if with_ids else set()
        found: dict[int, str] = {}
        try:
            with open_episodes(self._path) as data:
                for number in list_demos(data).tolist():
                    try:
                        demo = get_child(data, f"demo_{number}", h5py.Group)
                        check_episode(demo)
                        found[number] = read_attribute(demo, "episode_id", str)
                    except DAMAGE as error:
                        message = describe_error(error)
                        self.skipped.append(f"{str(self._path)!r}, demo_{number}: {message}")
        except ValueError as error:  # nothing can be read, or nothing more
            self.skipped.append(str(error))
        return np.array(list(found), np.int32), set(found.values())

    def _is_whole(self, path: Path) -> bool:
        """Whether an episode that waits can be read; only asked where damaged ones are left out."""
        try:
            if self._skips:
                with open_episodes(path) as data:
                    check_episode(get_child(data, "demo_0", h5py.Group))
        except FileNotFoundError:  # merged since: reading it will look for it anew
            return True
        except ValueError as error:
            self.skipped.append(str(error))
            return False
        return True

    def _reindex(self) -> None:
        length = len(self)
        self._merged = None
        self._merged = self._index()[:length]
        self._waiting = self._waiting[: length - len(self._merged)]
