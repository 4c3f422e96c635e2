"""The wire format of protocol buffers: fields, and integers of variable length.

https://protobuf.dev/programming-guides/encoding. Lengths are checked against what is there before
anything is taken.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types
CUT_SHORT = "a protocol buffer cut short"
TOO_LONG = "an integer of more than 64 bits"
_FEW_BYTES = 96  # up to here a loop is faster than NumPy


def encode_varint(value: int) -> bytes:
    """Return an integer from 0 to 2^64 - 1 as a varint."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


def encode_delimited(tag: int, content: bytes) -> bytes:
    """Return a delimited field."""
    return bytes((tag,)) + encode_varint(len(content)) + content


def encode_varints(values: np.ndarray) -> bytes:
    """Return integers of shape (n,) as varints; negative ones take ten bytes, as two's complement.

    uint64 is stored bit for bit, and comes back as int64.
    """
    bits = values.astype(np.int64).view(np.uint64)
    if not values.size or bits.max() < 0x80:
        return bits.astype(np.uint8).tobytes()
    lengths = np.ones(len(bits), np.int64)
    for n_bytes in range(1, 10):
        lengths += bits >= np.uint64(1) << np.uint64(7 * n_bytes)
    starts = np.cumsum(lengths) - lengths
    content = np.zeros(int(lengths.sum()), np.uint8)
    for index in range(int(lengths.max())):
        longer = lengths > index
        part = bits[longer] >> np.uint64(7 * index) & np.uint64(0x7F)
        more = (lengths[longer] > index + 1).astype(np.uint8) << 7
        content[starts[longer] + index] = part.astype(np.uint8) | more
    return content.tobytes()


def decode_varints(content: Any) -> np.ndarray:
    """Return the varints that fill the bytes, shape (n,), int64.

    Raises:
        ValueError: If the last is cut short, or one has more than 64 bits.
    """
    if len(content) <= _FEW_BYTES:
        return _decode_few_varints(content)
    data = np.frombuffer(content, np.uint8)
    last = data < 0x80
    if last.all():
        return data.astype(np.int64)
    if not last[-1]:
        raise ValueError(CUT_SHORT)
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > 10 or (data[ends[lengths == 10] - 1] > 1).any():
        raise ValueError(TOO_LONG)
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths)).astype(np.uint64)
    parts = (data & 0x7F).astype(np.uint64) << shifts
    return np.add.reduceat(parts, starts).view(np.int64)


def _decode_few_varints(content: Any) -> np.ndarray:
    values = []
    stream = iter(bytes(content))
    for value in stream:
        if value > 0x7F:
            value &= 0x7F
            shift = 7
            for byte in stream:
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
            else:
                raise ValueError(CUT_SHORT)
            if shift > 63:
                raise ValueError(TOO_LONG)
        values.append(value)
    try:
        return np.array(values, np.int64)
    except OverflowError:  # some are negative
        return _wrap_around(values)


def _wrap_around(values: list[int]) -> np.ndarray:
    try:
        return np.array(values, np.uint64).view(np.int64)
    except OverflowError:
        raise ValueError(TOO_LONG) from None


def split_fields(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield number, wire type and content of each field: an int for a varint, else its bytes.

    Raises:
        ValueError: If a field does not fit into the message, or is of no kind in use.
    """
    position, end = 0, len(message)
    while position < end:
        tag = message[position]
        position += 1
        if tag > 0x7F:  # reading one byte here and not there halves the time of short messages
            tag, position = read_varint(message, position - 1)
        wire = tag & 7
        if wire == VARINT:
            content, position = read_varint(message, position)
            yield tag >> 3, wire, content
            continue
        if wire == DELIMITED:
            size = message[position] if position < end else 0x80
            position += 1
            if size > 0x7F:
                size, position = read_varint(message, position - 1)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"no protocol buffer: a field of wire type {wire}")
        stop = position + size
        if tag < 8 or stop > end:
            raise ValueError(CUT_SHORT if tag >= 8 else "no protocol buffer: a field 0")
        yield tag >> 3, wire, message[position:stop]
        position = stop


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the integer at a position, and the position after it.

    Raises:
        ValueError: If it is cut short or has more than 64 bits.
    """
    value = shift = 0
    end = len(message)
    while position < end:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, position
        shift += 7
        if shift >= 70:
            break
    raise ValueError(CUT_SHORT if position >= end else TOO_LONG)


def open_single(message: memoryview) -> tuple[int, memoryview] | None:
    """Return tag and content where one delimited field is the whole message, else None.

    What `split_fields` does, for the most frequent case, in a quarter of the time.
    """
    length = len(message)
    if length < 2 or message[0] & 7 != DELIMITED or message[0] > 0x7F:
        return None
    size, start = message[1], 2
    if size > 0x7F:
        size, start = read_varint(message, 1)
    return (message[0], message[start:]) if start + size == length else None
