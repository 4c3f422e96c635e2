"""What `meta/info.json` of a LeRobotDataset says, and where its files may lie."""

import functools
import json
import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.lerobot.parquet_rows import MAX_PIXELS

INFO_FILE = "meta/info.json"
MAX_STEPS = 1_000_000  # of one episode
PLAIN_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
# Columns that number the rows; every set has them.
INDEX_FEATURES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_MAX_INFO_BYTES = 2**24
_MAX_ROW_BYTES = 2**28
_MAX_NUMBER = 2**53
_VERSION = re.compile(r"v?([23])\.(\d{1,3})(\.\d{1,3})?")
_NUMBER_FORMAT = re.compile(r"(0?\d{1,2}d?)?")
_TEMPLATE_NAMES = {
    2: ("episode_chunk", "episode_index", "video_key", "total_episodes"),
    3: ("chunk_index", "file_index", "video_key"),
}
IMAGE_DTYPES = ("image", "video")


@dataclass(frozen=True)
class Feature:
    """One column of a set.

    Attributes:
        name: Its name, such as "observation.images.image".
        dtype: "image", "video", or the name of a NumPy dtype; others are not read.
        shape: Of one step: (H, W, C) of an image, () of a single number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether steps are pictures, in the table or in a video."""
        return self.dtype in IMAGE_DTYPES


@dataclass(frozen=True)
class LerobotInfo:
    """The content of `meta/info.json` that is used, checked.

    Attributes:
        folder: The set's folder.
        major: 2 or 3.
        version: Such as "v3.0".
        fps: Steps a second.
        n_episodes: How many episodes there should be.
        n_frames: How many steps all of them should have together.
        n_tasks: How many tasks there should be; None if the file does not say.
        chunks_size: Files, in v2 episodes, in a folder.
        data_path: Template of the tables' paths.
        video_path: Template of the videos' paths; None where there are none.
        features: By name.
    """

    folder: Path
    major: int
    version: str
    fps: float
    n_episodes: int
    n_frames: int
    n_tasks: int | None
    chunks_size: int
    data_path: str
    video_path: str | None
    features: Mapping[str, Feature]

    def data_file(self, **numbers: int) -> Path:
        """Return where a table lies; the names are those of the version's templates."""
        return locate(self.folder, self.data_path, self.major, numbers)

    def video_file(self, video_key: str, **numbers: int) -> Path:
        """Return where a video lies; the names are those of the version's templates."""
        if self.video_path is None:
            raise ValueError(f"{self.name_file()} has no `video_path` for {video_key!r}.")
        return locate(self.folder, self.video_path, self.major, {**numbers, "video_key": video_key})

    def name_file(self) -> str:
        """Return what errors call the file."""
        return repr(str(self.folder / INFO_FILE))


def read_info(folder: str | Path) -> LerobotInfo:
    """Read `meta/info.json`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, of another version, or asks for what no set can be.
    """
    folder = Path(folder)
    content = read_json(folder / INFO_FILE)
    try:
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
        return _parse_info(folder, content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"Cannot read {str(folder / INFO_FILE)!r}: {reason}.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of limited size.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no JSON, or too large.
    """
    with open(path, "rb") as file:
        content = file.read(_MAX_INFO_BYTES + 1)
    if len(content) > _MAX_INFO_BYTES:
        raise ValueError(f"Cannot read {str(path)!r}: it is larger than {_MAX_INFO_BYTES} bytes.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Cannot read {str(path)!r}: {error}.") from error


def locate(folder: Path, template: str, major: int, values: Mapping[str, Any]) -> Path:
    """Return the path of a template.

    Raises:
        ValueError: If the template has other fields than the version knows, or leads out.
    """
    parts = []
    for text, name, spec, conversion in string.Formatter().parse(template):
        parts.append(text)
        if name is None:
            continue
        if name not in _TEMPLATE_NAMES[major] or conversion or name not in values:
            raise ValueError(f"Unknown field {name!r} in the path {template!r}, which is refused.")
        if not _NUMBER_FORMAT.fullmatch(spec or ""):
            raise ValueError(f"Unknown format {spec!r} in the path {template!r}, which is refused.")
        parts.append(format(values[name], spec or ""))
    return stay_inside(folder, "".join(parts))


@functools.lru_cache(4096)  # following links takes longer than reading a step
def stay_inside(folder: Path, relative: str | Path) -> Path:
    """Return a path in a set's folder, in which it must lie also after following links.

    Links into the `blobs` folder of the Hugging Face cache, in which downloads lie, are followed.

    Raises:
        ValueError: If it leads out.
    """
    relative = Path(relative)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ValueError(f"The path {str(relative)!r} leads out of {str(folder)!r}.")
    path = folder / relative
    real, root = path.resolve(), folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise ValueError(f"The path {str(path)!r} leads out of the set, to {str(real)!r}.")
    return path


def _parse_info(folder: Path, content: dict[str, Any]) -> LerobotInfo:
    version = _VERSION.fullmatch(str(content["codebase_version"]))
    if version is None:
        raise ValueError(
            f"expected `codebase_version` v2.0, v2.1 or v3.0, got {content['codebase_version']!r}"
        )
    major = int(version[1])
    fps = content["fps"]
    if not isinstance(fps, int | float) or not 0 < fps <= 1e6:
        raise ValueError(f"expected a positive number of `fps`, got {fps!r}")
    templates = [content["data_path"], content.get("video_path")]
    if not isinstance(templates[0], str) or not isinstance(templates[1], str | None):
        raise ValueError(f"expected `data_path` and `video_path` as text, got {templates!r}")
    features = content["features"]
    if not isinstance(features, dict):
        raise ValueError(f"expected `features` as an object, got {type(features).__name__}")
    tasks = content.get("total_tasks")
    return LerobotInfo(
        folder=folder,
        major=major,
        version=f"v{major}.{version[2]}",
        fps=fps,
        n_episodes=_parse_number("total_episodes", content["total_episodes"]),
        n_frames=_parse_number("total_frames", content["total_frames"]),
        n_tasks=None if tasks is None else _parse_number("total_tasks", tasks),
        chunks_size=max(1, _parse_number("chunks_size", content.get("chunks_size", 1000))),
        data_path=templates[0],
        video_path=templates[1],
        features={name: _parse_feature(name, feature) for name, feature in features.items()},
    )


def _parse_feature(name: str, feature: Any) -> Feature:
    dtype, shape = feature["dtype"], feature["shape"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"expected `dtype` and `shape` of feature {name!r}, got {feature!r}")
    shape = tuple(_parse_number(f"shape of {name!r}", size) for size in shape)
    if dtype in IMAGE_DTYPES:
        if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
            shape = (*shape[1:], shape[0])  # written channels first, stored channels last
        if len(shape) != 3 or shape[2] not in (1, 3) or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
            raise ValueError(f"expected images (H, W, 3) of feature {name!r}, got shape {shape}")
    elif dtype in PLAIN_DTYPES and math.prod(shape) * np.dtype(dtype).itemsize > _MAX_ROW_BYTES:
        raise ValueError(f"a step of feature {name!r} has shape {shape}, which is refused")
    return Feature(name, dtype, shape)


def _parse_number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"expected a number of 0 to {_MAX_NUMBER} for `{name}`, got {value!r}")
    return value
