"""Checkpoints of a fine-tuning run: folders that are whole or not there, and the latest of them."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from libero_reward_envs.atomic_files import (
    force_file_to_disk,
    force_folder_to_disk,
    write_atomically,
)

LATEST = "latest"  # a link to the last checkpoint
LATEST_FILE = "latest.txt"  # its name, where links cannot be made
STATE_FILE = "training_state.json"
STATE_TENSORS = "training_state.safetensors"
FORMAT_VERSION = 1
_DRAFT_SUFFIX = ".partial"
_UNITS = ("step", "epoch")


def write_checkpoint_folder(
    root: Path, name: str, write: Callable[[Path], None], *, keep: int | None = None
) -> Path:
    """Write a checkpoint whole or not at all, and let `latest` name it.

    Args:
        root: Folder of the run.
        name: Such as "step_500".
        write: Fills the folder that it is given.
        keep: How many checkpoints to keep, the newest; None for all.

    Returns:
        The folder.

    Raises:
        OSError: If it cannot be written, as on a full disk. The draft is removed; the earlier
            checkpoints and `latest` are as they were.
    """
    draft, folder = root / f".{name}{_DRAFT_SUFFIX}", root / name
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        try:
            write(draft)
            for path in draft.iterdir():
                force_file_to_disk(path)
        except SafetensorError as error:  # which is no OSError, whatever it was
            raise OSError(str(error)) from error
        force_folder_to_disk(draft)
        if folder.exists():  # written before a kill, but not named the latest
            shutil.rmtree(folder)
        os.replace(draft, folder)
    except OSError as error:
        last = find_latest(root)
        kept = f"The last checkpoint is {str(last)!r}" if last else "There is none yet"
        raise OSError(
            f"The checkpoint {str(folder)!r} cannot be written: {error}. {kept}; make room and "
            "start again to go on from there."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    force_folder_to_disk(root)
    _point_to(root, name)
    if keep is not None:
        for surplus in list_checkpoints(root)[keep:]:
            if surplus.name != name:
                shutil.rmtree(surplus)
    return folder


def find_latest(root: Path) -> Path | None:
    """Return the folder of the last checkpoint, None if there is none yet.

    Raises:
        ValueError: If `latest` names something that is not there.
    """
    link, file = root / LATEST, root / LATEST_FILE
    if link.is_symlink():
        name = Path(os.readlink(link)).name
    elif file.is_file():
        name = Path(file.read_text(encoding="utf-8").strip()).name
    else:
        return None
    if not (root / name / STATE_FILE).is_file():
        raise ValueError(
            f"`{LATEST}` in {str(root)!r} names {name!r}, which is no checkpoint. Let it name one "
            "that is there, or begin again with --overwrite."
        )
    return root / name


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        unit, _, number = path.name.partition("_")
        if unit in _UNITS and number.isdigit() and path.is_dir():
            found.append((int(number), path))
    return [path for _, path in sorted(found, reverse=True)]


def write_training_state(
    folder: Path, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Write what a run needs to go on: tensors by name, and values as JSON holds them."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / STATE_TENSORS)
    text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, allow_nan=False)
    write_atomically(folder / STATE_FILE, [text.encode()])


def read_training_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_training_state` wrote; nothing is unpickled.

    Raises:
        ValueError: If a file is damaged, missing, or of a later version.
    """
    try:
        values = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / STATE_TENSORS)
    except (OSError, ValueError, SafetensorError, struct.error) as error:
        raise ValueError(
            f"The training state in {str(folder)!r} is damaged: {error}. Let `{LATEST}` name an "
            "earlier checkpoint."
        ) from error
    if values.get("format_version", 0) > FORMAT_VERSION:
        raise ValueError(
            f"{str(folder)!r} is of format version {values['format_version']}, this package reads "
            f"up to {FORMAT_VERSION}. Upgrade libero_reward_envs."
        )
    return tensors, values


def _point_to(root: Path, name: str) -> None:
    """Let `latest` name a checkpoint, at once."""
    link = root / f".{LATEST}{_DRAFT_SUFFIX}"
    link.unlink(missing_ok=True)
    try:
        os.symlink(name, link, target_is_directory=True)
        os.replace(link, root / LATEST)
    except OSError:  # a file system without links
        link.unlink(missing_ok=True)
        write_atomically(root / LATEST_FILE, [f"{name}\n".encode()])
    force_folder_to_disk(root)
