"""Episodes as rows of a LeRobotDataset: which columns they take, and their tables."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.lerobot.info import PLAIN_DTYPES, Feature
from libero_reward_envs.data.lerobot.keys import name_feature
from libero_reward_envs.data.lerobot.parquet_rows import encode_picture, import_pyarrow

_MAX_DIMENSIONS = 5  # of one step, in lerobot
_NUMBERING = (
    Feature("timestamp", "float32", (1,)),
    Feature("frame_index", "int64", (1,)),
    Feature("episode_index", "int64", (1,)),
    Feature("index", "int64", (1,)),
    Feature("task_index", "int64", (1,)),
)
_OUTCOME = (
    Feature("next.reward", "float32", (1,)),
    Feature("next.done", "bool", (1,)),
    Feature("next.success", "bool", (1,)),
)


@dataclass(frozen=True)
class EpisodeLayout:
    """The columns that all episodes of a set share.

    Attributes:
        observations: The feature of each observation, by key.
        shapes: The shape of one step of each observation, by key.
        n_actions: The dimensions of an action.
    """

    observations: Mapping[str, Feature]
    shapes: Mapping[str, tuple[int, ...]]
    n_actions: int

    @property
    def features(self) -> list[Feature]:
        """All columns, in the order in which they stand."""
        action = Feature("action", "float32", (self.n_actions,))
        return [*self.observations.values(), action, *_OUTCOME, *_NUMBERING]

    @property
    def videos(self) -> dict[str, Feature]:
        """The observations that are videos, by key."""
        return {key: f for key, f in self.observations.items() if f.dtype == "video"}


@dataclass(frozen=True)
class EpisodeNumbers:
    """Where an episode stands in its set."""

    episode: int
    first_frame: int
    task: int


def make_layout(episode: Episode, *, video: bool) -> EpisodeLayout:
    """Return the layout of a set that begins with an episode.

    Raises:
        ValueError: If an observation or the actions cannot be stored.
    """
    observations, shapes = {}, {}
    names: set[str] = set()
    for key, value in episode.observations.items():
        shape, dtype = value.shape[1:], value.dtype.newbyteorder("=").name
        if dtype not in PLAIN_DTYPES or len(shape) > _MAX_DIMENSIONS or 0 in shape:
            raise ValueError(
                f"Expected observation {key!r} with 1 to {_MAX_DIMENSIONS} dimensions a step and "
                f"one of {', '.join(PLAIN_DTYPES)}, got {shape} of {dtype}. Leave it out."
            )
        is_image = dtype == "uint8" and len(shape) == 3 and shape[2] == 3
        if is_image and video and (shape[0] % 2 or shape[1] % 2):
            raise ValueError(
                f"Expected even height and width of {key!r} for a video, got {shape[:2]}. Give "
                "`video=False`, or pad the images."
            )
        name = name_feature(key, is_image)
        while name in names:  # "wrist" and "wrist_image" are one name in lerobot's habit
            name += "_"
        names.add(name)
        stored = ("video" if video else "image") if is_image else dtype
        observations[key] = Feature(name, stored, shape or (1,))
        shapes[key] = shape
    if episode.actions.shape[1] == 0:
        raise ValueError("Expected actions of at least one dimension, got none.")
    return EpisodeLayout(observations, shapes, episode.actions.shape[1])


def describe_features(layout: EpisodeLayout, fps: int, codec: str) -> dict[str, Any]:
    """Return `features` of `meta/info.json`."""
    described = {}
    for feature in layout.features:
        entry: dict[str, Any] = {
            "dtype": feature.dtype,
            "shape": list(feature.shape),
            "names": None,
        }
        if feature.is_image:
            entry["names"] = ["height", "width", "channels"]
        if feature.dtype == "video":
            entry["info"] = {
                "video.height": feature.shape[0],
                "video.width": feature.shape[1],
                "video.codec": codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            }
        described[feature.name] = entry
    return described


def make_columns(
    layout: EpisodeLayout, episode: Episode, numbers: EpisodeNumbers, fps: int
) -> dict[str, np.ndarray]:
    """Return the T rows of an episode by feature, those of videos too."""
    length = len(episode)
    steps = np.arange(length)
    last = steps == length - 1
    columns = {
        feature.name: episode.observations[key][:-1] for key, feature in layout.observations.items()
    }
    return {
        **columns,
        "action": episode.actions,
        "next.reward": episode.rewards,
        "next.done": last & episode.terminated,
        "next.success": last & episode.success,
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, numbers.episode),
        "index": steps + numbers.first_frame,
        "task_index": np.full(length, numbers.task),
    }


def make_table(features: Sequence[Feature], columns: Mapping[str, np.ndarray]) -> Any:
    """Return a PyArrow table of features; what is called a video is a picture here.

    The schema says what the `datasets` library must know to show pictures and arrays as such.
    """
    pyarrow = import_pyarrow()
    arrays = [_make_array(feature, columns[feature.name]) for feature in features]
    known = {feature.name: _describe_column(feature) for feature in features}
    metadata = {"huggingface": json.dumps({"info": {"features": known}})}
    fields = [pyarrow.field(f.name, a.type) for f, a in zip(features, arrays, strict=True)]
    return pyarrow.table(arrays, schema=pyarrow.schema(fields, metadata=metadata))


def make_tasks_table(tasks: Sequence[str]) -> Any:
    """Return the table of the tasks, whose texts pandas takes for the index, as lerobot has it."""
    pyarrow = import_pyarrow()
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    number = {"pandas_type": "int64", "numpy_type": "int64"}
    columns = [
        {"name": name, "field_name": name, "metadata": None, **kind}
        for name, kind in (("task_index", number), ("task", text))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    table = pyarrow.table(
        {
            "task_index": pyarrow.array(range(len(tasks)), pyarrow.int64()),
            "task": pyarrow.array(tasks, pyarrow.string()),
        }
    )
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def join_tables(parts: Sequence[Path]) -> Callable[[Path], None]:
    """Return what writes tables into one file, a row group each."""

    def write(path: Path) -> None:
        parquet = import_pyarrow().parquet
        writer = None
        try:
            for part in parts:
                table = parquet.read_table(part)
                writer = writer or open_table_writer(path, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    return write


def open_table_writer(path: Path, schema: Any) -> Any:
    """Return PyArrow's writer of a table, with checksums of its pages."""
    # Least and greatest of pictures would put copies of two of them into each file's footer.
    plain = [field.name for field in schema if not str(field.type).startswith("struct")]
    return import_pyarrow().parquet.ParquetWriter(
        path,
        schema,
        compression="snappy",
        use_dictionary=plain,
        write_statistics=plain,
        write_page_checksum=True,
    )


