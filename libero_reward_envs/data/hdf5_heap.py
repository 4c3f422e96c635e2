"""Text and rows of variable length in HDF5 files, read without the HDF5 library.

Such values lie in "global heap collections" of a file. Of a damaged one, the library can read for
ever, which is why `safe_hdf5` refuses them. LIBERO, robomimic and Minari store theirs that way, so
here the few structures on the way are read by themselves: "HDF5 File Format Specification Version
3.0", sections III.E (global heap), IV.A.1 (object headers) and IV.A.2.m (attributes). Every step
goes forward in a block whose end is known, so whatever a file holds, reading it ends.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any

import h5py
import h5py.h5o

from libero_reward_envs.data.safe_hdf5 import read_attribute

_REFERENCE = struct.Struct("<IQI")  # number of elements, address of the collection, index in it
_HEAP_OBJECT = struct.Struct("<HHIQ")  # index, references to it, unused, size
_MAX_BLOCKS = 64  # of an object header; its attributes end at 64 kB each
_MAX_BLOCK_BYTES = 2**20
_MAX_TEXT_BYTES = 2**24
_MAX_ROW_BYTES = 2**26
_MAX_HEAP_OBJECTS = 2**16  # their indices have 16 bits
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10


class HeapReader:
    """Reads text attributes and rows of bytes of an open file; a context manager.

    Args:
        file: The file, as h5py opened it.

    Raises:
        ValueError: If it is of a kind that is not written today: behind a user block, or with
            addresses of other than eight bytes.
    """

    def __init__(self, file: h5py.File) -> None:
        if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
            raise ValueError("text of variable length is not read behind a user block")
        self._stream = open(file.filename, "rb")  # noqa: SIM115  closed by __exit__
        self._size = os.fstat(self._stream.fileno()).st_size
        self._collection: tuple[int, dict[int, tuple[int, int]]] = (-1, {})

    def __enter__(self) -> "HeapReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read_text(self, node: Any, name: str) -> str:
        """Read a text attribute of a group or dataset, of fixed or variable length.

        Raises:
            ValueError: If there is none, it is no single text, or it is damaged.
        """
        if name not in node.attrs:
            raise ValueError(f"no attribute {name!r} on {node.name}")
        attribute = node.attrs.get_id(name)
        if attribute.dtype.kind == "S":
            return read_attribute(node, name, str)
        if attribute.shape != () or h5py.check_string_dtype(attribute.dtype) is None:
            raise ValueError(f"attribute {name!r} on {node.name} is {attribute.dtype}, not text")
        header = h5py.h5o.get_info(node.id).addr
        for kind, body in self._walk_messages(header):
            if kind == _ATTRIBUTE:
                found, value = _split_attribute(body)
                if found == name:
                    return self._read_object(value, _MAX_TEXT_BYTES).decode()
        raise ValueError(f"attribute {name!r} on {node.name} is stored in a way that is not read")

    def read_rows(self, dataset: h5py.Dataset) -> Iterator[bytes]:
        """Yield the rows of a one-dimensional dataset of bytes of variable length.

        Raises:
            ValueError: If it is of another type, compressed, or damaged.
        """
        base = h5py.check_vlen_dtype(dataset.dtype)
        if dataset.ndim != 1 or base is None or base.itemsize != 1:
            raise ValueError(f"{dataset.name} is not rows of bytes of variable length")
        seen = set()
        for reference in self._walk_references(dataset):
            if reference in seen:  # HDF5 shares none, and a few bytes would be worth gigabytes
                raise ValueError(f"two rows of {dataset.name} lie in the same place")
            seen.add(reference)
            yield self._read_object(reference, _MAX_ROW_BYTES)

    def _walk_references(self, dataset: h5py.Dataset) -> Iterator[bytes]:
        n_rows, width = dataset.shape[0], _REFERENCE.size
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{dataset.name} is stored outside the file, which is refused")
        if dataset.chunks is None:
            parts = [(dataset.id.get_offset(), n_rows)]
        elif dataset.id.get_create_plist().get_nfilters():
            raise ValueError(f"{dataset.name} is of variable length and compressed")
        else:
            rows = dataset.chunks[0]
            parts = (
                (
                    dataset.id.get_chunk_info_by_coord((start,)).byte_offset,
                    min(rows, n_rows - start),
                )
                for start in range(0, n_rows, rows)
            )
        for offset, rows in parts:
            if offset is None:
                raise ValueError(f"parts of {dataset.name} are missing")
            content = self._read(offset, rows * width)
            yield from (content[at : at + width] for at in range(0, len(content), width))

    def _walk_messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Yield type and content of the messages of an object header."""
        is_new = self._read(address, 4) == b"OHDR"
        blocks = [self._locate_messages(address, is_new)]
        flags = self._read(address + 5, 1)[0] if is_new else 0
        head = struct.Struct("<BHB") if is_new else struct.Struct("<HHB")
        head_bytes = head.size + (2 if flags & 4 else 0) if is_new else 8
        for visited, (start, length) in enumerate(blocks):
            if visited >= _MAX_BLOCKS or length > _MAX_BLOCK_BYTES:
                raise ValueError(f"the object header at {address} is damaged")
            block = self._read(start, length)
            position = 0
            while position + head_bytes <= len(block):
                kind, size, _ = head.unpack_from(block, position)
                position += head_bytes
                body = block[position : position + size]
                position += size
                if kind == _CONTINUATION and size >= 16:
                    offset, extent = struct.unpack_from("<QQ", body.ljust(16, b"\0"))
                    # A new one begins with a signature, and ends with a checksum.
                    blocks.append((offset + 4, max(0, extent - 8)) if is_new else (offset, extent))
                yield kind, body

    def _locate_messages(self, address: int, is_new: bool) -> tuple[int, int]:
        """Return where the first block of messages begins, and its length."""
        if not is_new:
            return address + 16, struct.unpack("<I", self._read(address + 8, 4))[0]
        flags = self._read(address + 5, 1)[0]
        start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        return start + width, int.from_bytes(self._read(start, width), "little")

    def _read_object(self, reference: bytes, max_bytes: int) -> bytes:
        if len(reference) != _REFERENCE.size:
            raise ValueError(f"a value of variable length is stored in {len(reference)} bytes")
        length, address, index = _REFERENCE.unpack(reference)
        if length == 0:
            return b""
        if self._collection[0] != address:
            self._collection = address, self._index_collection(address)
        offset, size = self._collection[1].get(index, (0, 0))
        if length > min(size, max_bytes):
            raise ValueError(
                f"object {index} of the heap at {address} has {size} bytes, not {length}"
            )
        return self._read(offset, length)

    def _index_collection(self, address: int) -> dict[int, tuple[int, int]]:
        """Return where each object of a collection lies, and its size."""
        head = self._read(address, 16)
        if head[:5] != b"GCOL\x01":
            raise ValueError(f"no heap at {address}")
        position, end = address + 16, address + struct.unpack_from("<Q", head, 8)[0]
        found: dict[int, tuple[int, int]] = {}
        while position + _HEAP_OBJECT.size <= end and len(found) < _MAX_HEAP_OBJECTS:
            index, _, _, size = _HEAP_OBJECT.unpack(self._read(position, _HEAP_OBJECT.size))
            position += _HEAP_OBJECT.size
            if index == 0 or index in found or position + size > end:  # 0: the rest is free
                break
            found[index] = (position, size)
            position += -(-size // 8) * 8
        return found

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise ValueError(f"bytes {offset} to {offset + length} lie behind the end of the file")
        self._stream.seek(offset)
        content = self._stream.read(length)
        if len(content) != length:
            raise ValueError("the file was cut short")
        return content


def _split_attribute(body: bytes) -> tuple[str, bytes]:
    """Return the name of an attribute message and its content."""
    if len(body) < 9 or body[0] not in (1, 2, 3):
        return "", b""
    sizes = struct.unpack_from("<HHH", body, 2)
    if body[0] == 1:  # each part is filled up to a multiple of eight bytes
        padded, position = [-(-size // 8) * 8 for size in sizes], 8
    else:
        padded, position = list(sizes), 8 + (body[0] == 3)
    name = body[position : position + sizes[0]].split(b"\0")[0].decode(errors="replace")
    value = body[position + sum(padded) :]
    return name, value[: _REFERENCE.size]
