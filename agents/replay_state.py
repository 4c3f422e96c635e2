"""What a replay buffer holds, as arrays and JSON values."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from stable_baselines3.common import buffers

# SB3's n-step buffer is newer than the oldest SB3 that is supported.
_PLAIN = tuple(
    getattr(buffers, name)
    for name in ("ReplayBuffer", "DictReplayBuffer", "NStepReplayBuffer")
    if hasattr(buffers, name)
)
_NAMES = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def check_replay_buffer(buffer: Any) -> None:
    """Raise TypeError unless the state of this buffer can be taken and set."""
    if not hasattr(buffer, "get_state") and type(buffer) not in _PLAIN:
        raise TypeError(
            f"Expected a replay buffer with `get_state` and `set_state`, or one of SB3's "
            f"{', '.join(kind.__name__ for kind in _PLAIN)}, got {type(buffer).__name__}. "
            "Use one of them."
        )


def get_replay_state(buffer: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the filled part of a buffer: arrays by name, which are views, and JSON values.

    Raises:
        TypeError: If this kind of buffer is not known.
    """
    check_replay_buffer(buffer)
    if hasattr(buffer, "get_state"):
        return buffer.get_state()
    n_rows = buffer.size()
    arrays = {name: array[:n_rows] for name, array in _list_arrays(buffer).items()}
    if buffer.optimize_memory_usage:  # the row after the last one holds its next observation
        arrays["observations"] = buffer.observations[: n_rows + 1]
    return arrays, {"pos": buffer.pos, "full": buffer.full}


def set_replay_state(
    buffer: Any, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> None:
    """Fill a buffer with what `get_replay_state` returned, and close the episodes that are open.

    The envs begin new episodes, which must not be joined to those: n-step returns end with the
    last stored step, with its own next observation to bootstrap from.

    Raises:
        TypeError: If this kind of buffer is not known.
        ValueError: If the state is of a buffer of another size or other spaces.
    """
    check_replay_buffer(buffer)
    if hasattr(buffer, "set_state"):
        buffer.set_state(arrays, values)
        if hasattr(buffer, "abandon_episodes"):
            buffer.abandon_episodes()
        return
    own = _list_arrays(buffer)
    for name, array in own.items():
        found = arrays.get(name, np.empty(0))
        if found.shape[1:] != array.shape[1:] or len(found) > len(array):
            raise ValueError(
                f"Expected {name} of up to {array.shape} in the replay buffer, got {found.shape}. "
                "Make the buffer as it was made then."
            )
    for name, array in own.items():
        array[: len(arrays[name])] = arrays[name]
    buffer.pos, buffer.full = int(values["pos"]), bool(values["full"])
    if buffer.size():
        last = buffer.pos - 1
        if buffer.optimize_memory_usage:  # its next observation will be overwritten: as SB3 does
            buffer.dones[last] = 1
        elif buffer.handle_timeout_termination:
            buffer.timeouts[last] = np.maximum(buffer.timeouts[last], 1 - buffer.dones[last])


def check_ring_arrays(
    arrays: Mapping[str, np.ndarray],
    ring: Mapping[str, np.ndarray],
    others: Set[str],
    n_filled: int,
) -> None:
    """Raise ValueError unless the arrays of a state fit those that a buffer has.

    Args:
        arrays: Of the state.
        ring: The buffer's, with a row a step.
        others: Names of what else the state must hold.
        n_filled: Rows that the state must have.
    """
    if differing := sorted(arrays.keys() ^ (ring.keys() | others)):
        raise ValueError(
            f"The state and this buffer do not both have {', '.join(differing)}. Make the buffer "
            "with the spaces and settings it had then."
        )
    for name, array in ring.items():
        expected, found = (n_filled, *array.shape[1:]), arrays[name]
        if found.shape != expected or found.dtype != array.dtype:
            raise ValueError(
                f"Expected {name} of shape {expected} and {array.dtype}, got {found.shape} and "
                f"{found.dtype}."
            )


def _list_arrays(buffer: Any) -> dict[str, np.ndarray]:
    found = {}
    for name in _NAMES:
        array = getattr(buffer, name, None)  # no next observations if memory is optimised
        if isinstance(array, dict):
            found |= {f"{name}/{key}": part for key, part in array.items()}
        elif array is not None:
            found[name] = array
    return found
