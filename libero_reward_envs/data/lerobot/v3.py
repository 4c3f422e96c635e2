"""LeRobotDataset v3: many episodes in each table and video, and tables about where each lies.

`meta/episodes/chunk-<i>/file-<j>.parquet` have a row an episode with `episode_index`, `tasks`,
`length`, `dataset_from_index`, chunk and file of its table and of its videos, and the time at which
it begins in each video.
"""

from pathlib import Path

import numpy as np

from libero_reward_envs.data.lerobot.index import (
    EpisodeIndex,
    FileNumbers,
    TaskTexts,
    check_length,
)
from libero_reward_envs.data.lerobot.info import LerobotInfo, stay_inside
from libero_reward_envs.data.lerobot.parquet_rows import ParquetRows

EPISODES_FOLDER = "meta/episodes"
_PLAIN = ("episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index")
_OF_VIDEOS = ("chunk_index", "file_index", "from_timestamp")


def index_v3(info: LerobotInfo, damage: list[str]) -> EpisodeIndex:
    """Read where the episodes of a set lie.

    Args:
        info: Of the set.
        damage: Where to tell of what is wrong; the episodes that it concerns are left out.

    Raises:
        FileNotFoundError: If there is nothing in `meta/episodes`.
    """
    keys = [name for name, feature in info.features.items() if feature.dtype == "video"]
    names = [*_PLAIN, *(f"videos/{key}/{name}" for key in keys for name in _OF_VIDEOS)]
    texts = TaskTexts()
    columns = _read_columns(info, names, texts, damage)
    if len(columns["length"]) < info.n_episodes:
        damage.append(
            f"Cannot read {str(info.folder / EPISODES_FOLDER)!r}: {len(columns['length'])} "
            f"episodes are listed, {info.name_file()} promises {info.n_episodes}."
        )
    data = FileNumbers(columns["data/chunk_index"], columns["data/file_index"])
    videos = {
        key: FileNumbers(*(columns[f"videos/{key}/{name}"] for name in _OF_VIDEOS[:2]))
        for key in keys
    }
    index = EpisodeIndex(
        info,
        columns["episode_index"],
        columns["length"],
        _find_first_rows(data, columns["dataset_from_index"]),
        texts,
        data,
        videos,
        {key: columns[f"videos/{key}/from_timestamp"] for key in keys},
    )
    index.keep(_choose_rows(index, damage))
    return index


def _read_columns(
    info: LerobotInfo, names: list[str], texts: TaskTexts, damage: list[str]
) -> dict[str, np.ndarray]:
    parts: list[list[np.ndarray]] = []
    for path in _list_files(info):
        try:
            parts.append(_read_part(path, names, texts))
        except ValueError as error:
            damage.append(str(error))
    return {
        name: np.concatenate([part[i] for part in parts]) if parts else np.zeros(0, np.int64)
        for i, name in enumerate(names)
    }


def _list_files(info: LerobotInfo) -> list[Path]:
    folder = info.folder / EPISODES_FOLDER
    found = sorted(folder.glob("*/*.parquet"))
    if not found and info.n_episodes:
        raise FileNotFoundError(f"No episodes in {str(folder)!r}.")
    return [stay_inside(info.folder, path.relative_to(info.folder)) for path in found]


def _read_part(path: Path, names: list[str], texts: TaskTexts) -> list[np.ndarray]:
    columns: list[list[np.ndarray]] = [[] for _ in names]
    tasks = []
    with ParquetRows(path) as rows:
        has_tasks = "tasks" in rows.columns
        for batch in rows.read([*names, *(["tasks"] if has_tasks else [])], 0, rows.n_rows):
            for name, column in zip(names, columns, strict=True):
                values = rows.as_numbers(batch[name], name, ())
                if "timestamp" not in name and values.dtype.kind not in "iu":
                    raise ValueError(f"Cannot read {str(path)!r}: {name!r} is {values.dtype}.")
                if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 2**53:
                    raise ValueError(f"Cannot read {str(path)!r}: absurd numbers in {name!r}.")
                column.append(values)
            found = batch["tasks"].to_pylist() if has_tasks else [()] * len(batch[names[0]])
            tasks += [[task] if isinstance(task, str) else task or () for task in found]
    for task in tasks:  # only now: a damaged file leaves nothing behind
        texts.append([str(text) for text in task])
    return [np.concatenate(column) if column else np.zeros(0, np.int64) for column in columns]


def _find_first_rows(data: FileNumbers, first_frames: np.ndarray) -> np.ndarray:
    """Return the first row of each episode in its table, shape (n,).

    The tables hold the set's steps one after the other, so a table begins with the least
    `dataset_from_index` of its episodes.
    """
    if not len(first_frames):
        return np.zeros(0, np.int64)
    _, tables = np.unique(np.stack([data.chunks, data.files]), axis=1, return_inverse=True)
    tables = tables.reshape(-1)
    begins = np.full(tables.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, tables, first_frames)
    return first_frames - begins[tables]


def _choose_rows(index: EpisodeIndex, damage: list[str]) -> list[int]:
    """Return the rows that can be read, in the order of their numbers."""
    chosen, known = [], set()
    for row in np.argsort(index.numbers, kind="stable").tolist():
        number = int(index.numbers[row])
        try:
            check_length(number, int(index.lengths[row]))
            if number in known or number < 0:
                raise ValueError(f"episode {number} is there twice, or has no number")
        except ValueError as error:
            damage.append(f"Cannot read {str(index.info.folder / EPISODES_FOLDER)!r}: {error}.")
            continue
        known.add(number)
        if len(chosen) < index.info.n_episodes:  # those after it are of a writer that was killed
            chosen.append(row)
    return chosen