def write_table(path: Path, table: Any) -> None:
    """Write a table into a file as one row group."""
    with open_table_writer(path, table.schema) as writer:
        writer.write_table(table)


def list_features(layout: EpisodeLayout, *, final: bool) -> list[Feature]:
    """Return the features of an episode's table, or of that of its last observation."""
    if final:
        return list(layout.observations.values())
    return [feature for feature in layout.features if feature.dtype != "video"]


def _make_array(feature: Feature, values: np.ndarray) -> Any:
    pyarrow = import_pyarrow()
    if feature.is_image:
        pictures = [{"bytes": encode_picture(value), "path": None} for value in values]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        return pyarrow.array(pictures, kind)
    flat = np.ascontiguousarray(values, np.dtype(feature.dtype)).reshape(-1)
    array = pyarrow.array(flat)
    if feature.shape == (1,):
        return array
    if len(feature.shape) == 1:
        return pyarrow.FixedSizeListArray.from_arrays(array, feature.shape[0])
    for size in reversed(feature.shape):
        offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), array)
    return array


def _describe_column(feature: Feature) -> dict[str, Any]:
    value = {"dtype": feature.dtype, "_type": "Value"}
    if feature.is_image:
        return {"_type": "Image"}
    if feature.shape == (1,):
        return value
    if len(feature.shape) == 1:
        return {"feature": value, "length": feature.shape[0], "_type": "Sequence"}
    return {
        "shape": list(feature.shape),
        "dtype": feature.dtype,
        "_type": f"Array{len(feature.shape)}D",
    }
