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
from h5py import h5l, h5o  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs

_MAX_COMPRESSION_RATIO = 1100  # deflate cannot do better than 1032 : 1
_MAX_NODES = 1000
_LINKS = {h5l.TYPE_SOFT: "SoftLink", h5l.TYPE_EXTERNAL: "ExternalLink"}
_ATTRIBUTE_KINDS = {str: "S", bool: "b", int: "iu", float: "f"}


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; errors inside become a ValueError that names it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it, or what is read from it, is damaged.
    """
    with name_errors(path), h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Let errors but FileNotFoundError become a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        message = describe_error(error).rstrip(".")
        raise ValueError(f"Cannot read {str(path)!r}: {message}.") from error


def describe_error(error: Exception) -> str:
    """Return the message of an error; `str` of a KeyError is in quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def get_child(group: h5py.Group, name: str, kind: Any = (h5py.Group, h5py.Dataset)) -> Any:
    """Return what lies directly below a group; a link that leads elsewhere is refused."""
    # The library's low level, here and below: what is read often are many small things.
    if not has_child(group, name):
        raise ValueError(f"no {name!r} in {group.name}: not written by this package, or damaged")
    link = name.encode(errors="surrogateescape")
    link_type = group.id.links.get_info(link).type
    if link_type != h5l.TYPE_HARD:  # soft and external links lead out of the group or file
        found = _LINKS.get(link_type, "link of another kind")
        raise ValueError(f"{name!r} in {group.name} is a {found}, which is refused")
    node = _open_node(group, link)
    if not isinstance(node, kind):
        raise ValueError(f"{name!r} in {group.name} is a {type(node).__name__}")
    return node


def has_child(group: h5py.Group, name: str) -> bool:
    """Whether there is such a link, without following it out of the file as `in` does."""
    return group.id.links.exists(name.encode(errors="surrogateescape"))


def find_dataset(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """Return a dataset below a group by names joined by slashes, None if there is none."""
    *names, last = path.split("/")
    for name in names:
        if not name or not has_child(group, name):
            return None
        group = get_child(group, name, h5py.Group)
    return get_child(group, last, h5py.Dataset) if last and has_child(group, last) else None


def _open_node(group: h5py.Group, link: bytes) -> Any:
    node = h5o.open(group.id, link)
    if isinstance(node, h5py.h5d.DatasetID):
        return h5py.Dataset(node, readonly=True)
    return h5py.Group(node) if isinstance(node, h5py.h5g.GroupID) else h5py.Datatype(node)


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
    if not h5py.h5a.exists(group.id, name.encode()):
        raise ValueError(f"no attribute {name!r} on {group.name}: not written by this package")
    attribute = h5py.h5a.open(group.id, name.encode())
    dtype = attribute.dtype
    if attribute.shape != () or dtype.kind not in _ATTRIBUTE_KINDS[kind]:
        raise ValueError(
            f"expected {kind.__name__} attribute {name!r} on {group.name}, got {dtype}"
        )
    read = np.empty((), dtype)
    attribute.read(read, mtype=attribute.get_type())  # the type of texts also names their encoding
    value: Any = read[()]
    return value.decode() if isinstance(value, bytes) else value.item()


def read_array(
    dataset: h5py.Dataset, n_rows: int, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Read rows `start` to `stop`, by default all, of an array of numbers with `n_rows` rows."""
    check_array(dataset, n_rows)
    if stop is None and start == 0:
        return dataset[()]
    stop = n_rows if stop is None else stop
    array = np.empty((stop - start, *dataset.shape[1:]), dataset.dtype)
    _read_into(dataset, start, array)
    return array


def check_last(rows: h5py.Dataset, last: h5py.Dataset | None, n_rows: int, n_last: int) -> None:
    """Raise ValueError unless both are whole, and the second has more rows like those of the first.

    Args:
        rows: An observation's first `n_rows` rows.
        last: What ends with the row after them; None if nothing does.
        n_rows: How many rows the first has.
        n_last: How many the second has.
    """
    check_array(rows, n_rows)
    if last is None:
        return
    check_array(last, n_last)
    if last.shape[1:] != rows.shape[1:] or last.dtype != rows.dtype:
        raise ValueError(
            f"{last.name} is {last.dtype} of {last.shape[1:]}, {rows.name} {rows.dtype} of "
            f"{rows.shape[1:]}"
        )


def read_rows(
    rows: h5py.Dataset, last: h5py.Dataset | None, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Read rows of an observation whose last row stands apart; nothing is checked.

    Args:
        rows: o_0 .. o_{T-1}.
        last: Ends with o_T; None to repeat o_{T-1}.
        start: The first row to read.
        stop: The one after the last to read, at most T + 1, which is what None means.

    Returns:
        Shape (stop - start, ...). Rows are read to where they stay: joining would copy them.
    """
    n_rows, *shape = rows.shape
    stop = n_rows + 1 if stop is None else stop
    joined = np.empty((stop - start, *shape), rows.dtype.newbyteorder("="))
    if start < n_rows:
        _read_into(rows, start, joined[: n_rows - start])
    if stop > n_rows and last is None and start < n_rows:
        joined[-1] = joined[-2]
    elif stop > n_rows:
        source = rows if last is None else last
        _read_into(source, source.shape[0] - 1, joined[-1:])
    return joined


def _read_into(dataset: h5py.Dataset, start: int, rows: np.ndarray) -> None:
    """Fill an array with the rows from `start` on."""
    if not rows.size:
        return
    places = memory = h5py.h5s.ALL
    if rows.shape != dataset.shape:
        places, memory = dataset.id.get_space(), h5py.h5s.create_simple(rows.shape)
        places.select_hyperslab((start, *[0] * (rows.ndim - 1)), rows.shape)
    dataset.id.read(memory, places, rows)


def check_array(dataset: h5py.Dataset, n_rows: int) -> None:
    """Raise ValueError unless it is numbers of `n_rows` rows, and all of them are in the file."""
    dtype, shape, chunks = dataset.dtype, dataset.shape, dataset.chunks
    if dtype.kind not in "biuf":
        raise ValueError(f"{dataset.name} is of type {dtype}, not numbers")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} is stored outside the file, which is refused")
    if not shape or shape[0] != n_rows:
        raise ValueError(f"expected {n_rows} rows in {dataset.name}, got shape {shape}")
    # A few bytes can declare terabytes. All of it must be there before memory is set aside for it.
    stored = dataset.id.get_storage_size()
    if chunks is None:
        complete = stored == math.prod(shape) * dtype.itemsize
    else:
        # An axis that can grow may have chunks longer than itself; they are stored whole.
        n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
        declared = n_chunks * math.prod(chunks) * dtype.itemsize
        complete = dataset.id.get_num_chunks() == n_chunks
        complete = complete and declared <= _MAX_COMPRESSION_RATIO * stored
    if not complete:
        raise ValueError(f"{dataset.name} declares shape {shape} but {stored} bytes are stored")
