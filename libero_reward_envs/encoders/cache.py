"""Features on disk, beside the dataset that they are of."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.atomic_files import TEMPORARY_SUFFIX, write_atomically
from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.file_locks import lock_folder
from libero_reward_envs.encoders.base import Encoder, compute_fingerprint
from libero_reward_envs.encoders.feature_chunks import FEATURE_DTYPES, FeatureChunk, write_chunk

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 1
_CONFIG_FILE = "config.json"
_CHUNK_SUFFIX = ".safetensors"
# A kill loses what is not in a chunk yet, at most so much.
_ROWS_PER_CHUNK = 1024
_CHUNK_BYTES = 2**26
_CHUNK_SECONDS = 60.0


class FeatureCache(ClosedAtExit):
    """Features of one encoder on disk, a folder of chunks that is read by rows.

    The folder is `<root>/<fingerprint>/`, so that another model or setting never finds it:
    `config.json` says all that the features depend on; chunks hold hashes of frames and features.
    Damaged chunks are left out, and named in `skipped`; a cache that is open for writing removes
    them. A cache can be pickled unless it is open for writing.

    Args:
        root: The folder of all caches of a dataset, see `get_features_folder`.
        encoder: Whose features these are.
        dtype: "float16" or "bfloat16", what they are kept in.
        writing: Whether to add features; the folder is then made, and locked until `close`.

    Attributes:
        folder: Where the chunks are.
        skipped: What is wrong with each chunk that was left out.

    Raises:
        ValueError: If `dtype` is neither, or the `config.json` there is damaged.
        RuntimeError: If another writer has the folder open.
    """

    def __init__(
        self, root: str | Path, encoder: Encoder, *, dtype: str = "float16", writing: bool = False
    ) -> None:
        if dtype not in FEATURE_DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(FEATURE_DTYPES)}, got {dtype!r}.")
        self.dtype, self.shape = dtype, tuple(encoder.shape)
        config = {
            "format_version": _FORMAT_VERSION,
            "encoder": type(encoder).__name__,
            "key": encoder.key,
            "observation_keys": list(encoder.observation_keys),
            "shape": list(self.shape),
            "dtype": dtype,
            "encoder_fingerprint": encoder.fingerprint,
            "settings": encoder.settings,
        }
        self._fingerprint = compute_fingerprint(config)
        self.folder = Path(root) / self._fingerprint[:32]
        self.skipped: list[str] = []
        self._chunks: dict[int, FeatureChunk] = {}
        self._places: dict[bytes, tuple[int, int]] = {}  # chunk and row there
        self._pending: dict[bytes, np.ndarray] = {}
        self._last_flush = time.monotonic()
        self._lock = lock_folder(self.folder) if writing else None
        try:
            self._begin(config)
        except BaseException:
            self._unlock()
            raise

    def __getstate__(self) -> dict[str, Any]:
        if self._lock is not None:
            raise TypeError("A FeatureCache that is open for writing cannot be pickled.")
        return dict(self.__dict__)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._places) + len(self._pending)

    def __contains__(self, found: bytes) -> bool:
        """Whether the features of a frame are there, by its hash."""
        return found in self._places or found in self._pending

    def read(self, hashes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of frames that are on disk, of the others zeros.

        Args:
            hashes: Of n frames, see `hash_rows`.

        Returns:
            Features, (n, *shape) float32, and whether they are there, (n,) bool. A frame whose
            chunk turns out to be damaged is not there.
        """
        features = np.zeros((len(hashes), *self.shape), np.float32)
        is_there = np.zeros(len(hashes), bool)
        wanted: dict[tuple[int, int], list[int]] = {}
        for row, found in enumerate(hashes):
            if found in self._places:
                wanted.setdefault(self._places[found], []).append(row)
        for number, start, stop in _find_runs(sorted(wanted)):
            if number not in self._chunks:  # its run before was damaged
                continue
            try:
                part = self._chunks[number].read(start, stop)
            except ValueError as damage:
                self._leave_out(number, str(damage))
                continue
            for place in range(start, stop):
                rows = wanted[number, place]
                features[rows], is_there[rows] = part[place - start], True
        return features, is_there

    def add(self, hashes: Sequence[bytes], features: np.ndarray) -> None:
        """Add the features of frames; they are safe once a chunk is full, or after a minute.

        Args:
            hashes: Of n frames, none of them there.
            features: Shape (n, *shape), float32.

        Raises:
            RuntimeError: If the cache is not open for writing.
            ValueError: If the features do not fit into its type.
        """
        if self._lock is None:
            raise RuntimeError("Expected a cache that is open for writing. Pass writing=True.")
        row_bytes = 2 * max(1, int(np.prod(self.shape)))
        most = max(1, min(_ROWS_PER_CHUNK, _CHUNK_BYTES // row_bytes))
        for found, row in zip(hashes, features, strict=True):
            self._pending[found] = row
            if len(self._pending) >= most:
                self.flush()
        if time.monotonic() - self._last_flush > _CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits into a chunk."""
        self._last_flush = time.monotonic()
        if not self._pending:
            return
        number = 1 + max(self._chunks, default=-1)
        path = self.folder / f"{number:08d}{_CHUNK_SUFFIX}"
        pending, self._pending = self._pending, {}
        rows = np.stack(list(pending.values()))
        write_chunk(path, list(pending), rows, self.dtype, self._fingerprint)
        self._take(number, FeatureChunk(path, self.shape, self.dtype, self._fingerprint))

    def check(self) -> None:
        """Read everything; chunks that are damaged are left out from now on."""
        for number, chunk in list(self._chunks.items()):
            try:
                chunk.check()
            except ValueError as damage:
                self._leave_out(number, str(damage))

    def close(self) -> None:
        """Write what waits, and let other writers in; reading stays possible."""
        try:
            if self._lock is not None:
                self.flush()
        finally:
            self._unlock()

    def _begin(self, config: dict[str, Any]) -> None:
        path = self.folder / _CONFIG_FILE
        if self._lock is not None:
            for left in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):  # by a writer that was killed
                left.unlink()
            if not path.exists():
                write_atomically(path, [json.dumps(config, indent=2).encode() + b"\n"])
        if path.exists():
            _check_config(path, config)
        for path in sorted(self.folder.glob(f"[0-9]*{_CHUNK_SUFFIX}")):
            if not path.stem.isdecimal():
                continue
            number = int(path.stem)
            try:
                chunk = FeatureChunk(path, self.shape, self.dtype, self._fingerprint)
            except ValueError as damage:
                self._leave_out(number, str(damage), path)
            else:
                self._take(number, chunk)

    def _take(self, number: int, chunk: FeatureChunk) -> None:
        self._chunks[number] = chunk
        self._places |= {found: (number, row) for row, found in enumerate(chunk.hashes)}

    def _leave_out(self, number: int, reason: str, path: Path | None = None) -> None:
        logger.warning("%s Its frames are encoded again.", reason)
        self.skipped.append(reason)
        if chunk := self._chunks.pop(number, None):
            path = chunk.path
            self._places = {k: place for k, place in self._places.items() if place[0] != number}
        if self._lock is not None and path is not None:
            path.unlink(missing_ok=True)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def get_features_folder(dataset: str | Path) -> Path:
    """Return where the features of a dataset are kept: beside it, `<dataset>.features`."""
    path = Path(dataset).resolve()  # "." has no name to put it beside
    return path.with_name(path.name + ".features")


def open_feature_cache(root: str | Path, encoder: Encoder) -> FeatureCache:
    """Return the cache of an encoder for reading, whichever type its features are kept in.

    There may be none, which is an empty one; of two it is that with more frames.
    """
    caches = [FeatureCache(root, encoder, dtype=dtype) for dtype in FEATURE_DTYPES]
    return max(caches, key=len)


def _check_config(path: Path, expected: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. Remove its folder.") from error
    if found != json.loads(json.dumps(expected)):
        raise ValueError(
            f"{str(path)!r} is not what these features were made with. Remove its folder."
        )


def _find_runs(places: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return chunk, first row and end of the runs in sorted places."""
    runs: list[list[int]] = []
    for number, row in places:
        if runs and runs[-1][0] == number and runs[-1][2] == row:
            runs[-1][2] += 1
        else:
            runs.append([number, row, row + 1])
    return [(number, start, stop) for number, start, stop in runs]
