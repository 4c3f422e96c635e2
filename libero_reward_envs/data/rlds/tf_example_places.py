"""Where the features of a `tf.train.Example` lie in a file, found without reading their values.

With it an episode's length and outcome are known without its images, and one image without the
others. Only the usual layout is followed: one message of features, the key before the value, and
nothing else in between. Everything that is known to write examples writes them so.
"""

from collections.abc import Callable
from typing import Any

from libero_reward_envs.data.rlds.tf_example import FIRST, MAX_FEATURES, SECOND, decode_key
from libero_reward_envs.data.rlds.wire_format import CUT_SHORT, read_varint

_HEAD_BYTES = 160  # holds the beginning of a map entry with a key of usual length


def locate_features(
    read: Callable[[int, int], Any], length: int
) -> dict[str, tuple[int, int]] | None:
    """Find the features of an example that is not in memory, reading only their keys.

    Args:
        read: Returns bytes, from a position on, so many; fewer only at the end.
        length: Bytes of the example.

    Returns:
        Position and length of each feature by key; None if the example is not laid out as usual,
        one message with the key before the value. Then only `index_example` finds them.

    Raises:
        ValueError: If it is damaged so far.
    """
    found = {}
    head = memoryview(read(0, _HEAD_BYTES))
    if not head or head[0] != FIRST:
        return {} if length == 0 else None
    size, position = read_varint(head, 1)
    if position + size != length:
        return None
    while position < length:
        head = memoryview(read(position, _HEAD_BYTES))
        if head[0] != FIRST:
            return None
        entry_size, start = read_varint(head, 1)
        if position + start + entry_size > length:
            raise ValueError(CUT_SHORT)
        located = _locate_value(head, start, entry_size)
        if located is None:
            return None
        key, value_start, value_size = located
        found[key] = (position + value_start, value_size)
        if len(found) > MAX_FEATURES:
            raise ValueError(f"more than {MAX_FEATURES} features")
        position += start + entry_size
    return found


def locate_bytes(
    read: Callable[[int, int], Any], start: int, size: int, index: int
) -> tuple[int, int] | None:
    """Find one value of a bytes feature that `locate_features` found, reading only lengths.

    Returns:
        Its position and length; None if the feature is not laid out as usual.

    Raises:
        ValueError: If it is damaged or has no value `index`.
    """
    head = memoryview(read(start, min(_HEAD_BYTES, size)))
    if not head or head[0] != FIRST:
        return None
    list_size, step = read_varint(head, 1)
    position, end = start + step, start + step + list_size
    if end != start + size:
        return None
    while position < end:
        head = memoryview(read(position, min(11, end - position)))
        if head[0] != FIRST:
            return None
        value_size, step = read_varint(head, 1)
        if position + step + value_size > end:
            raise ValueError(CUT_SHORT)
        if index == 0:
            return position + step, value_size
        index -= 1
        position += step + value_size
    raise ValueError("fewer values than expected")


def _locate_value(head: memoryview, start: int, size: int) -> tuple[str, int, int] | None:
    """Return key, start and size of the value of a map entry that begins in `head`."""
    if size < 2 or head[start] != FIRST:
        return None
    try:
        key_size, position = read_varint(head, start + 1)
        key = bytes(head[position : position + key_size])
        position += key_size
        if position >= len(head) or head[position] != SECOND:
            return None
        value_size, position = read_varint(head, position + 1)
    except (ValueError, IndexError):  # the key is longer than what was read ahead
        return None
    return (
        (decode_key(key), position, value_size) if position + value_size == start + size else None
    )
