"""TFRecord files, without TensorFlow: records one after the other, each with two checksums.

A record is its length (u64, little-endian), the masked CRC-32C of these eight bytes, the payload,
and the masked CRC-32C of the payload. The mask turns a checksum c into
`rotate_right(c, 15) + 0xa282ead8`, as TensorFlow's `lib/hash/crc32c.h` defines it.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np

from libero_reward_envs.atomic_files import write_atomically

OVERHEAD_BYTES = 16  # of a record, around its payload
MAX_RECORD_BYTES = 2**31 - 1  # no larger protocol buffer exists
_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_HEADER_BYTES = 12
_CHECKSUM = struct.Struct("<I")
_BUFFER_BYTES = 2**20
_SHORT_BYTES = 2**13  # up to here a copy costs less than an array
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the records of a file lie.

    Attributes:
        offsets: First byte of each record's payload, shape (n,), int64.
        lengths: Bytes of each payload, shape (n,), int64.
        damage: What is wrong behind the last of them; None if the file ends there.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    damage: str | None

    def __len__(self) -> int:
        """The number of records."""
        return len(self.offsets)


def compute_masked_crc(payload: Any) -> int:
    """Return the masked CRC-32C of bytes.

    Example:
        >>> hex(compute_masked_crc(b"123456789"))  # 0xe3069283 before it is masked
        '0xc78ab0e5'
    """
    if type(payload) is not bytes:  # the library takes no memoryview, but an array of one
        is_short = len(payload) < _SHORT_BYTES
        payload = bytes(payload) if is_short else np.frombuffer(payload, np.uint8)
    checksum = google_crc32c.value(payload)
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF


def frame_record(payload: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after a payload in a file."""
    if len(payload) > MAX_RECORD_BYTES:
        raise ValueError(
            f"Expected a record of at most {MAX_RECORD_BYTES} bytes, got {len(payload)}. "
            "Write a shorter episode, or smaller images."
        )
    length = struct.pack("<Q", len(payload))
    header = length + _CHECKSUM.pack(compute_masked_crc(length))
    return header, _CHECKSUM.pack(compute_masked_crc(payload))


def write_shard(path: str | Path, payloads: Iterable[bytes]) -> None:
    """Write a file of records, whole or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    framed = ((payload, *frame_record(payload)) for payload in payloads)
    parts = (part for payload, head, foot in framed for part in (head, payload, foot))
    write_atomically(Path(path), parts)


def index_shard(path: str | Path, limit: int | None = None) -> ShardIndex:
    """Find the records of a file by their lengths, whose checksums are checked; reads no payload.

    Behind a damaged length nothing can be found, so the index ends there and says why.

    Args:
        path: The file.
        limit: How many records to look for at most; None for all.

    Raises:
        OSError: If the file does not open.
    """
    offsets, lengths, damage = array("q"), array("q"), None
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size and len(offsets) != limit:
            file.seek(position)
            header = file.read(_HEADER_BYTES) or b""
            damage = _find_damage(header, size - position)
            if damage is not None:
                damage = f"{damage} at byte {position} of {size}"
                break
            (length, _) = _HEADER.unpack(header)
            offsets.append(position + _HEADER_BYTES)
            lengths.append(length)
            position += OVERHEAD_BYTES + length
    return ShardIndex(np.array(offsets, np.int64), np.array(lengths, np.int64), damage)


def read_record(path: str | Path, offset: int, length: int, *, check: bool = True) -> memoryview:
    """Read the payload of one record that `index_shard` found.

    Args:
        path: The file.
        offset: First byte of the payload.
        length: Bytes of the payload.
        check: Whether to check the payload's checksum; that of the length always is.

    Raises:
        OSError: If the file does not open.
        ValueError: If there is no such record, or a checksum is wrong.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset - _HEADER_BYTES)
        # Bytes that the file lacks are not asked for: no memory is taken for what is not there.
        content = file.read(min(length + OVERHEAD_BYTES, max(0, size - offset + _HEADER_BYTES)))
    damage = _find_damage(content[:_HEADER_BYTES], size - offset + _HEADER_BYTES)
    if damage is None and _HEADER.unpack_from(content)[0] != length:
        damage = "the file has changed since it was indexed"
    if damage is None and len(content) != length + OVERHEAD_BYTES:
        damage = f"a record cut short, {len(content)} of {length + OVERHEAD_BYTES} bytes,"
    if damage is not None:
        raise ValueError(f"{damage} at byte {offset - _HEADER_BYTES} of {size}")
    payload = memoryview(content)[_HEADER_BYTES:-4]
    if check:
        _check_payload(payload, content[-4:], offset)
    return payload


def iterate_records(path: str | Path, *, check: bool = True) -> Iterator[memoryview]:
    """Yield the payloads of a file, in one pass.

    Args:
        path: The file.
        check: Whether to check the payloads' checksums; those of the lengths always are.

    Raises:
        OSError: If the file does not open.
        ValueError: Where it is damaged, after the records before that place.
    """
    with open(path, "rb", buffering=_BUFFER_BYTES) as file:
        yield from _iterate(file, check)


def _iterate(file: IO[bytes], check: bool) -> Iterator[memoryview]:
    size = os.fstat(file.fileno()).st_size
    position = 0
    header = file.read(_HEADER_BYTES)
    while header:
        damage = _find_damage(header, size - position)
        if damage is not None:
            raise ValueError(f"{damage} at byte {position} of {size}")
        length = _HEADER.unpack(header)[0]
        # With the header of the next record, which saves a call for each.
        content = file.read(length + OVERHEAD_BYTES)
        if len(content) < length + 4:
            raise ValueError(f"a record cut short at byte {position} of {size}")
        payload = memoryview(content)[:length]
        if check:
            _check_payload(payload, content[length : length + 4], position + _HEADER_BYTES)
        yield payload
        position += length + OVERHEAD_BYTES
        header = content[length + 4 :]


def _find_damage(header: bytes, available: int) -> str | None:
    """Return what is wrong with a record's first bytes, of which so many are in the file."""
    if len(header) < _HEADER_BYTES:
        return "a record cut short, or still being written,"
    length, checksum = _HEADER.unpack(header)
    if compute_masked_crc(header[:8]) != checksum:
        if header[:2] == _GZIP_MAGIC:
            return "a file packed by gzip, unpack it first: no record"
        return "the checksum of a record's length is wrong, this is damaged or no TFRecord file:"
    if length > MAX_RECORD_BYTES:
        return f"a record of {length} bytes, more than any protocol buffer,"
    if length + OVERHEAD_BYTES > available:
        return f"a record of {length} bytes cut short, or still being written,"
    return None


def _check_payload(payload: memoryview, checksum: bytes, offset: int) -> None:
    if compute_masked_crc(payload) != _CHECKSUM.unpack(checksum)[0]:
        raise ValueError(f"the checksum of the record at byte {offset - _HEADER_BYTES} is wrong")
