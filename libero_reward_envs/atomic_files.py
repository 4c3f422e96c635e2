"""Writing a file whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, parts: Iterable[Any], *, temporary: Path | None = None) -> None:
    """Write a file so that a kill or a power cut leaves either the old one or the new one.

    It is written beside its place under a temporary name, forced to disk and given its name.

    Args:
        path: The file; its folder must be there.
        parts: What it is to hold, one after the other: bytes or contiguous arrays of uint8.
        temporary: Its name until it is whole, which a kill may leave behind, in the same folder;
            `.<name>.<process id>.tmp` if None.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    force_folder_to_disk(path.parent)


def force_folder_to_disk(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    if os.name == "nt":  # Windows does not open folders, and keeps their names in its journal
        return
    force_file_to_disk(folder)


def force_file_to_disk(path: Path) -> None:
    """Make what was written to a file outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
