"""A hash of a checkpoint's files, by which a result says what it was computed with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

# All that decides what a model does; cards and training states do not.
_PATTERNS = ("*.safetensors", "*.json", "*.pt", "tokenizer.model")
_NOT_READ = ("training_state.json", "training_state.safetensors", "trainer_state.json")
_BLOCK_BYTES = 1 << 22


def fingerprint_folders(folders: Iterable[Path]) -> str:
    """Return the SHA-256, 64 hex digits, of the files of a model and of its adapter, by name.

    Args:
        folders: Where they lie.

    Example:
        >>> fingerprint_folders([])[:8]
        'e3b0c442'
    """
    whole = hashlib.sha256()
    for number, folder in enumerate(folders):
        paths = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
        for path in sorted(paths):
            if path.is_file() and path.name not in _NOT_READ:
                whole.update(f"{number}/{path.name}:{_hash_file(path)}\n".encode())
    return whole.hexdigest()


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
