"""Episodes that wait to be put into a LeRobotDataset, each whole in a folder of its own.

An episode is written below `.pending/` under a temporary name, forced to disk and given its number.
From then on a kill or a power cut does not lose it: the next writer puts it into the set.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libero_reward_envs.atomic_files import (
    TEMPORARY_SUFFIX,
    force_file_to_disk,
    force_folder_to_disk,
)

PENDING_FOLDER = ".pending"
DATA_FILE = "data.parquet"
FINAL_FILE = "final.parquet"
_ABOUT_FILE = "episode.json"
_DIGITS = 9


@dataclass(frozen=True)
class PendingEpisode:
    """An episode that waits.

    Attributes:
        folder: Where its files lie.
        about: What was said of it when it was written.
        n_bytes: Of its files.
    """

    folder: Path
    about: dict[str, Any]
    n_bytes: int

    @property
    def number(self) -> int:
        """Its number in the set."""
        return int(self.folder.name)


def pending_episodes(folder: Path) -> list[Path]:
    """Return the folders of the episodes that wait, in the order of their numbers."""
    found = (folder / PENDING_FOLDER).glob("[0-9]" * _DIGITS)
    return sorted(path for path in found if (path / _ABOUT_FILE).is_file())


def name_video(position: int) -> str:
    """Return the name of an episode's video, the features being numbered from 0."""
    return f"video_{position}.mp4"


def stage_episode(
    folder: Path, number: int, about: dict[str, Any], write: Callable[[Path], None]
) -> PendingEpisode:
    """Write an episode whole or not at all.

    Args:
        folder: The set's.
        number: Of the episode.
        about: What is to be known of it, as JSON holds it.
        write: Writes its files into the folder that it is given.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    pending = folder / PENDING_FOLDER
    temporary = pending / f"{number:0{_DIGITS}d}{TEMPORARY_SUFFIX}"
    final = pending / f"{number:0{_DIGITS}d}"
    pending.mkdir(exist_ok=True)
    try:
        temporary.mkdir()
        write(temporary)
        (temporary / _ABOUT_FILE).write_text(json.dumps(about))
        for path in temporary.iterdir():
            force_file_to_disk(path)
        force_folder_to_disk(temporary)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    force_folder_to_disk(pending)
    return _open_pending(final)


def open_pending(folder: Path, first: int) -> list[PendingEpisode]:
    """Return the episodes that wait from number `first` on, and remove what a kill left else.

    Raises:
        ValueError: If one is missing between them.
    """
    for leftover in (folder / PENDING_FOLDER).glob(f"*{TEMPORARY_SUFFIX}"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    waiting = []
    for path in pending_episodes(folder):
        if int(path.name) < first:  # it is in the set already
            shutil.rmtree(path)
        elif int(path.name) == first + len(waiting):
            waiting.append(_open_pending(path))
        else:
            raise ValueError(
                f"Episode {first + len(waiting)} is missing among those that wait in "
                f"{str(path.parent)!r}, where {path.name} is. Move that folder away."
            )
    return waiting


def remove_pending(episodes: list[PendingEpisode]) -> None:
    """Remove episodes that are in the set now."""
    for episode in episodes:
        shutil.rmtree(episode.folder)
    if episodes and not any(episodes[0].folder.parent.iterdir()):
        episodes[0].folder.parent.rmdir()


def put_file(folder: Path, path: Path, write: Callable[[Path], None]) -> None:
    """Write a file of a set whole or not at all.

    Args:
        folder: The set's.
        path: The file's; folders are made.
        write: Writes it, under the name that it is given.

    Raises:
        OSError: If it cannot be written.
    """
    (folder / PENDING_FOLDER).mkdir(exist_ok=True)
    temporary = folder / PENDING_FOLDER / f"{path.name}{TEMPORARY_SUFFIX}"
    try:
        write(temporary)
        force_file_to_disk(temporary)
        move_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_file(source: Path, path: Path) -> None:
    """Give a file its place in a set; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, path)
    force_folder_to_disk(path.parent)


def append_lines(path: Path, lines: list[bytes]) -> None:
    """Add whole lines to a file and force it to disk."""
    with open(path, "ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())


def _open_pending(path: Path) -> PendingEpisode:
    about = json.loads((path / _ABOUT_FILE).read_text())
    return PendingEpisode(path, about, sum(file.stat().st_size for file in path.iterdir()))
