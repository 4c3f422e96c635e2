"""The values of an RLDS set's features: from and to the features of a `tf.train.Example`."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.data.rlds.features import Leaf
from libero_reward_envs.data.rlds.images import (
    MAX_COMPRESSION_RATIO,
    check_sizes,
    decode_images,
    encode_image,
)
from libero_reward_envs.data.rlds.tf_example import decode_feature

_LENGTHS, _FLAT = "ragged_row_lengths_0", "ragged_flat_values"


def decode_rows(
    leaf: Leaf,
    features: Mapping[str, memoryview],
    n_rows: int | None,
    *,
    spare_rows: int = 0,
    check_only: bool = False,
) -> np.ndarray:
    """Return the numbers or pictures of all steps.

    Args:
        leaf: What to read.
        features: The features of an example, as `index_example` finds them.
        n_rows: How many steps there must be; None to take as many as there are.
        spare_rows: Rows to leave free at the end, unset.
        check_only: Whether to look at the sizes of pictures only; their rows are then not given.

    Returns:
        Shape (n_rows + spare_rows, ...), of the leaf's type.

    Raises:
        ValueError: If it is missing, damaged, of another type or of another number of rows.
    """
    try:
        if leaf.kind == "image":
            pictures = _get_strings(leaf.path, features, n_rows)
            if check_only:
                check_sizes(pictures, leaf.shape, np.dtype(leaf.dtype))
                return np.empty((0, 0, 0, 0), np.uint8)
            dtype = np.dtype(leaf.dtype)
            return decode_images(pictures, leaf.shape, dtype, spare_rows=spare_rows)
        if leaf.kind != "tensor":
            raise ValueError(f"this is {leaf.kind}, which is not read")
        rows = _decode_tensor(leaf, features, n_rows)
    except ValueError as error:
        raise ValueError(f"`{leaf.path}`: {error}") from error
    whole = np.empty((len(rows) + spare_rows, *rows.shape[1:]), rows.dtype)
    whole[: len(rows)] = rows
    return whole


def decode_texts(
    leaf: Leaf, features: Mapping[str, memoryview], n_rows: int | None = None
) -> list[str]:
    """Return the texts of all steps; errors as in `decode_rows`."""
    try:
        if leaf.kind != "text":
            raise ValueError(f"expected text, got {leaf.kind}")
        values = _get_strings(leaf.path, features, n_rows)
        if len(set(map(bytes, values))) == 1:
            return [bytes(values[0]).decode()] * len(values)
        return [bytes(value).decode() for value in values]
    except ValueError as error:  # also that a text is not UTF-8
        raise ValueError(f"`{leaf.path}`: {error}") from error


def encode_rows(leaf: Leaf, rows: np.ndarray) -> np.ndarray | list[bytes]:
    """Return what an example holds of the rows of a leaf, for `serialize_example`."""
    if leaf.kind == "image":
        return [encode_image(row, leaf.encoding) for row in rows]
    little_endian = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    if leaf.encoding == "bytes":
        return [row.tobytes() for row in little_endian]
    return little_endian.reshape(-1)


def _decode_tensor(leaf: Leaf, features: Mapping[str, memoryview], n_rows: int | None) -> Any:
    shape = [size or 0 for size in leaf.shape]  # a tensor's sizes are all known
    dtype = np.dtype(leaf.dtype).newbyteorder("<")
    if leaf.encoding != "none":
        values = _get_strings(leaf.path, features, n_rows)
        n_bytes = math.prod(shape) * dtype.itemsize
        contents = [_unpack(value, leaf.encoding, n_bytes) for value in values]
        return np.frombuffer(b"".join(contents), dtype).reshape(len(values), *shape)
    if leaf.length is not None:
        lengths = _get_numbers(f"{leaf.path}/{_LENGTHS}", features)
        if len(set(lengths.tolist())) != 1 or leaf.length not in (-1, lengths[0]):
            raise ValueError("a sequence whose length differs between steps, which is not read")
        shape = [int(lengths[0]), *shape]
        values = _get_numbers(f"{leaf.path}/{_FLAT}", features)
        if n_rows not in (None, len(lengths)):
            raise ValueError(f"expected {n_rows} sequences, got {len(lengths)}")
        n_rows = len(lengths)
    else:
        values = _get_numbers(leaf.path, features)
    size = math.prod(shape)
    if n_rows is None and size:
        n_rows = len(values) // size
    if n_rows is None or len(values) != n_rows * size:
        expected = f"{n_rows} rows of {size}" if n_rows else f"rows of {size}"
        raise ValueError(f"expected {expected} numbers, got {len(values)} numbers")
    return _cast(values, dtype).reshape(n_rows, *shape)


def _get_numbers(path: str, features: Mapping[str, memoryview]) -> np.ndarray:
    values = _get(path, features)
    if isinstance(values, list):
        if values:
            raise ValueError("expected numbers, got bytes")
        return np.zeros(0, np.float32)
    return values


def _get_strings(
    path: str, features: Mapping[str, memoryview], n_rows: int | None
) -> Sequence[bytes | memoryview]:
    values = _get(path, features)
    if not isinstance(values, list):
        raise ValueError(f"expected bytes, got {values.dtype} numbers")
    if not values or n_rows not in (None, len(values)):
        raise ValueError(f"expected {n_rows or 'some'} values, got {len(values)}")
    return values


def _get(path: str, features: Mapping[str, memoryview]) -> Any:
    if path not in features:
        raise ValueError(f"not in this episode, which has: {', '.join(sorted(features))[:400]}")
    return decode_feature(features[path])


def _unpack(value: bytes | memoryview, encoding: str, n_bytes: int) -> bytes:
    if n_bytes > MAX_COMPRESSION_RATIO * len(value):
        raise ValueError(f"expected {n_bytes} bytes a step, got {len(value)}")
    if encoding == "zlib":
        unpacker = zlib.decompressobj()
        try:
            value = unpacker.decompress(value, n_bytes + 1)  # no more is ever taken
        except zlib.error as error:
            raise ValueError(f"damaged zlib data ({error})") from error
    if len(value) != n_bytes:
        raise ValueError(f"expected {n_bytes} bytes a step, got {len(value)}")
    return bytes(value)


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return stored numbers, float32 or int64, as the type they had."""
    if dtype == values.dtype or dtype.kind == "f" or not len(values):
        return values.astype(dtype, copy=False)
    if values.dtype.kind == "f":
        raise ValueError(f"expected {dtype} numbers, got float32")
    if dtype == np.uint64:
        return values.view(np.uint64)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if values.min() < low or values.max() > high:
        raise ValueError(f"expected {dtype} numbers, got {values.min()} to {values.max()}")
    return values.astype(dtype)
