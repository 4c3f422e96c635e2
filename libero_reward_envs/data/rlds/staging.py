"""The unfinished RLDS set beside a finished one: shards that grow, and how they become a set.

TensorFlow Datasets puts the number of shards into the name of each, so names are final only at
the end. Until then `<folder>/.<version>.partial` holds `features.json` and `00000.part` and so on.
To finish, shards get their names, then `dataset_info.json` is written, which marks the folder as
whole; a finished set of before is moved aside, the folder gets the version's name, and the one of
before is removed. Wherever a kill strikes, the next writer goes on from there.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from libero_reward_envs.atomic_files import force_folder_to_disk, write_atomically
from libero_reward_envs.data.rlds.features import Leaf, build_features, parse_features
from libero_reward_envs.data.rlds.files import (
    FEATURES_FILE,
    INFO_FILE,
    SPLIT,
    TEMPLATE,
    fill_template,
    list_parts,
    name_partial,
    read_info,
    read_json,
)
from libero_reward_envs.data.rlds.tfrecord import (
    OVERHEAD_BYTES,
    frame_record,
    index_shard,
    read_record,
)


class StagedSet:
    """The unfinished set of one version.

    Args:
        folder: The folder above the version's.
        version: Name of the version's folder.
        shard_bytes: Size from which a shard is followed by another.

    Attributes:
        name: That of a finished set that is gone on with, else None.
        leaves: The features, by path; None before the first episode.
        has_begun: Whether there is an unfinished set.

    Raises:
        ValueError: If what a killed writer left is damaged other than at its end.
    """

    def __init__(self, folder: Path, version: str, shard_bytes: int) -> None:
        self._finished = folder / version
        self._partial = folder / name_partial(version)
        self._aside = folder / f".{version}.old"
        self._shard_bytes = shard_bytes
        self._file: IO[bytes] | None = None
        self._counts: list[int] = []  # episodes of each shard
        self._n_bytes = 0  # of all payloads
        if self._aside.exists() or (self._partial / INFO_FILE).exists():
            self._give_name()
        self.name: str | None = None
        self.leaves: dict[str, Leaf] | None = None
        self.has_begun = self._partial.is_dir()
        if self.has_begun:
            self._resume()
        elif self._finished.is_dir():
            self.leaves = parse_features(read_json(self._finished, FEATURES_FILE))
            info = read_info(self._finished, SPLIT)
            self.name = info.name
            self._counts = [shard.n_episodes for shard in info.shards]

    def __len__(self) -> int:
        """The number of episodes, with those of a finished set that is gone on with."""
        return sum(self._counts)

    def append(self, payload: bytes, leaves: Mapping[str, Leaf]) -> None:
        """Add a record; once this returns, a kill no longer loses it.

        Raises:
            OSError: If it cannot be written; nothing of it is left.
        """
        head, foot = frame_record(payload)
        if not self.has_begun:
            self._begin()
        if self.leaves is None or not (self._partial / FEATURES_FILE).exists():
            self.leaves = dict(leaves)
            text = json.dumps(build_features(leaves.values()), indent=2)
            write_atomically(self._partial / FEATURES_FILE, [text.encode()])
        file = self._open_shard()
        end = file.tell()
        try:
            for part in (head, payload, foot):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:  # Ctrl-C too: a torn record would hide those after it
            with contextlib.suppress(OSError):
                self._file = None
                file.close()
            with contextlib.suppress(OSError):
                os.truncate(file.name, end)
            raise
        self._counts[-1] += 1
        self._n_bytes += len(payload)

    def close(self) -> None:
        """Close the shard that is open; nothing gets its name."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, name: str, description: str) -> None:
        """Make the unfinished set the finished one, if there is any."""
        self.close()
        if not self.has_begun:
            return
        if not len(self):
            shutil.rmtree(self._partial)
            self.has_begun = False
            return
        n_shards = len(self._counts)
        digits = max(5, len(str(n_shards)))
        for index in range(n_shards):
            final = fill_template(TEMPLATE, name, SPLIT, index, n_shards, digits)
            os.replace(self._partial / f"{index:05d}.part", self._partial / final)
        force_folder_to_disk(self._partial)
        info = self._describe(name, description)
        write_atomically(self._partial / INFO_FILE, [json.dumps(info, indent=2).encode()])
        self._give_name()
        self.has_begun = False

    def _describe(self, name: str, description: str) -> dict[str, Any]:
        version = self._finished.name
        split = {
            "filepathTemplate": TEMPLATE,
            "name": SPLIT,
            "numBytes": str(self._n_bytes),
            "shardLengths": [str(count) for count in self._counts],
        }
        return {
            "citation": "",
            "description": description,
            "fileFormat": "tfrecord",
            "moduleName": "",
            "name": name,
            "releaseNotes": {version: ""},
            "splits": [split],
            "version": version,
        }

    def _give_name(self) -> None:
        """Put a whole unfinished set in the place of the finished one."""
        if (self._partial / INFO_FILE).exists():
            if self._finished.exists() and not self._aside.exists():
                os.replace(self._finished, self._aside)
            os.replace(self._partial, self._finished)
            force_folder_to_disk(self._finished.parent)
        if self._aside.exists():
            shutil.rmtree(self._aside)

    def _begin(self) -> None:
        """Make the folder; shards of a finished set are linked, as they are never changed."""
        making = self._partial.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        if self._finished.is_dir():
            _link(self._finished / FEATURES_FILE, making / FEATURES_FILE)
            for index, shard in enumerate(read_info(self._finished, SPLIT).shards):
                part = making / f"{index:05d}.part"
                _link(shard.path, part)
                self._n_bytes += part.stat().st_size - shard.n_episodes * OVERHEAD_BYTES
        os.replace(making, self._partial)
        self.has_begun = True

    def _open_shard(self) -> IO[bytes]:
        """Return the shard to append to: a new one after reopening, or when the last is full."""
        if self._file is not None and self._file.tell() >= self._shard_bytes:
            self.close()
        if self._file is None:
            path = self._partial / f"{len(self._counts):05d}.part"
            if self._counts and self._counts[-1] == 0:  # left empty by a failed write
                path = self._partial / f"{len(self._counts) - 1:05d}.part"
            else:
                self._counts.append(0)
            self._file = open(path, "wb")  # noqa: SIM115 (open until the next shard)
            force_folder_to_disk(self._partial)
        return self._file

    def _resume(self) -> None:
        if (self._partial / FEATURES_FILE).exists():
            self.leaves = parse_features(read_json(self._partial, FEATURES_FILE))
        parts = list_parts(self._partial)
        numbers = [number for number, _ in parts]
        if numbers != list(range(len(numbers))):
            raise ValueError(f"Shards are missing in {str(self._partial)!r}: it has {numbers}.")
        for number, path in parts:
            part = self._partial / f"{number:05d}.part"
            os.replace(path, part)  # another name if a kill came while shards got their names
            self._reopen(part, is_last=number == numbers[-1])

    def _reopen(self, path: Path, *, is_last: bool) -> None:
        """Count the records of a shard, and cut off one that a kill left torn at its end."""
        index = index_shard(path)
        n_records, damage = len(index), index.damage
        if is_last and n_records:  # a file that grew but was not written ends in zeros
            try:
                read_record(path, int(index.offsets[-1]), int(index.lengths[-1]))
            except ValueError as error:
                n_records, damage = n_records - 1, str(error)
        if damage is not None:
            if not is_last:
                raise ValueError(f"Cannot go on with {str(path)!r}: {damage}. Remove the folder.")
            lengths = index.lengths[:n_records] + OVERHEAD_BYTES
            os.truncate(path, int(lengths.sum()))
        self._counts.append(n_records)
        self._n_bytes += int(index.lengths[:n_records].sum())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # a file system without links
        with open(source, "rb") as file:
            write_atomically(target, iter(lambda: file.read(2**20), b""))
