"""The files of an RLDS set: which folder holds it, and which shards of how many episodes."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libero_reward_envs.data.rlds.tfrecord import OVERHEAD_BYTES, index_shard

INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
VERSION = re.compile(r"\d+\.\d+\.\d+")
SPLIT = "train"
_PARTIAL = re.compile(rf"\.{VERSION.pattern}\.partial")
_PART = re.compile(r"(\d+)\.part|.*-(\d+)-of-\d+")  # the latter just before they become a set
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MAX_JSON_BYTES = 2**26
_MAX_SHARDS = 10**6


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        path: The file.
        n_episodes: How many `dataset_info.json` says are in it.
        damage: Why nothing can be read from it; None if it is there.
    """

    path: Path
    n_episodes: int
    damage: str | None


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset_info.json` says that is needed for reading."""

    name: str
    shards: tuple[Shard, ...]


def find_folder(path: str | Path) -> Path | None:
    """Return the folder of a set: the one given, or its only version's; else None.

    Where there is none, it is what a writer has written so far of one, if there is that.

    Raises:
        ValueError: If there are several versions, or the only one is a link that leads elsewhere.
    """
    path = Path(path)
    if _is_set(path):
        return path
    versions = _list_folders(path, VERSION)
    if len(versions) > 1:
        names = ", ".join(version.name for version in versions)
        raise ValueError(f"{str(path)!r} holds several versions: {names}. Name the folder of one.")
    found = versions or _list_folders(path, _PARTIAL)
    if not found:
        return None
    _check_inside(path, found[0])
    return found[0]


def is_rlds(path: str | Path) -> bool:
    """Return whether a folder holds an RLDS set, directly or in folders named by a version."""
    path = Path(path)
    return _is_set(path) or any(_list_folders(path, kind) for kind in (VERSION, _PARTIAL))


def name_partial(version: str) -> str:
    """Return the name of the folder in which a version is written."""
    return f".{version}.partial"


def list_parts(folder: Path) -> list[tuple[int, Path]]:
    """Return number and path of the shards of an unfinished set, in their order."""
    matches = [(_PART.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1] or match[2]), path) for match, path in matches if match)


def read_info(folder: Path, split: str) -> DatasetInfo:
    """Read `dataset_info.json` and find the shards of a split.

    Raises:
        FileNotFoundError: If the JSON file is not there.
        ValueError: If it is damaged, has no such split, or names files outside the folder.
    """
    if _PARTIAL.fullmatch(folder.name) and split == SPLIT and not (folder / INFO_FILE).exists():
        parts = [path for _, path in list_parts(folder)]
        # One that was torn, or is being written, is not there yet.
        return DatasetInfo("", tuple(Shard(path, len(index_shard(path)), None) for path in parts))
    info = read_json(folder, INFO_FILE)
    name, splits = info.get("name"), info.get("splits")
    if not isinstance(name, str) or not isinstance(splits, list):
        raise ValueError(f"expected a `name` and a list of `splits` in {INFO_FILE}")
    found = [part for part in splits if isinstance(part, dict) and part.get("name") == split]
    if not found:
        names = ", ".join(repr(part.get("name")) for part in splits if isinstance(part, dict))
        raise ValueError(f"no split {split!r} in {INFO_FILE}, it has: {names or 'none'}")
    file_format = info.get("fileFormat") or "tfrecord"
    if file_format != "tfrecord":
        raise ValueError(
            f"the files are {str(file_format)[:40]!r}, only 'tfrecord' is read. Have TensorFlow "
            "Datasets write them anew: `tfds convert_format --out_file_format=tfrecord`"
        )
    lengths = [_parse_length(length) for length in found[0].get("shardLengths") or ()]
    if not lengths or len(lengths) > _MAX_SHARDS:
        raise ValueError(f"expected `shardLengths` of split {split!r}, got {len(lengths)} of them")
    template = found[0].get("filepathTemplate") or TEMPLATE
    digits = max(5, len(str(len(lengths))))
    shards = []
    for index, n_episodes in enumerate(lengths):
        file_name = fill_template(str(template), name, split, index, len(lengths), digits)
        shards.append(_find_shard(folder, file_name, n_episodes))
    return DatasetInfo(name, tuple(shards))


def fill_template(
    template: str, name: str, split: str, index: int, n_shards: int, digits: int = 5
) -> str:
    """Return the name of a shard.

    Raises:
        ValueError: If it is not the name of a file in the same folder.
    """
    number, total = f"{index:0{digits}}", f"{n_shards:0{digits}}"
    values = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": number,
        "NUM_SHARDS": total,
        "SHARD_X_OF_Y": f"{number}-of-{total}",
    }
    filled = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
    if not re.fullmatch(r"[\w.][\w .@+=,()-]{0,254}", filled) or set(filled) == {"."}:
        raise ValueError(f"expected the name of a file in the folder itself, got {filled[:80]!r}")
    return filled


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a limited size.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged or lies outside the folder.
    """
    path = folder / name
    _check_inside(folder, path)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_JSON_BYTES} bytes")
    content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {name}, got {type(value).__name__}")
    return value


def _find_shard(folder: Path, file_name: str, n_episodes: int) -> Shard:
    path = folder / file_name
    _check_inside(folder, path)
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return Shard(path, n_episodes, "the file is missing")
    if n_episodes * OVERHEAD_BYTES > size:  # nobody is to count to what is not there
        return Shard(path, n_episodes, f"{n_episodes} episodes do not fit into {size} bytes")
    return Shard(path, n_episodes, None)


def _check_inside(folder: Path, path: Path) -> None:
    """Refuse links that lead out of the folder, but for those of a Hugging Face cache.

    There, `snapshots/<commit>/<path>` are links to files under `blobs/` of the same repository.
    """
    real, roots = path.resolve(), [folder.resolve()]
    for above in folder.absolute().parents:
        if above.name == "snapshots":
            roots.append(above.parent.resolve() / "blobs")
    if not any(real.is_relative_to(root) for root in roots):
        raise ValueError(
            f"{path.name!r} is a link to {str(real)!r}, outside the folder, which is refused"
        )


def _parse_length(value: Any) -> int:
    try:
        length = int(value)
    except (TypeError, ValueError):
        length = -1
    if not 0 <= length < 2**40:
        raise ValueError(f"expected numbers of episodes in `shardLengths`, got {str(value)[:40]!r}")
    return length


def _is_set(path: Path) -> bool:
    return (path / INFO_FILE).is_file() and (path / FEATURES_FILE).is_file()


def _list_folders(path: Path, kind: re.Pattern[str]) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(path) if kind.fullmatch(name))
    except OSError:
        return []
    needed = (FEATURES_FILE, INFO_FILE)[: 1 if kind is _PARTIAL else 2]
    return [path / name for name in names if all((path / name / file).is_file() for file in needed)]
