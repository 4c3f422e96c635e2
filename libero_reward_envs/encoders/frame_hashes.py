"""Hashes of what encoders read, by which features are found again."""

import hashlib
from collections.abc import Container, Mapping, Sequence

import numpy as np

HASH_BYTES = 16


def hash_rows(inputs: Mapping[str, np.ndarray], keys: Sequence[str]) -> list[bytes]:
    """Return a hash of each row: blake2b over bytes, shape and type of all that is named.

    Args:
        inputs: Arrays by key, each (n, ...): numbers, or strings of shape (n,).
        keys: Which of them, in the order of an encoder's `observation_keys`.

    Returns:
        n hashes of `HASH_BYTES` bytes.

    Example:
        >>> rows = hash_rows({"state": np.array([[0.0], [1.0], [0.0]])}, ["state"])
        >>> rows[0] == rows[2], rows[0] == rows[1]
        (True, False)
    """
    hashes = [hashlib.blake2b(digest_size=HASH_BYTES) for _ in range(len(inputs[keys[0]]))]
    for key in keys:
        array = inputs[key]
        if array.dtype.kind == "U":
            for found, text in zip(hashes, array.tolist(), strict=True):
                content = text.encode()
                found.update(f"{key!r} text {len(content)} ".encode() + content)
            continue
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        begin = f"{key!r} {array.dtype.str} {array.shape[1:]} ".encode()
        for row, found in enumerate(hashes):
            found.update(begin)
            found.update(array[row : row + 1].data)
    return [found.digest() for found in hashes]


def find_new_rows(hashes: Sequence[bytes], known: Container[bytes]) -> list[int]:
    """Return the rows whose hash is not known, the first of each hash only."""
    first: dict[bytes, int] = {}
    for row, found in enumerate(hashes):
        if found not in known:
            first.setdefault(found, row)
    return list(first.values())
