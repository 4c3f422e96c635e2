"""Putting episodes that wait into a LeRobotDataset.

Tables, videos and lines are written first, and last `meta/info.json`, whose totals count what is
valid. What a kill leaves beyond the totals is written again by the next writer, under the same
names.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libero_reward_envs.data.episodes import EpisodeSummary
from libero_reward_envs.data.lerobot.encoding import (
    EpisodeLayout,
    describe_features,
    join_tables,
    make_tasks_table,
    write_table,
)
from libero_reward_envs.data.lerobot.info import INFO_FILE, read_json
from libero_reward_envs.data.lerobot.parquet_rows import import_pyarrow
from libero_reward_envs.data.lerobot.records import (
    FINAL_FOLDER,
    HEADER_FILE,
    RECORDS_FILE,
    Record,
    make_header,
)
from libero_reward_envs.data.lerobot.staging import (
    DATA_FILE,
    FINAL_FILE,
    PendingEpisode,
    append_lines,
    move_file,
    name_video,
    put_file,
)
from libero_reward_envs.data.lerobot.stats import COUNT, join_stats
from libero_reward_envs.data.lerobot.v2 import EPISODES_FILE
from libero_reward_envs.data.lerobot.v3 import EPISODES_FOLDER
from libero_reward_envs.data.lerobot.video_frames import join_videos

CHUNKS_SIZE = 1000  # files, in v2 episodes, in a folder
MAX_DATA_MB = 100  # of the tables that are written together
MAX_VIDEO_MB = 200
TASKS_V2 = "meta/tasks.jsonl"
TASKS_V3 = "meta/tasks.parquet"
STATS_V2 = "meta/episodes_stats.jsonl"
STATS_V3 = "meta/stats.json"
# What `begin_set` writes before the totals, which a kill may leave alone.
BEGINNING = (HEADER_FILE, RECORDS_FILE, TASKS_V2, STATS_V2, EPISODES_FILE)
_V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_V3_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_V3_DATA = f"data/{_V3_FILE}.parquet"
_V3_VIDEO = f"videos/{{video_key}}/{_V3_FILE}.mp4"
_COUNTED = "frame_index"  # whose count of statistics is that of all steps


@dataclass
class SetState:
    """What is in a set, without the episodes that wait.

    Attributes:
        folder: The set's.
        version: "v2.1" or "v3.0".
        fps: Steps a second.
        codec: Of the videos.
        layout: Of its episodes.
        n_episodes: How many there are.
        n_frames: How many steps they have.
        tasks: What they were told, each once.
        next_file: The number of the next table, in v3.
    """

    folder: Path
    version: str
    fps: int
    codec: str
    layout: EpisodeLayout
    n_episodes: int = 0
    n_frames: int = 0
    tasks: list[str] = dataclasses.field(default_factory=list)
    next_file: int = 0


def begin_set(state: SetState) -> None:
    """Write an empty set, so that a kill before the first episode is put in leaves its layout."""
    _put_bytes(state, HEADER_FILE, make_header(_list_observations(state.layout)))
    (state.folder / RECORDS_FILE).touch()
    if state.version == "v2.1":
        for name in (TASKS_V2, STATS_V2, EPISODES_FILE):
            (state.folder / name).touch()
    _put_bytes(state, INFO_FILE, json.dumps(_make_info(state), indent=4).encode())


def commit_episodes(state: SetState, waiting: Sequence[PendingEpisode]) -> None:
    """Put episodes into the set; `state` is what is there then.

    Raises:
        OSError: If something cannot be written; the set is as it was, and the episodes wait.
    """
    tasks = list(state.tasks)
    tasks += dict.fromkeys(e.about["text"] for e in waiting if e.about["text"] not in tasks)
    commit = _commit_v2 if state.version == "v2.1" else _commit_v3
    commit(state, waiting, tasks)
    done = dataclasses.replace(
        state,
        n_episodes=state.n_episodes + len(waiting),
        n_frames=state.n_frames + sum(e.about["length"] for e in waiting),
        tasks=tasks,
    )
    _put_bytes(state, INFO_FILE, json.dumps(_make_info(done), indent=4).encode())
    vars(state).update(vars(done))
    state.next_file += 1


def _commit_v2(state: SetState, waiting: Sequence[PendingEpisode], tasks: list[str]) -> None:
    records, stats, lines = [], [], []
    for episode in waiting:
        number = episode.number
        where = {"episode_chunk": number // CHUNKS_SIZE, "episode_index": number}
        data = _V2_DATA.format(**where)
        final = f"{FINAL_FOLDER}/{data.removeprefix('data/')}"
        moves = [(DATA_FILE, data), (FINAL_FILE, final)]
        for position, feature in enumerate(state.layout.videos.values()):
            path = _V2_VIDEO.format(**where, video_key=feature.name)
            moves.append((name_video(position), path))
        for name, path in moves:
            if (episode.folder / name).exists():  # else a kill came after it was moved
                move_file(episode.folder / name, state.folder / path)
        about = episode.about
        records.append(_make_record(about, final, 0).as_line(number))
        stats.append(_as_line({"episode_index": number, "stats": about["stats"]}))
        told = {"episode_index": number, "tasks": [about["text"]], "length": about["length"]}
        lines.append(_as_line(told))
    new = enumerate(tasks[len(state.tasks) :], start=len(state.tasks))
    task_lines = [_as_line({"task_index": index, "task": task}) for index, task in new]
    append_lines(state.folder / TASKS_V2, task_lines)
    append_lines(state.folder / RECORDS_FILE, records)
    append_lines(state.folder / STATS_V2, stats)
    append_lines(state.folder / EPISODES_FILE, lines)


def _commit_v3(state: SetState, waiting: Sequence[PendingEpisode], tasks: list[str]) -> None:
    folder = state.folder
    where = {
        "chunk_index": state.next_file // CHUNKS_SIZE,
        "file_index": state.next_file % CHUNKS_SIZE,
    }
    data, table = _V3_DATA.format(**where), f"{_V3_FILE.format(**where)}.parquet"
    final = f"{FINAL_FOLDER}/{table}"
    for name, path in ((DATA_FILE, data), (FINAL_FILE, final)):
        parts = [episode.folder / name for episode in waiting]
        put_file(folder, folder / path, join_tables(parts))
    rows = _list_rows(state, waiting, where)
    for position, feature in enumerate(state.layout.videos.values()):
        parts = [episode.folder / name_video(position) for episode in waiting]
        starts: list[float] = []
        put_file(
            folder,
            folder / _V3_VIDEO.format(**where, video_key=feature.name),
            lambda path, parts=parts, starts=starts: starts.extend(
                join_videos(path, parts, state.fps)
            ),
        )
        for row, start in zip(rows, starts, strict=True):
            prefix = f"videos/{feature.name}"
            row.update({f"{prefix}/{name}": number for name, number in where.items()})
            row[f"{prefix}/from_timestamp"] = start
            row[f"{prefix}/to_timestamp"] = start + row["length"] / state.fps
    pyarrow = import_pyarrow()
    _put_table(state, f"{EPISODES_FOLDER}/{table}", pyarrow.Table.from_pylist(rows))
    _put_table(state, TASKS_V3, make_tasks_table(tasks))
    _put_stats(state, waiting)
    records = [
        _make_record(episode.about, final, row).as_line(episode.number)
        for row, episode in enumerate(waiting)
    ]
    append_lines(folder / RECORDS_FILE, records)


def _list_rows(
    state: SetState, waiting: Sequence[PendingEpisode], where: dict[str, int]
) -> list[dict[str, Any]]:
    """Return the rows of `meta/episodes`, without what concerns videos."""
    rows = []
    first_frame = state.n_frames
    for episode in waiting:
        about = episode.about
        row = {
            "episode_index": episode.number,
            "tasks": [about["text"]],
            "length": about["length"],
            **{f"data/{name}": number for name, number in where.items()},
            "dataset_from_index": first_frame,
            "dataset_to_index": first_frame + about["length"],
            **{f"meta/episodes/{name}": number for name, number in where.items()},
        }
        for feature, stats in about["stats"].items():
            row.update({f"stats/{feature}/{name}": value for name, value in stats.items()})
        rows.append(row)
        first_frame += about["length"]
    return rows


def _put_stats(state: SetState, waiting: Sequence[PendingEpisode]) -> None:
    path = state.folder / STATS_V3
    stats = read_json(path) if state.n_episodes else {}
    if stats and stats[_COUNTED][COUNT][0] != state.n_frames:
        return  # a kill came after they were joined, before the totals were written
    for episode in waiting:
        stats = join_stats(stats, episode.about["stats"])
    _put_bytes(state, STATS_V3, json.dumps(stats, indent=4).encode())


def _make_info(state: SetState) -> dict[str, Any]:
    """Return the content of `meta/info.json`."""
    n_videos = len(state.layout.videos)
    is_v2 = state.version == "v2.1"
    if is_v2:
        particular = {
            "total_videos": state.n_episodes * n_videos,
            "total_chunks": -(-state.n_episodes // CHUNKS_SIZE),
        }
    else:
        particular = {"data_files_size_in_mb": MAX_DATA_MB, "video_files_size_in_mb": MAX_VIDEO_MB}
    return {
        "codebase_version": state.version,
        "robot_type": None,
        "total_episodes": state.n_episodes,
        "total_frames": state.n_frames,
        "total_tasks": len(state.tasks),
        **particular,
        "chunks_size": CHUNKS_SIZE,
        "fps": state.fps,
        "splits": {"train": f"0:{state.n_episodes}"},
        "data_path": _V2_DATA if is_v2 else _V3_DATA,
        "video_path": (_V2_VIDEO if is_v2 else _V3_VIDEO) if n_videos else None,
        "features": describe_features(state.layout, state.fps, state.codec),
    }


def _list_observations(layout: EpisodeLayout) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {key: (f.name, layout.shapes[key]) for key, f in layout.observations.items()}


def _make_record(about: dict[str, Any], final_file: str, final_row: int) -> Record:
    return Record(EpisodeSummary(**about["summary"]), final_file, final_row)


def _put_table(state: SetState, name: str, table: Any) -> None:
    put_file(state.folder, state.folder / name, lambda path: write_table(path, table))


def _put_bytes(state: SetState, name: str, content: bytes) -> None:
    put_file(state.folder, state.folder / name, lambda path: _write_bytes(path, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _as_line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
