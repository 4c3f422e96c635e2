"""Episodes in HDF5, in LIBERO's layout with what that layout lacks.

A file reads as LIBERO's and robomimic's demonstrations do: groups `data/demo_<i>` with `actions`,
`rewards`, `dones` and `obs/<key>` of T rows each, `num_samples` beside them, and `env_args`,
`num_demos` and `total` on `data`. Added to a demonstration are `final_obs/<key>`, the observation
after the last step, and the attributes `terminated`, `success`, `task`, `instruction`, `metadata`
(JSON), `episode_return` and `episode_id`. There is no `next_obs`, which would double the file:
robomimic reads it with `load_next_obs=False`.
"""

import array
import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5g  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs

from libero_reward_envs.data.episode_steps import EpisodeSteps, check_steps, make_steps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5_arrays import write_arrays
from libero_reward_envs.data.safe_hdf5 import (
    check_array,
    check_last,
    find_dataset,
    get_child,
    open_hdf5,
    read_array,
    read_attribute,
    read_rows,
    walk_datasets,
)

FORMAT_VERSION = 1
_SUFFIXES = (".h5", ".hdf5")
_MAX_STRING_BYTES = 60_000
_DEMO = re.compile(r"demo_(0|[1-9]\d{0,8})")


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
    path = Path(os.path.abspath(path))  # "." has no name to put it beside
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
        names = [f"demo_{number}" for number in list_demos(data)]
        demos = [get_child(data, name, h5py.Group) for name in names]
        ids = [read_attribute(demo, "episode_id", str) for demo in demos]
    return list(zip(names, ids, strict=True))


def is_demo(name: str) -> bool:
    """Whether a group of this name is an episode, in LIBERO's layout and robomimic's too."""
    return _DEMO.fullmatch(name) is not None


def list_demos(data: h5py.Group) -> np.ndarray:
    """Return i of each `demo_<i>`, ascending, int32."""
    numbers = array.array("i")

    def note(name: bytes) -> None:
        text = name.decode(errors="replace")
        if is_demo(text):
            numbers.append(demo_number(text))

    h5g.iterate(data.id, note)  # which, unlike a loop over the group, holds no list of the names
    return np.sort(np.array(numbers, np.int32))


def demo_number(name: str) -> int:
    """Return i of `demo_<i>`."""
    return int(name.removeprefix("demo_"))


@contextlib.contextmanager
def open_episodes(path: Path) -> Iterator[h5py.Group]:
    """Open the `data` group of a file for reading; for errors see `open_hdf5`."""
    with open_hdf5(path) as file:
        yield find_data(file)


def find_data(file: h5py.File) -> h5py.Group:
    """Return the `data` group of an open file, if it is of this format."""
    data = get_child(file, "data", h5py.Group)
    version = read_attribute(data, "format_version", int)
    if version > FORMAT_VERSION:
        raise ValueError(f"format version {version} is newer than {FORMAT_VERSION}")
    return data


def read_summary(demo: h5py.Group) -> EpisodeSummary:
    """Read what is known of an episode without its arrays."""
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


def check_episode(demo: h5py.Group) -> None:
    """Raise ValueError if attributes or arrays are missing, or of other sizes than they should."""
    length = len(read_summary(demo))
    for name in ("actions", "rewards"):
        check_array(get_child(demo, name, h5py.Dataset), length)
    for name, n_rows in (("obs", length), ("final_obs", 1)):
        for _, dataset in walk_datasets(get_child(demo, name, h5py.Group)):
            check_array(dataset, n_rows)


def read_episode(demo: h5py.Group, observation_keys: Sequence[str] | None) -> Episode:
    """Read an episode, with all observations or only those named."""
    summary = read_summary(demo)
    return summary.make_episode(
        _read_observations(demo, observation_keys, len(summary)),
        read_array(get_child(demo, "actions", h5py.Dataset), len(summary)),
        read_array(get_child(demo, "rewards", h5py.Dataset), len(summary)),
    )


def read_group_steps(
    demo: h5py.Group, *, start: int, stop: int, keys: Sequence[str] | None
) -> EpisodeSteps:
    """Read the steps `start` to `stop` of an episode, and of its observations no others."""
    length = read_attribute(demo, "num_samples", int)
    check_steps(start, stop, length)
    actions = read_array(get_child(demo, "actions", h5py.Dataset), length)
    return make_steps(
        start,
        _read_observations(demo, keys, length, start, stop + 1),
        actions[start:stop],
        read_array(get_child(demo, "rewards", h5py.Dataset), length),
        terminated=read_attribute(demo, "terminated", bool),
        success=read_attribute(demo, "success", bool),
    )


def _read_observations(
    demo: h5py.Group,
    keys: Sequence[str] | None,
    length: int,
    start: int = 0,
    stop: int | None = None,
) -> dict[str, np.ndarray]:
    """Return the rows `start` to `stop` of o_0 .. o_T, by key."""
    first, last = (get_child(demo, name, h5py.Group) for name in ("obs", "final_obs"))
    names = [name for name, _ in walk_datasets(first)] if keys is None else keys
    found = {key: (find_dataset(first, key), find_dataset(last, key)) for key in names}
    observations = {}
    for key, (rows, after) in found.items():
        if rows is None or after is None:
            known = ", ".join(name for name, _ in walk_datasets(first))
            raise ValueError(f"no observation {key!r} in {demo.name}, it has: {known}")
        check_last(rows, after, length, 1)
        observations[key] = read_rows(rows, after, start, stop)
    return observations


def _write_string(group: h5py.Group, name: str, value: str) -> None:
    # Of fixed length, for the reason that `read_attribute` gives. Such an attribute ends at 64 kB.
    content = value.encode()
    if len(content) > _MAX_STRING_BYTES:
        size = f"{len(content)} bytes, more than {_MAX_STRING_BYTES}"
        raise ValueError(f"`{name}` of the episode takes {size}. Shorten it.")
    group.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))
