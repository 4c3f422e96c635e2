"""How an episode lies in a Minari set, and what all of them have in common."""

import json
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.hdf5_arrays import write_arrays
from libero_reward_envs.data.minari.spaces import describe_space
from libero_reward_envs.data.safe_hdf5 import get_child, walk_datasets

_MAX_TEXT_BYTES = 60_000  # HDF5's attributes end at 64 kB

# Shape and type of one observation by key, and of an action under "".
Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def write_episode(group: h5py.Group, episode: Episode, episode_id: str) -> None:
    """Write an episode into an empty group, with what Minari does not know in its attributes."""
    group.attrs["total_steps"] = len(episode)
    if isinstance(seed := episode.metadata.get("seed"), int):
        group.attrs["seed"] = seed
    group.attrs["success"] = episode.success
    _write_text(group, "episode_id", episode_id)
    _write_text(group, "task", episode.task)
    _write_text(group, "instruction", episode.instruction)
    _write_text(group, "metadata", json.dumps(dict(episode.metadata)))
    last = np.arange(len(episode)) == len(episode) - 1
    arrays = {
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": last & episode.terminated,
        "truncations": last & (not episode.terminated),
    }
    for key, value in episode.observations.items():
        alone = list(episode.observations) == ["state"]
        arrays["observations" if alone else f"observations/{key}"] = value
    write_arrays(group, arrays)


def make_layout(episode: Episode) -> Layout:
    """Return shape and type of one observation by key, and of an action under ""."""
    names = [part for key in episode.observations for part in key.split("/")]
    if any(name in ("", ".", "..") for name in names):
        raise ValueError(f"Cannot write observations {list(episode.observations)} by these names.")
    empty = [key for key, value in episode.observations.items() if value[0].size == 0]
    if episode.actions.shape[1] == 0 or empty:
        what = f"the observations {empty}" if empty else "the actions"
        raise ValueError(f"Expected numbers in an episode for Minari, {what} have none.")
    layout = {key: (value.shape[1:], value.dtype) for key, value in episode.observations.items()}
    describe_space(layout)
    return {**layout, "": (episode.actions.shape[1:], episode.actions.dtype)}


def read_layout(group: h5py.Group) -> Layout:
    """Return the layout of an episode that was written."""
    stored = get_child(group, "observations")
    parts = [("state", stored)] if isinstance(stored, h5py.Dataset) else walk_datasets(stored)
    layout: Layout = {key: (part.shape[1:], part.dtype) for key, part in parts}
    actions = get_child(group, "actions", h5py.Dataset)
    return {**layout, "": (actions.shape[1:], actions.dtype)}


def check_layout(layout: Layout, expected: Layout) -> None:
    """Raise ValueError unless an episode is like those before it."""
    for key in [*expected, *layout]:
        if layout.get(key) != expected.get(key):
            here, there = (
                "none" if key not in part else f"{part[key][1]} of {part[key][0]}"
                for part in (layout, expected)
            )
            raise ValueError(
                f"Expected every episode of a Minari set alike, got {key or 'actions'!r}: {here}, "
                f"before {there}. Write them to a set of their own."
            )


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    # Of fixed length, for the reason that `safe_hdf5.read_attribute` gives.
    content = text.encode()
    if len(content) > _MAX_TEXT_BYTES:
        size = f"{len(content)} bytes, more than {_MAX_TEXT_BYTES}"
        raise ValueError(f"`{name}` of the episode takes {size}. Shorten it.")
    group.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))
