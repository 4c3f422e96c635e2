"""One writer at a time: locks on folders, which end with the process that holds them."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where two writers are not kept apart
    fcntl = None


def lock_folder(folder: Path, owner: Path | None = None) -> int:
    """Make and lock a folder, for as long as the returned descriptor is open in this process.

    Args:
        folder: The folder; made if it is not there, or if a writer that closed takes it away.
        owner: What the error calls it; by default the folder.

    Raises:
        RuntimeError: If another writer has locked it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:  # where folders cannot be opened either
            return os.open(os.devnull, os.O_RDONLY)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed by a writer that closed in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RuntimeError(
                f"Another writer has {str(owner or folder)!r} open. Close it first."
            ) from None
        os.close(descriptor)
