"""Reading steps of a LeRobotDataset: rows of its tables and frames of its videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from libero_reward_envs.data.lerobot.index import EpisodePlace
from libero_reward_envs.data.lerobot.info import Feature
from libero_reward_envs.data.lerobot.parquet_rows import ParquetRows
from libero_reward_envs.data.lerobot.video_frames import VideoFrames
from libero_reward_envs.data.open_files import OpenFiles

_NUMBERING = (Feature("episode_index", "int64", (1,)), Feature("frame_index", "int64", (1,)))
_TOLERANCE_FRAMES = 0.25  # of a frame, how far from its time it may lie in a video


def read_steps(
    files: OpenFiles,
    place: EpisodePlace,
    features: Sequence[Feature],
    start: int,
    stop: int,
    fps: float,
) -> dict[str, np.ndarray]:
    """Read steps `start` to `stop` of an episode.

    Returns:
        By feature, shape (stop - start, ...).

    Raises:
        ValueError: If a file is missing or damaged, or the rows there are not this episode's.
    """
    values: dict[str, np.ndarray] = {}
    if in_table := [feature for feature in features if feature.dtype != "video"]:
        rows = place.first_row + start, place.first_row + stop
        values = read_table(files, place.data_file, [*in_table, *_NUMBERING], *rows)
        expected = {"episode_index": place.number, "frame_index": np.arange(start, stop)}
        for name, numbers in expected.items():
            if not (values.pop(name)[:, 0] == numbers).all():
                raise ValueError(
                    f"Cannot read {str(place.data_file)!r}: rows {rows[0]} to {rows[1]} should be "
                    f"steps of episode {place.number}, `{name}` says otherwise."
                )
    for feature in features:
        if feature.dtype == "video":
            path, begin_s = place.videos[feature.name]
            times = begin_s + np.arange(start, stop) / fps
            values[feature.name] = _read_video(files, path, feature, times, fps)
    return values


def read_table(
    files: OpenFiles, path: Path, features: Sequence[Feature], start: int, stop: int
) -> dict[str, np.ndarray]:
    """Read rows of a table; features that are videos elsewhere are pictures here.

    Returns:
        By feature, shape (stop - start, ...).

    Raises:
        ValueError: If the file is missing or damaged, or holds anything else.
    """
    parts: dict[str, list[np.ndarray]] = {feature.name: [] for feature in features}
    try:
        with files.borrow(ParquetRows, path) as rows:
            for batch in rows.read(list(parts), start, stop):
                for feature in features:
                    name = feature.name
                    read = rows.as_pictures if feature.is_image else rows.as_numbers
                    parts[name].append(read(batch[name], name, feature.shape))
    except FileNotFoundError:
        raise ValueError(f"Cannot read {str(path)!r}: it is not there.") from None
    return {
        name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        for name, arrays in parts.items()
    }


def read_columns(
    files: OpenFiles, places: Sequence[EpisodePlace], features: Mapping[str, Feature]
) -> dict[int, dict[str, np.ndarray]]:
    """Read columns of whole episodes, one table after the other and each row once.

    Returns:
        By the episode's number and the key of `features`, shape (T, ...).

    Raises:
        ValueError: If a file is missing or damaged.
    """
    found: dict[int, dict[str, np.ndarray]] = {place.number: {} for place in places}
    by_table: dict[Path, list[EpisodePlace]] = {}
    for place in places if features else ():
        by_table.setdefault(place.data_file, []).append(place)
    for path, inside in by_table.items():
        start = min(place.first_row for place in inside)
        stop = max(place.first_row + place.length for place in inside)
        values = read_table(files, path, list(features.values()), start, stop)
        for place in inside:
            rows = slice(place.first_row - start, place.first_row - start + place.length)
            found[place.number] = {key: values[f.name][rows] for key, f in features.items()}
    return found


def check_files(files: OpenFiles, place: EpisodePlace, fps: float) -> None:
    """Look whether the files of an episode are there and long enough, without decoding them.

    Raises:
        ValueError: If they are not.
    """
    path = place.data_file
    try:
        with files.borrow(ParquetRows, path) as rows:
            if rows.n_rows < place.first_row + place.length:
                raise ValueError(
                    f"Cannot read {str(path)!r}: it has {rows.n_rows} rows, the last step should "
                    f"be row {place.first_row + place.length}."
                )
        for path, begin_s in place.videos.values():
            with files.borrow(VideoFrames, path) as video:
                wanted = round(begin_s * fps) + place.length
                if video.n_frames < wanted:
                    raise ValueError(
                        f"Cannot read {str(path)!r}: it has {video.n_frames} frames, the last "
                        f"step should be frame {wanted}."
                    )
    except FileNotFoundError:
        raise ValueError(f"Cannot read {str(path)!r}: it is not there.") from None


def _read_video(
    files: OpenFiles, path: Path, feature: Feature, times: np.ndarray, fps: float
) -> np.ndarray:
    try:
        with files.borrow(VideoFrames, path) as video:
            if video.frame_shape != feature.shape:
                raise ValueError(
                    f"Cannot read {str(path)!r}: expected frames {feature.shape} of "
                    f"{feature.name!r}, got {video.frame_shape}."
                )
            return video.read(times, _TOLERANCE_FRAMES / fps)
    except FileNotFoundError:
        raise ValueError(f"Cannot read {str(path)!r}: it is not there.") from None
