"""One file of a feature cache: features of some frames, their hashes, and a checksum each."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.encoders.frame_hashes import HASH_BYTES

FEATURE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_FINGERPRINT = "fingerprint"
_ROWS_PER_CHECK = 1024


def write_chunk(
    path: Path, hashes: Sequence[bytes], features: np.ndarray, dtype: str, fingerprint: str
) -> None:
    """Write a chunk, whole or not at all.

    Args:
        path: The file.
        hashes: Of the n frames.
        features: Shape (n, *shape), float32.
        dtype: The key of `FEATURE_DTYPES` to keep them in.
        fingerprint: Of the cache that the chunk is a part of.

    Raises:
        ValueError: If features are too large for the type.
        OSError: If it cannot be written.
    """
    stored = _to_stored(torch.from_numpy(np.ascontiguousarray(features)), dtype)
    tensors = {
        "hashes": torch.frombuffer(bytearray(b"".join(hashes)), dtype=torch.uint8).reshape(
            len(hashes), HASH_BYTES
        ),
        "checksums": torch.from_numpy(_compute_checksums(hashes, stored)),
        "features": stored,
    }
    write_atomically(path, [save(tensors, {_FINGERPRINT: fingerprint})])


def round_features(features: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return features as they are after they were kept, float32.

    Args:
        features: float32.
        dtype: The key of `FEATURE_DTYPES` to keep them in.

    Raises:
        ValueError: If they are too large for the type.
    """
    return _to_stored(features, dtype).float()


def _to_stored(features: torch.Tensor, dtype: str) -> torch.Tensor:
    stored = features.to(FEATURE_DTYPES[dtype])
    if not torch.isfinite(stored).all() and torch.isfinite(features).all():
        raise ValueError(
            f"Features up to {float(features.abs().max()):g} do not fit into {dtype}. Keep them in "
            "bfloat16."
        )
    return stored


class FeatureChunk:
    """A chunk that is read in parts; opened whenever something is read.

    Args:
        path: The file.
        shape: Of the features of one frame.
        dtype: The key of `FEATURE_DTYPES` that they are kept in.
        fingerprint: Of the cache that it must be a part of.

    Attributes:
        hashes: Of the n frames.

    Raises:
        ValueError: If the file is damaged, or none of this cache.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, fingerprint: str) -> None:
        self.path, self._dtype = path, dtype
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get(_FINGERPRINT) != fingerprint:
                    raise ValueError("it belongs to another cache")
                _check_layout(file, shape, dtype)
                hashes = file.get_tensor("hashes").numpy()
                self._checksums = file.get_tensor("checksums").numpy().copy()
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(
                f"Cannot read {str(path)!r} as a chunk of features: {error}."
            ) from error
        self.hashes = [row.tobytes() for row in hashes]

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.hashes)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the features of some frames, (stop - start, *shape) float32.

        Raises:
            ValueError: If they are not those that were written.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                stored = file.get_slice("features")[start:stop]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"Cannot read {str(self.path)!r}: {error}.") from error
        found = _compute_checksums(self.hashes[start:stop], stored)
        if not np.array_equal(found, self._checksums[start:stop]):
            raise ValueError(f"Cannot read {str(self.path)!r}: a checksum differs.")
        return stored.to(torch.float32).numpy()

    def check(self) -> None:
        """Read everything.

        Raises:
            ValueError: If something is not as it was written.
        """
        for start in range(0, len(self), _ROWS_PER_CHECK):
            self.read(start, min(start + _ROWS_PER_CHECK, len(self)))


def _check_layout(file: safe_open, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError unless the three tensors are there and of one length; reads the header."""
    if set(file.keys()) != {"hashes", "checksums", "features"}:
        raise ValueError(f"it holds {', '.join(sorted(file.keys()))}")
    n = next(iter(file.get_slice("hashes").get_shape()), 0)
    kept = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    wanted = {
        "hashes": ([n, HASH_BYTES], "U8"),
        "checksums": ([n], "I64"),
        "features": ([n, *shape], kept),
    }
    for name, expected in wanted.items():
        part = file.get_slice(name)
        found = part.get_shape(), part.get_dtype()
        if found != expected:
            raise ValueError(f"expected {name} of {expected}, got {found}")


def _compute_checksums(hashes: Sequence[bytes], stored: torch.Tensor) -> np.ndarray:
    """Return a CRC-32 over hash and features of each frame, (n,) int64."""
    raw = stored.contiguous().view(torch.int16).numpy()  # NumPy has no bfloat16
    checksums = [
        zlib.crc32(raw[row].data if raw.ndim > 1 else raw[row : row + 1].data, zlib.crc32(found))
        for row, found in enumerate(hashes)
    ]
    return np.array(checksums, np.int64)
