"""Training state on disk: one file a checkpoint, whole or not there, checked when it is read."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from libero_reward_envs.atomic_files import TEMPORARY_SUFFIX, write_atomically

FORMAT_VERSION = 1
_NAME = re.compile(r"step_(\d{9,})\.safetensors")
# The safetensors layout: 8 bytes of header length, the header as JSON, the arrays' bytes. The
# header begins with the SHA-256 of the file in which the 64 digits themselves are zeros.
_HEADER_START = b'{"__metadata__":{"sha256":"'
_NO_DIGEST = b"0" * 64
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_CHUNK_BYTES = 2**22
_DTYPE_NAMES = {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint16): "U16",
    np.dtype(np.int16): "I16",
    np.dtype(np.float16): "F16",
    np.dtype(np.uint32): "U32",
    np.dtype(np.int32): "I32",
    np.dtype(np.float32): "F32",
    np.dtype(np.uint64): "U64",
    np.dtype(np.int64): "I64",
    np.dtype(np.float64): "F64",
}


class Checkpoint(NamedTuple):
    """What `read_newest_checkpoint` found."""

    step: int
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    path: Path


def write_checkpoint(
    folder: str | Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `step_<step>.safetensors` whole or not at all, then delete the oldest ones.

    A kill at any moment leaves the checkpoints that were there, and perhaps a temporary file, which
    the next call removes. Whatever was cut short or changed on the disk afterwards is noticed when
    it is read, by its SHA-256. One process at a time may write into a folder.

    Args:
        folder: The folder; made if it is not there.
        step: What the checkpoints are ordered by, 0 or more.
        arrays: Arrays of any shape, of float16 to 64, integers up to 64 bits, or bool; NaN is kept.
        values: What JSON holds, integers of any size included.
        keep: How many intact checkpoints to keep, 1 or more; older ones are deleted.

    Returns:
        The path of the new file.

    Raises:
        ValueError: If an array or a value cannot be kept as it is, or the folder holds an intact
            checkpoint of a later step, which would be taken for the newest.
        OSError: If it cannot be written; the earlier checkpoints are still there.
    """
    if step < 0 or keep < 1:
        raise ValueError(
            f"`step` must be at least 0 and `keep` at least 1, got step {step}, keep {keep}."
        )
    folder = Path(folder)
    header, buffers = _encode(step, arrays, values)
    folder.mkdir(parents=True, exist_ok=True)
    check_no_later_checkpoint(folder, step)
    path = folder / f"step_{step:09d}.safetensors"
    write_atomically(path, [len(header).to_bytes(8, "little"), header, *buffers])
    _delete_old(folder, path, keep)
    return path


def check_no_later_checkpoint(folder: str | Path, step: int) -> None:
    """Raise ValueError if the folder holds an intact checkpoint of a later step, of another run."""
    for path in _list_checkpoints(Path(folder)):
        if _step_of(path) > step and _find_damage(path) is None:
            raise ValueError(
                f"{str(path)!r} is of a later step than {step}, the one of this run. Resume from "
                "it, or choose another folder."
            )


def read_newest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Read the newest checkpoint that is intact, with a warning for each damaged one before it.

    Args:
        folder: Where `write_checkpoint` wrote.

    Returns:
        The checkpoint, or None if the folder is not there or holds none that is intact.

    Raises:
        ValueError: If the newest one is intact but of a newer format.
    """
    folder = Path(folder)
    for path in _list_checkpoints(folder):
        damage = _find_damage(path)
        if damage is None:
            return _read(path)
        warnings.warn(
            f"{str(path)!r} is damaged and is skipped: {damage}. The one before it is used.",
            stacklevel=2,
        )
    return None


def _encode(
    step: int, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> tuple[bytes, list[np.ndarray]]:
    """Return the header, SHA-256 included, and the arrays' bytes in their order."""
    metadata = {
        "sha256": _NO_DIGEST.decode(),
        "format_version": str(FORMAT_VERSION),
        "step": str(step),
        "values": _encode_values(values),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    buffers, end = [], 0
    # The widest first, so that each array lies at a multiple of its item's size.
    for name in sorted(arrays, key=lambda name: (-np.asarray(arrays[name]).itemsize, name)):
        array = np.asarray(arrays[name], order="C")
        dtype_name = _DTYPE_NAMES.get(array.dtype)
        if dtype_name is None or name == "__metadata__":
            raise ValueError(
                f"Expected arrays of {', '.join(map(str, _DTYPE_NAMES))} under any name but "
                f"'__metadata__', got {name!r} of {array.dtype}. Convert or rename it."
            )
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": dtype_name,
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        buffers.append(array.reshape(-1).view(np.uint8))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError(
            f"Names and values take {len(text)} bytes, more than the {_MAX_HEADER_BYTES} that a "
            "file may have of them. Pass large lists as arrays."
        )
    hasher = hashlib.sha256(len(text).to_bytes(8, "little") + text)
    for buffer in buffers:
        hasher.update(buffer)
    return _set_digest(text, hasher.hexdigest().encode()), buffers


def _encode_values(values: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected values that JSON holds: {error}. Convert them.") from error
    back = json.loads(text)
    changed = [name for name in values if back.get(name) != values[name]]
    if changed:
        raise ValueError(
            f"The values {changed} come back from JSON changed. Use lists for tuples, and strings "
            "for names."
        )
    return text


def _set_digest(header: bytes, digest: bytes) -> bytes:
    start = len(_HEADER_START)
    return header[:start] + digest + header[start + len(digest) :]


def _find_damage(path: Path) -> str | None:
    """Return what is wrong with a file, or None if it is as it was written."""
    try:
        with open(path, "rb") as file:
            header = _read_header(file)
            start = len(_HEADER_START)
            digest = header[start : start + len(_NO_DIGEST)]
            blank = _set_digest(header, _NO_DIGEST)
            hasher = hashlib.sha256(len(header).to_bytes(8, "little") + blank)
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
    except (OSError, ValueError) as error:
        return str(error)
    return None if hasher.hexdigest().encode() == digest else "its SHA-256 differs"


def _read_header(file: BinaryIO) -> bytes:
    """Return the header as bytes and leave the file at the arrays, or raise ValueError."""
    n_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or length > min(n_bytes - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes does not fit into its {n_bytes} bytes")
    header = file.read(length)
    if not header.startswith(_HEADER_START):
        raise ValueError("its header is not that of a checkpoint")
    return header


def _read(path: Path) -> Checkpoint:
    """Read a file that is as it was written."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ValueError(
                f"{str(path)!r} is of format version {metadata['format_version']}, this package "
                f"reads up to {FORMAT_VERSION}. Upgrade libero_reward_envs."
            )
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return Checkpoint(int(metadata["step"]), arrays, json.loads(metadata["values"]), path)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _list_checkpoints(folder: Path) -> list[Path]:
    """Return the files that are named like checkpoints, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=_step_of, reverse=True)


def _delete_old(folder: Path, newest: Path, keep: int) -> None:
    """Delete what is older than the `keep` newest intact ones, and files of killed writers."""
    for leftover in folder.glob(f".step_*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    older = [path for path in _list_checkpoints(folder) if _step_of(path) < _step_of(newest)]
    n_intact = 1
    for position, path in enumerate(older):
        if n_intact >= keep:
            for surplus in older[position:]:
                surplus.unlink(missing_ok=True)
            return
        n_intact += _find_damage(path) is None
