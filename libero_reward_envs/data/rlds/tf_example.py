"""The protocol buffer `tf.train.Example`, read and written without TensorFlow or protobuf.

    Example: 1 features (Features)       Features: 1 feature (map from string to Feature)
    Feature: one of 1 bytes_list, 2 float_list, 3 int64_list
    BytesList, FloatList, Int64List: 1 value (repeated), numbers packed or not

Read as the encoding's definition has it (https://protobuf.dev/programming-guides/encoding): of
a repeated map key or list kind the last counts, lists of one kind are joined, and fields that are
not known are passed over. Lengths are checked against what is there before anything is taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.data.rlds.wire_format import (
    CUT_SHORT,
    DELIMITED,
    FIXED32,
    VARINT,
    decode_varints,
    encode_delimited,
    encode_varint,
    encode_varints,
    open_single,
    read_varint,
    split_fields,
)

FeatureValue = np.ndarray | list[bytes | memoryview]
FIRST, SECOND = 0x0A, 0x12  # tags of delimited fields 1 and 2
_BYTES, _FLOATS, _INTS = _KIND_TAGS = (FIRST, SECOND, 0x1A)  # those of Feature
MAX_FEATURES = 2**16  # nobody has as many, and each takes memory
_SHORT_BYTES = 2048  # up to here a copy costs less than a view, which the collector must follow


def parse_example(payload: Any) -> dict[str, FeatureValue]:
    """Read a whole example.

    Args:
        payload: The bytes; floats and long values are views of it.

    Returns:
        By key: numbers as arrays of shape (n,), float32 or int64; bytes as a list of n. A feature
        that says no kind is an empty list.

    Raises:
        ValueError: If it is damaged.

    Example:
        >>> parse_example(serialize_example({"a": np.arange(3), "b": [b"x", b"y"]}))
        {'a': array([0, 1, 2]), 'b': [b'x', b'y']}
    """
    return {key: decode_feature(part) for key, part in index_example(payload).items()}


def index_example(payload: Any) -> dict[str, memoryview]:
    """Return the bytes of each feature by key, for `decode_feature`; costs nothing a value.

    Raises:
        ValueError: If it is damaged so far.
    """
    data = memoryview(payload)
    try:
        found = _index_usual(data)
    except IndexError:  # damaged, which the other way says more exactly
        found = None
    if found is None:
        found = {}
        for features in _find_contents(data, FIRST):
            for entry in _find_contents(features, FIRST):
                # Messages that come twice are merged, which joining their bytes does.
                key = list(_find_contents(entry, FIRST))[-1:]
                found[decode_key(b"".join(key))] = _join(list(_find_contents(entry, SECOND)))
                if len(found) > MAX_FEATURES:
                    raise ValueError(f"more than {MAX_FEATURES} features")
    return found


def decode_feature(feature: memoryview) -> FeatureValue:
    """Return the values of one feature, see `parse_example`.

    Raises:
        ValueError: If it is damaged.
    """
    if len(feature) < 0x80:
        values = _decode_short(feature.tobytes())
        if values is not None:
            return values
    single = open_single(feature)
    if single is not None and single[0] in _KIND_TAGS:
        kind, message = single
    else:
        kind, lists = _find_last_run(feature)
        if not kind:
            return []
        message = _join(lists)
    if kind == _BYTES:
        return _split_bytes(message)
    return _decode_floats(message) if kind == _FLOATS else _decode_ints(message)


def serialize_example(features: Mapping[str, np.ndarray | Sequence[Any]]) -> bytes:
    """Return an example; the same features give the same bytes.

    Args:
        features: By key: an array of floats, stored as float32, or of integers or booleans, stored
            as int64; or a sequence of bytes.

    Raises:
        ValueError: If an array is of another type.
    """
    entries = []
    for key in sorted(features):
        kind, values = _encode_values(key, features[key])
        feature = encode_delimited(kind, values)
        name = encode_delimited(FIRST, key.encode())
        entries.append(encode_delimited(FIRST, name + encode_delimited(SECOND, feature)))
    return encode_delimited(FIRST, b"".join(entries))


def _encode_values(key: str, values: Any) -> tuple[int, bytes]:
    if not isinstance(values, np.ndarray):
        return _BYTES, b"".join(encode_delimited(FIRST, value) for value in values)
    if values.dtype.kind == "f":
        kind, packed = _FLOATS, values.astype("<f4").tobytes()
    elif values.dtype.kind in "biu":
        kind, packed = _INTS, encode_varints(values.reshape(-1))
    else:
        raise ValueError(f"Expected numbers or bytes under {key!r}, got dtype {values.dtype}.")
    return kind, encode_delimited(FIRST, packed) if packed else b""


def _decode_short(feature: bytes) -> FeatureValue | None:
    """Return the values of a feature of one list of one field; None if it is another.

    What the rest of `decode_feature` does: half of the time of single rows goes into calls.
    """
    size = len(feature)
    if size < 4 or (feature[1], feature[2], feature[3]) != (size - 2, FIRST, size - 4):
        return None
    kind, content = feature[0], feature[4:]
    if kind == _INTS:
        return decode_varints(content)
    if kind == _FLOATS and not len(content) % 4:
        return np.frombuffer(content, "<f4")
    return [content] if kind == _BYTES else None


def _decode_floats(message: memoryview) -> np.ndarray:
    single = open_single(message)
    if single is not None and single[0] == FIRST:
        content: Any = single[1]
    else:
        content = b"".join(
            part
            for number, wire, part in split_fields(message)
            if number == 1 and wire in (DELIMITED, FIXED32)
        )
    if len(content) % 4:
        raise ValueError(f"{len(content)} bytes of floats, which take four each")
    return np.frombuffer(content, "<f4")


def _decode_ints(message: memoryview) -> np.ndarray:
    single = open_single(message)
    if single is not None and single[0] == FIRST:
        return decode_varints(single[1])
    content = bytearray()
    for number, wire, part in split_fields(message):
        if number == 1 and wire in (VARINT, DELIMITED):
            content += encode_varint(part) if wire == VARINT else part
    return decode_varints(bytes(content))


def _split_bytes(message: memoryview) -> list[bytes | memoryview]:
    """Return the values of a BytesList; what `split_fields` does, in a quarter of the time."""
    position, end = 0, len(message)
    if end > 2 and message[0] == FIRST and message[1] <= 0x7F:
        # One value again and again, such as the instruction at each step.
        step = 2 + message[1]
        first = bytes(message[:step])
        if first == message[-step:].tobytes() and message.tobytes() == first * (end // step):
            return [first[2:]] * (end // step)
    values: list[bytes | memoryview] = []
    while position + 1 < end and message[position] == FIRST:
        size = message[position + 1]
        position += 2
        if size > 0x7F:
            size, position = read_varint(message, position - 1)
        stop = position + size
        if stop > end:
            raise ValueError(CUT_SHORT)
        value = message[position:stop]
        values.append(value.tobytes() if size <= _SHORT_BYTES else value)
        position = stop
    if position == end:
        return values
    # Fields that are not known.
    return [*values, *_find_contents(message[position:], FIRST)]


def _index_usual(data: memoryview) -> dict[str, memoryview] | None:
    """Return what `index_example` does; None where the layout is not the usual one.

    Usual: one message of features, in each entry a short key and then the value, nothing else.
    """
    if not data or data[0] != FIRST:
        return None
    size, position = read_varint(data, 1)
    end = position + size
    if end != len(data):
        return None
    found = {}
    while position < end:
        size, start = data[position + 1], position + 2
        if size > 0x7F:
            size, start = read_varint(data, position + 1)
        stop = start + size
        key_end = start + 2 + data[start + 1]
        if stop > end or key_end + 1 >= stop or data[start + 1] > 0x7F:
            return None
        if (data[position], data[start], data[key_end]) != (FIRST, FIRST, SECOND):
            return None
        size, value = data[key_end + 1], key_end + 2
        if size > 0x7F:
            size, value = read_varint(data, key_end + 1)
        if value + size != stop:
            return None
        found[decode_key(data[start + 2 : key_end].tobytes())] = data[value:stop]
        if len(found) > MAX_FEATURES:
            return None
        position = stop
    return found


def _split_tags(message: memoryview) -> Iterator[tuple[int, Any]]:
    return ((number << 3 | wire, part) for number, wire, part in split_fields(message))


def _find_contents(message: memoryview, tag: int) -> Iterator[memoryview]:
    return (part for found, part in _split_tags(message) if found == tag)


def _find_last_run(feature: memoryview) -> tuple[int, list[memoryview]]:
    """Return the last kind of list, and the lists of it that no list of another kind follows."""
    kind, lists = 0, []
    for tag, part in _split_tags(feature):
        if tag in _KIND_TAGS:
            if tag != kind:
                kind, lists = tag, []
            lists.append(part)
    return kind, lists


def _join(parts: list[memoryview]) -> memoryview:
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def decode_key(key: bytes) -> str:
    """Return a key as text.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a key that is not UTF-8: {key[:40]!r}") from error
