"""Going on with a LeRobotDataset that was written before."""

import json
import os
from pathlib import Path

from libero_reward_envs.data.lerobot.commit import STATS_V2, TASKS_V2, TASKS_V3, SetState
from libero_reward_envs.data.lerobot.encoding import EpisodeLayout
from libero_reward_envs.data.lerobot.info import INFO_FILE, LerobotInfo, read_info, read_json
from libero_reward_envs.data.lerobot.parquet_rows import ParquetRows
from libero_reward_envs.data.lerobot.records import RECORDS_FILE, Records, find_lines
from libero_reward_envs.data.lerobot.v2 import EPISODES_FILE, read_lines
from libero_reward_envs.data.lerobot.v3 import index_v3

_VERSIONS = ("v2.1", "v3.0")


def reopen_set(folder: Path) -> SetState:
    """Return what is in a set of `LerobotWriter`.

    Lines behind those that `meta/info.json` counts, which a kill left behind, are removed.

    Raises:
        ValueError: If it is another program's, or damaged.
    """
    info = read_info(folder)
    records = Records(info)
    if not records.keys or len(records) < info.n_episodes or info.version not in _VERSIONS:
        raise ValueError(
            f"The set in {str(folder)!r} has {info.n_episodes} episodes, {len(records)} of them "
            "written by this package. Only its own sets are gone on with: write to another folder."
        )
    state = SetState(
        folder,
        info.version,
        int(info.fps),
        _find_codec(folder),
        _make_layout(info, records),
        info.n_episodes,
        info.n_frames,
    )
    _cut(folder / RECORDS_FILE, info.n_episodes)
    if info.major == 2:
        _cut(folder / EPISODES_FILE, info.n_episodes)
        _cut(folder / STATS_V2, info.n_episodes)
        _cut(folder / TASKS_V2, info.n_tasks or 0)
        state.tasks = [json.loads(line)["task"] for line in read_lines(folder / TASKS_V2)]
    elif info.n_episodes:
        with ParquetRows(folder / TASKS_V3) as rows:
            state.tasks = rows.read_values("task", 0, info.n_tasks or 0)
        damage: list[str] = []
        data = index_v3(info, damage).data
        if damage or data is None:
            raise ValueError(damage[0])
        state.next_file = 1 + int((data.chunks * info.chunks_size + data.files).max())
    return state


def _make_layout(info: LerobotInfo, records: Records) -> EpisodeLayout:
    observations = {key: info.features[name] for name, key in records.keys.items()}
    shapes = {key: records.shapes[name] for name, key in records.keys.items()}
    return EpisodeLayout(observations, shapes, info.features["action"].shape[0])


def _find_codec(folder: Path) -> str:
    """Return the codec of the set's videos; without videos, any."""
    features = read_json(folder / INFO_FILE)["features"].values()
    codecs = {f["info"]["video.codec"] for f in features if f["dtype"] == "video"}
    return codecs.pop() if codecs else "h264"


def _cut(path: Path, n_lines: int) -> None:
    ends = find_lines(path)
    if len(ends) - 1 < n_lines:
        raise ValueError(
            f"Expected {n_lines} lines in {str(path)!r}, got {len(ends) - 1}: it is damaged."
        )
    if path.stat().st_size != ends[n_lines]:
        os.truncate(path, int(ends[n_lines]))
