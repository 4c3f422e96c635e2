"""Episodes in HDF5, in LIBERO's layout with what that layout lacks.

A file reads as LIBERO's and robomimic's demonstrations do: groups `data/demo_<i>` with `actions`,
`rewards`, `dones` and `obs/<key>` of T rows each, `num_samples` beside them, and `env_args`,
`num_demos` and `total` on `data`. Added to a demonstration are `final_obs/<key>`, the observation
after the last step, and the attributes `terminated`, `success`, `task`, `instruction`, `metadata`
(JSON), `episode_return` and `episode_id`.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5_arrays import write_arrays
from libero_reward_envs.data.safe_hdf5 import (
    check_array,
    get_child,
    open_hdf5,
    read_array,
    read_attribute,
    read_with_last,
    walk_datasets,
)

FORMAT_VERSION = 1
_SUFFIXES = (".h5", ".hdf5")
_MAX_STRING_BYTES = 60_000
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what reading it may raise
_DEMO = re.compile(r"demo_\d{1,9}")


def is_hdf5(path: Path) -> bool:
    """Whether a path holds episodes of this package, or episodes wait to be merged into it.

    A file that is named like HDF5 and cannot be read as such counts too: it is a damaged one.
    """
    if pending_files(path):
        return True
    if not path.is_file():
        return False
    if not h5py.is_hdf5(path):
        return path.suffix in _SUFFIXES
    try:
        with open_hdf5(path) as file:
            return "format_version" in get_child(file, "data", h5py.Group).attrs
    except ValueError:
        return path.suffix in _SUFFIXES


def pending_folder(path: Path) -> Path:
    """Return where the episodes wait that are not yet merged into the file."""
    return path.with_name(path.name + ".pending")


def pending_files(path: Path) -> list[Path]:
    """Return the waiting episodes, named `<number>-<episode id>.hdf5`, oldest first."""
    return sorted(pending_folder(path).glob("[0-9]*-*.hdf5"))


def write_episode(
    group: h5py.Group,
    episode: Episode,
    episode_id: str,
    states: np.ndarray | None,
    compression: str,
) -> None:
    """Write an episode into an empty `demo_<i>` group."""
    group.attrs["num_samples"] = len(episode)
    for name in ("episode_return", "terminated", "success"):
        group.attrs[name] = getattr(episode, name)
    _write_string(group, "episode_id", episode_id)
    _write_string(group, "metadata", json.dumps(dict(episode.metadata)))
    _write_string(group, "task", episode.task)
    _write_string(group, "instruction", episode.instruction)
    dones = np.zeros(len(episode), np.uint8)
    dones[-1] = episode.terminated
    arrays = {"actions": episode.actions, "rewards": episode.rewards, "dones": dones}
    if states is not None:
        arrays["states"] = states
    for key, value in episode.observations.items():
        arrays[f"obs/{key}"] = value[:-1]
        arrays[f"final_obs/{key}"] = value[-1:]
    write_arrays(group, arrays, compression)


def make_header(data: h5py.Group, env_args: Mapping[str, Any]) -> None:
    """Write the attributes of an empty `data` group."""
    data.attrs["format_version"] = FORMAT_VERSION
    data.attrs["env_args"] = json.dumps(dict(env_args))
    data.attrs["num_demos"] = 0
    data.attrs["total"] = 0


def index_file(path: Path) -> list[tuple[str, str]]:
    """Return group name and episode id of each episode of a file, in the order of their numbers."""
    with open_episodes(path) as data:
        names = _list_demos(data)
        demos = [get_child(data, name, h5py.Group) for name in names]
        ids = [read_attribute(demo, "episode_id", str) for demo in demos]
    return list(zip(names, ids, strict=True))


def _list_demos(data: h5py.Group) -> list[str]:
    return sorted((name for name in map(str, data) if _DEMO.fullmatch(name)), key=demo_number)


def demo_number(name: str) -> int:
    """Return i of `demo_<i>`."""
    return int(name.removeprefix("demo_"))


@contextlib.contextmanager
def open_episodes(path: Path) -> Iterator[h5py.Group]:
    """Open the `data` group of a file for reading; for errors see `open_hdf5`."""
    with open_hdf5(path) as file:
        data = get_child(file, "data", h5py.Group)
        version = read_attribute(data, "format_version", int)
        if version > FORMAT_VERSION:
            raise ValueError(f"format version {version} is newer than {FORMAT_VERSION}")
        yield data


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
        self._entries: list[_Entry] | None = None
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self._index())

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read episode `index`, with all observations or only those named."""
        try:
            return self._read(self._index()[index], observation_keys)
        except FileNotFoundError:  # merged since: the order is the same, the place is another
            self._reindex()
            return self._read(self._index()[index], observation_keys)

    def summaries(self) -> list[EpisodeSummary]:
        """Return one summary an episode, without reading observations."""
        try:
            return self._summaries()
        except FileNotFoundError:
            self._reindex()
            return self._summaries()

    def _read(self, entry: "_Entry", observation_keys: Sequence[str] | None) -> Episode:
        with open_episodes(entry.path) as data:
            return _read_episode(get_child(data, entry.group, h5py.Group), observation_keys)

    def _summaries(self) -> list[EpisodeSummary]:
        entries = self._index()
        summaries = []
        for path in dict.fromkeys(entry.path for entry in entries):
            groups = [entry.group for entry in entries if entry.path == path]
            with open_episodes(path) as data:
                summaries += [_read_summary(get_child(data, name, h5py.Group)) for name in groups]
        return summaries

    def _index(self) -> "list[_Entry]":
        if self._entries is None:
            self.skipped = []
            # Waiting episodes are listed first: those merged in between are then known by their id.
            waiting = pending_files(self._path)
            # With none waiting, a file that is not there is an error, which opening it raises.
            merged = self._index_file() if self._path.exists() or not waiting else []
            known = {episode_id for _, episode_id in merged}
            new = [path for path in waiting if path.stem.partition("-")[2] not in known]
            self._entries = [_Entry(self._path, name) for name, _ in merged]
            self._entries += [_Entry(path, "demo_0") for path in new if self._is_whole(path)]
        return self._entries

    def _index_file(self) -> list[tuple[str, str]]:
        if not self._skips:
            return index_file(self._path)
        found = []
        try:
            with open_episodes(self._path) as data:
                for name in _list_demos(data):
                    try:
                        demo = get_child(data, name, h5py.Group)
                        _check_episode(demo)
                        found.append((name, read_attribute(demo, "episode_id", str)))
                    except _DAMAGE as error:
                        self.skipped.append(f"{str(self._path)!r}, {name}: {error}")
        except ValueError as error:  # nothing can be read, or nothing more
            self.skipped.append(str(error))
        return found

    def _is_whole(self, path: Path) -> bool:
        """Whether an episode that waits can be read; only asked where damaged ones are left out."""
        try:
            if self._skips:
                with open_episodes(path) as data:
                    _check_episode(get_child(data, "demo_0", h5py.Group))
        except FileNotFoundError:  # merged since: reading it will look for it anew
            return True
        except ValueError as error:
            self.skipped.append(str(error))
            return False
        return True

    def _reindex(self) -> None:
        length = len(self)
        self._entries = None
        self._entries = self._index()[:length]


