"""Rows of Parquet files: a few columns of a few rows, without reading what lies around them.

Files are read through PyArrow and may come from anywhere: rows are decoded in small batches, so
memory is taken for those that are there and not for those that a footer promises. What the footer
says of single columns is left to PyArrow's readers: asked for by itself, a damaged one ends the
process (`RowGroupMetaData.column` of PyArrow 26).
"""

import contextlib
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from libero_reward_envs.data.closing import ClosedAtExit

MAX_PIXELS = 2**26  # of one picture: 8192 x 8192
_BATCH_ROWS = 256
_BUFFER_BYTES = 2**16  # columns are streamed in pieces of this size instead of being read whole
_PICTURE_MODES = {1: "L", 3: "RGB"}  # by the number of channels


class ParquetRows(ClosedAtExit):
    """One Parquet file, which stays open until `close`.

    Args:
        path: The file.

    Attributes:
        path: The file.
        n_rows: How many rows it has.
        columns: The names of its columns.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no Parquet file, or cut short.
        ImportError: If PyArrow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        parquet = import_pyarrow().parquet
        with _naming_errors(self.path):
            self._file = parquet.ParquetFile(
                self.path,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            try:
                self._ends = _count_rows(self._file.metadata)
                self.columns: list[str] = list(self._file.schema_arrow.names)
            except BaseException:
                self._file.close()
                raise
        self.n_rows = int(self._ends[-1]) if len(self._ends) else 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, columns: Sequence[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield rows `start` to `stop` in batches, as PyArrow arrays by column.

        Raises:
            ValueError: If a column or a row is not there, or the file is damaged.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise ValueError(
                f"Cannot read {str(self.path)!r}: no column {', '.join(map(repr, missing))}, it "
                f"has: {', '.join(self.columns)}."
            )
        if not 0 <= start <= stop <= self.n_rows:
            raise ValueError(
                f"Cannot read {str(self.path)!r}: rows {start} to {stop} are asked for, it has "
                f"{self.n_rows}."
            )
        if start == stop or not columns:
            return
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        here = int(self._ends[first - 1]) if first else 0
        with _naming_errors(self.path):
            batches = self._file.iter_batches(
                min(_BATCH_ROWS, stop - start),
                row_groups=range(first, last + 1),
                columns=list(columns),
                use_threads=False,
            )
            for batch in batches:
                skipped = max(0, start - here)
                if skipped < len(batch):
                    rows = batch.slice(skipped, min(len(batch), stop - here) - skipped)
                    yield {name: rows.column(name) for name in columns}
                here += len(batch)
                if here >= stop:
                    return
            raise ValueError(f"its footer promises {self.n_rows} rows, {here} are there")

    def read_values(self, name: str, start: int, stop: int) -> list[Any]:
        """Return a column of rows `start` to `stop` as Python values."""
        return [
            value for batch in self.read([name], start, stop) for value in batch[name].to_pylist()
        ]

    def read_numbers(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return a column of plain numbers, shape (n,)."""
        parts = [self.as_numbers(batch[name], name, ()) for batch in self.read([name], start, stop)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def as_numbers(self, array: Any, name: str, shape: Sequence[int]) -> np.ndarray:
        """Return an array of numbers or of nested lists of them as (n, *shape).

        Raises:
            ValueError: If it is of another type or shape, or values are missing.
        """
        pyarrow = import_pyarrow()
        expected = (len(array), *shape)
        with _naming_errors(self.path, f", column {name!r}"):
            flat = getattr(array, "storage", array)  # of an extension type
            sizes = [len(flat)]
            while pyarrow.types.is_nested(flat.type):
                if flat.null_count or not hasattr(flat, "flatten") or not hasattr(flat, "values"):
                    raise ValueError(f"expected numbers, got {array.type}")
                widths = np.unique(flat.value_lengths())
                if len(widths) > 1:
                    raise ValueError(f"its rows have different lengths, {widths.tolist()[:5]}")
                sizes.append(int(widths[0]) if len(widths) else 0)
                flat = flat.flatten()
            values = np.asarray(flat.to_numpy(zero_copy_only=False))
            if flat.null_count or values.dtype.kind not in "biuf":
                raise ValueError(f"expected numbers and no gaps, got {array.type}")
            if int(np.prod(sizes)) != values.size or values.size != int(np.prod(expected)):
                raise ValueError(f"expected shape {tuple(expected)}, got {tuple(sizes)}")
            return values.reshape(expected)

    def as_pictures(self, array: Any, name: str, shape: Sequence[int]) -> np.ndarray:
        """Return PNG or JPEG pictures, in bytes or in structs with `bytes`, as (n, H, W, C) uint8.

        Args:
            array: The column.
            name: Its name.
            shape: (H, W, C).

        Raises:
            ValueError: If one is missing, damaged, of another size, or of another kind.
        """
        pictures = np.empty((len(array), *shape), np.uint8)
        with _naming_errors(self.path, f", column {name!r}"):
            for row, value in enumerate(array):
                value = value.as_py()
                content = value.get("bytes") if isinstance(value, Mapping) else value
                if not isinstance(content, bytes):
                    raise ValueError("expected a picture in the file itself, got none")
                pictures[row] = decode_picture(content, shape)
        return pictures


def decode_picture(content: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return a PNG or JPEG picture as (H, W, C) uint8.

    Raises:
        ValueError: If it is damaged, of another size than `shape`, or not of 8 bits a channel.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            # The header is read so far, and nothing is unpacked before it is found to be right.
            if picture.size != (width, height) or picture.mode != _PICTURE_MODES.get(channels):
                raise ValueError(
                    f"expected a picture of {height} x {width}, {_PICTURE_MODES.get(channels)}, "
                    f"got {picture.height} x {picture.width}, {picture.mode}"
                )
            return np.asarray(picture).reshape(height, width, channels)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a damaged picture: {error}") from error


def encode_picture(array: np.ndarray) -> bytes:
    """Return (H, W, 3) or (H, W, 1) uint8 as a PNG picture."""
    content = io.BytesIO()
    plain = array[..., 0] if array.shape[-1] == 1 else array
    Image.fromarray(np.ascontiguousarray(plain)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def import_pyarrow() -> Any:
    """Return PyArrow with `pyarrow.parquet` loaded.

    Raises:
        ImportError: If it is not installed; says how it is.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(
            "Parquet files need PyArrow. Install it: pip install 'libero-reward-envs[datasets]'."
        ) from error


def _count_rows(metadata: Any) -> np.ndarray:
    """Return the last row of each row group, plus one; shape (g,)."""
    rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    if any(count < 0 for count in rows) or sum(rows) != metadata.num_rows:
        raise ValueError(f"its footer promises {metadata.num_rows} rows in groups of {rows[:5]}")
    return np.cumsum(np.array(rows, np.int64))


@contextlib.contextmanager
def _naming_errors(path: Path, where: str = "") -> Iterator[None]:
    pyarrow = import_pyarrow()
    try:
        yield
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        message = str(error).strip("'.")
        if message.startswith("Cannot read "):
            raise
        raise ValueError(f"Cannot read {str(path)!r}{where}: {message}.") from error
