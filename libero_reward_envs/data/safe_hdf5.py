"""Reading HDF5 files that may come from anywhere.

Nothing in a file is believed: links and external or virtual storage are refused, memory is taken
only for what the file can really hold, and a damaged file is a ValueError that names it.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_MAX_COMPRESSION_RATIO = 1100  # deflate cannot do better than 1032 : 1
_MAX_NODES = 1000
_ATTRIBUTE_KINDS = {str: "S", bool: "b", int: "iu", float: "f"}


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; errors inside become a ValueError that names it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it, or what is read from it, is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        message = str(error).strip("'.")
        raise ValueError(f"Cannot read {str(path)!r}: {message}.") from error


def get_child(group: h5py.Group, name: str, kind: Any = (h5py.Group, h5py.Dataset)) -> Any:
    """Return what lies directly below a group; a link that leads elsewhere is refused."""
    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError(f"no {name!r} in {group.name}: not written by this package, or damaged")
    if not isinstance(link, h5py.HardLink):  # soft and external links lead out of the group or file
        raise ValueError(f"{name!r} in {group.name} is a {type(link).__name__}, which is refused")
    node = group[name]
    if not isinstance(node, kind):
        raise ValueError(f"{name!r} in {group.name} is a {type(node).__name__}")
    return node


def walk_datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the datasets below, by path; a file whose groups contain themselves comes to an end."""
    nodes: list[tuple[str, Any]] = [("", group)]
    for visited, (path, node) in enumerate(nodes):
        if visited > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} datasets in {group.name}")
        if isinstance(node, h5py.Dataset):
            yield path, node
        elif len(node) > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} entries in {node.name}")
        else:
            nodes += [(f"{path}/{name}".lstrip("/"), get_child(node, name)) for name in node]


def read_attribute(group: h5py.Group, name: str, kind: type) -> Any:
    """Read a single number or a string of fixed length.

    Strings of variable length are refused: of a damaged file, the library can read them for ever.
    """
    if name not in group.attrs:
        raise ValueError(f"no attribute {name!r} on {group.name}: not written by this package")
    dtype = group.attrs.get_id(name).dtype
    if group.attrs.get_id(name).shape != () or dtype.kind not in _ATTRIBUTE_KINDS[kind]:
        raise ValueError(
            f"expected {kind.__name__} attribute {name!r} on {group.name}, got {dtype}"
        )
    value: Any = group.attrs[name]
    return value.decode() if isinstance(value, bytes) else value.item()


def read_array(dataset: h5py.Dataset, n_rows: int) -> np.ndarray:
    """Read a whole array of numbers with `n_rows` rows."""
    check_array(dataset, n_rows)
    return dataset[()]


def read_with_last(rows: h5py.Dataset, last: h5py.Dataset, n_rows: int) -> np.ndarray:
    """Read `n_rows` rows and the one that stands apart, without a copy of them in between."""
    check_array(rows, n_rows)
    check_array(last, 1)
    if last.shape[1:] != rows.shape[1:] or last.dtype != rows.dtype:
        raise ValueError(
            f"{last.name} is {last.dtype} of {last.shape[1:]}, {rows.name} {rows.dtype} of "
            f"{rows.shape[1:]}"
        )
    joined = np.empty((n_rows + 1, *rows.shape[1:]), rows.dtype)
    if joined.size:
        rows.read_direct(joined, dest_sel=np.s_[:n_rows])
        last.read_direct(joined, dest_sel=np.s_[n_rows:])
    return joined


def check_array(dataset: h5py.Dataset, n_rows: int) -> None:
    """Raise ValueError unless it is numbers of `n_rows` rows, and all of them are in the file."""
    name, shape = dataset.name, dataset.shape
    if dataset.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {dataset.dtype}, not numbers")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is stored outside the file, which is refused")
    if not shape or shape[0] != n_rows:
        raise ValueError(f"expected {n_rows} rows in {name}, got shape {shape}")
    # A few bytes can declare terabytes. All of it must be there before memory is set aside for it.
    stored = dataset.id.get_storage_size()
    if dataset.chunks is None:
        complete = stored == dataset.nbytes
    else:
        pairs = list(zip(shape, dataset.chunks, strict=True))
        n_chunks = math.prod(math.ceil(size / chunk) for size, chunk in pairs)
        complete = all(chunk <= size for size, chunk in pairs)
        complete = complete and dataset.id.get_num_chunks() == n_chunks
        complete = complete and dataset.nbytes <= _MAX_COMPRESSION_RATIO * stored
    if not complete:
        raise ValueError(f"{name} declares shape {shape} but {stored} bytes are stored")