@dataclass(frozen=True)
class _Entry:
    path: Path
    group: str


def _read_summary(demo: h5py.Group) -> EpisodeSummary:
    metadata = json.loads(read_attribute(demo, "metadata", str))
    if not isinstance(metadata, dict):
        raise ValueError(f"expected a JSON object in `metadata` of {demo.name}, got {metadata!r}")
    return EpisodeSummary(
        length=read_attribute(demo, "num_samples", int),
        episode_return=read_attribute(demo, "episode_return", float),
        terminated=read_attribute(demo, "terminated", bool),
        success=read_attribute(demo, "success", bool),
        task=read_attribute(demo, "task", str),
        instruction=read_attribute(demo, "instruction", str),
        metadata=metadata,
    )


def _check_episode(demo: h5py.Group) -> None:
    """Raise ValueError if attributes or arrays are missing, or of other sizes than they should."""
    length = len(_read_summary(demo))
    for name in ("actions", "rewards"):
        check_array(get_child(demo, name, h5py.Dataset), length)
    for name, n_rows in (("obs", length), ("final_obs", 1)):
        for _, dataset in walk_datasets(get_child(demo, name, h5py.Group)):
            check_array(dataset, n_rows)


def _read_episode(demo: h5py.Group, observation_keys: Sequence[str] | None) -> Episode:
    summary = _read_summary(demo)
    first = dict(walk_datasets(get_child(demo, "obs", h5py.Group)))
    last = dict(walk_datasets(get_child(demo, "final_obs", h5py.Group)))
    keys = list(first) if observation_keys is None else list(observation_keys)
    missing = [key for key in keys if key not in first or key not in last]
    if missing:
        raise ValueError(f"no observation {missing} in {demo.name}, it has: {', '.join(first)}")
    return summary.make_episode(
        {key: read_with_last(first[key], last[key], len(summary)) for key in keys},
        read_array(get_child(demo, "actions", h5py.Dataset), len(summary)),
        read_array(get_child(demo, "rewards", h5py.Dataset), len(summary)),
    )


def _write_string(group: h5py.Group, name: str, value: str) -> None:
    # Of fixed length, for the reason that `read_attribute` gives. Such an attribute ends at 64 kB.
    content = value.encode()
    if len(content) > _MAX_STRING_BYTES:
        size = f"{len(content)} bytes, more than {_MAX_STRING_BYTES}"
        raise ValueError(f"`{name}` of the episode takes {size}. Shorten it.")
    group.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))
