"""Episodes in any format: which one a path holds, how it is read, and how it is written."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from libero_reward_envs.data.episodes import Episode, EpisodeDataset, chain_datasets

ON_ERROR = ("raise", "skip")
_PENDING_SUFFIX = ".pending"  # of the folder of a file's episodes that wait


class FormatWriter(Protocol):
    """What episodes are written to; the name of each format's is `<Format>Writer`."""

    def append(self, episode: Episode) -> None:
        """Add one episode; once this returns it is safe."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...

    def __len__(self) -> int:
        """The number of episodes there, those of former runs included."""
        ...

    def __enter__(self) -> "FormatWriter": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class EpisodeFormat:
    """One format.

    Attributes:
        name: What it is called in `load_episodes`, `open_writer` and on the command line.
        description: What it is, in a few words.
        recognizer: "module:function" that tells by names and first bytes whether a path holds it.
        source: "module:class" that reads it, an `EpisodeSource`.
        writer: "module:class" that writes it, an `FormatWriter`; None where it is only read.
    """

    name: str
    description: str
    recognizer: str
    source: str
    writer: str | None


def _format(
    name: str, description: str, module: str, stem: str, *, written: bool = True
) -> EpisodeFormat:
    path = f"libero_reward_envs.data.{module}"
    return EpisodeFormat(
        name,
        description,
        f"{path}:is_{module}",
        f"{path}:{stem}Source",
        f"{path}:{stem}Writer" if written else None,
    )


# In the order in which they are tried: the more particular first.
FORMATS: dict[str, EpisodeFormat] = {
    found.name: found
    for found in (
        EpisodeFormat(
            "hdf5",
            "episodes of this package, in LIBERO's layout",
            "libero_reward_envs.data.hdf5:is_hdf5",
            "libero_reward_envs.data.hdf5_source:Hdf5Source",
            "libero_reward_envs.data.episode_writer:EpisodeWriter",
        ),
        _format(
            "demonstrations",
            "LIBERO's and robomimic's HDF5, a file or a folder of files",
            "demonstrations",
            "Demonstration",
            written=False,
        ),
        _format("minari", "Minari data sets in HDF5", "minari", "Minari"),
        _format("rlds", "RLDS, TFRecord shards with features.json", "rlds", "Rlds"),
        _format("lerobot", "LeRobotDataset v2.1 and v3.0", "lerobot", "Lerobot"),
        EpisodeFormat(
            "npy",
            "`.npy` trajectories of success classifiers, without actions",
            "libero_reward_envs.data.npy_episodes:is_npy",
            "libero_reward_envs.data.npy_episodes:NpySource",
            "libero_reward_envs.data.npy_episodes:NpyWriter",
        ),
    )
}


def load_episodes(
    path: str | Path, *, format: str | None = None, on_error: str = "raise", **options: Any
) -> EpisodeDataset:
    """Return the episodes of a file or folder of any known format.

    Files are opened when something is read, and closed again, so the dataset can be pickled and
    used in worker processes. The package's own files are read while they are being written, too;
    what a writer adds later shows when the file is loaded again.

    Args:
        path: The file or folder, or a folder of several of one format, which are joined in the
            order of their names.
        format: A key of `FORMATS`; None to recognise it.
        on_error: "raise", or "skip" to leave damaged episodes out; `skipped` of the dataset names
            them.
        options: Further arguments of the format's source, such as `key_map`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is of no known format, or an argument is not valid; later, when something
            is read that is damaged.
        ImportError: If the format needs a library that is not installed.

    Example:
        >>> load_episodes("episodes.h5")
        Traceback (most recent call last):
        FileNotFoundError: No episodes at 'episodes.h5'.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}, got {on_error!r}.")
    path = Path(path)
    found = _get_format(find_format(path) if format is None else format)
    recognizes = _import(found.recognizer)
    paths = [path] if recognizes(path) or not path.is_dir() else _list_sets(path, recognizes)
    parts = [
        EpisodeDataset(_make(found.source, found.name, part, on_error=on_error, **options))
        for part in paths or [path]
    ]
    return chain_datasets(parts)


def find_format(path: str | Path) -> str:
    """Return the name of the format that a path holds.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is of no known format.
    """
    path = Path(path)
    for name, found in FORMATS.items():
        if _import(found.recognizer)(path):
            return name
    within = [
        name for name, found in FORMATS.items() if _list_sets(path, _import(found.recognizer))
    ]
    if len(within) > 1:
        raise ValueError(
            f"{str(path)!r} holds sets of several formats: {', '.join(within)}. Name one of them."
        )
    if within:
        return within[0]
    if not path.exists():
        raise FileNotFoundError(f"No episodes at {str(path)!r}.")
    kinds = "".join(f"\n  {found.name}: {found.description}" for found in FORMATS.values())
    raise ValueError(f"Cannot tell the format of {str(path)!r}. Known are:{kinds}")


def open_writer(path: str | Path, format: str = "hdf5", **options: Any) -> FormatWriter:
    """Return a writer of a format; what it wrote before a kill stays, and it goes on from there.

    Args:
        path: The file or folder.
        format: A key of `FORMATS` that is written.
        options: Further arguments of the format's writer, such as `compression`.

    Raises:
        ValueError: If the format is unknown or only read, or what is there is no beginning of it.
        ImportError: If the format needs a library that is not installed.
    """
    found = _get_format(format)
    if found.writer is None:
        raise ValueError(f"{format!r} is only read. Write one of: {', '.join(writable_formats())}.")
    return _make(found.writer, format, path, **options)


def writable_formats() -> Sequence[str]:
    """Return the names of the formats that `open_writer` writes."""
    return [name for name, found in FORMATS.items() if found.writer is not None]


def _list_sets(folder: Path, recognizes: Callable[[Path], bool]) -> list[Path]:
    """Return what in a folder is of a format, by name.

    A set of which nothing is there yet but episodes that wait counts by the name it will have.
    """
    if not folder.is_dir():
        return []
    paths = {
        path.with_name(path.name.removesuffix(_PENDING_SUFFIX)) if _waits(path) else path
        for path in folder.iterdir()
    }
    return [path for path in sorted(paths) if recognizes(path)]


def _waits(path: Path) -> bool:
    return path.name.endswith(_PENDING_SUFFIX) and path.name != _PENDING_SUFFIX and path.is_dir()


def _get_format(name: str) -> EpisodeFormat:
    if name not in FORMATS:
        raise ValueError(f"Unknown format {name!r}. Choose one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _make(entry_point: str, format: str, path: str | Path, **options: Any) -> Any:
    """Make a source or writer; options that it does not take are a ValueError."""
    made = _import(entry_point)
    try:
        inspect.signature(made).bind(path, **options)
        return made(path, **options)
    except TypeError as error:
        names = [
            name for name in list(inspect.signature(made).parameters)[1:] if name != "on_error"
        ]
        raise ValueError(
            f"{made.__name__} of {format!r} cannot be made so: {error}. Its options are: "
            f"{', '.join(names) or 'none'}."
        ) from error


def _import(entry_point: str) -> Any:
    module, _, attribute = entry_point.partition(":")
    return getattr(importlib.import_module(module), attribute)
