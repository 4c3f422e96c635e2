"""Writing episodes as a LeRobotDataset."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.file_locks import lock_folder
from libero_reward_envs.data.lerobot.commit import (
    BEGINNING,
    MAX_DATA_MB,
    SetState,
    begin_set,
    commit_episodes,
)
from libero_reward_envs.data.lerobot.encoding import (
    EpisodeNumbers,
    list_features,
    make_columns,
    make_layout,
    make_table,
    write_table,
)
from libero_reward_envs.data.lerobot.info import INFO_FILE
from libero_reward_envs.data.lerobot.parquet_rows import import_pyarrow
from libero_reward_envs.data.lerobot.reopen import reopen_set
from libero_reward_envs.data.lerobot.staging import (
    DATA_FILE,
    FINAL_FILE,
    PendingEpisode,
    name_video,
    open_pending,
    remove_pending,
    stage_episode,
)
from libero_reward_envs.data.lerobot.stats import compute_stats
from libero_reward_envs.data.lerobot.video_frames import WRITTEN_CODECS, import_av, write_video
from libero_reward_envs.data.provenance import read_provenance

VERSIONS = ("v2.1", "v3.0")
# In v3 the row groups of a table, of which more make its footer slow to read. In v2 every episode
# has its own files; to force the lines about them to disk costs as much for one as for many.
_MAX_WAITING = {"v2.1": 16, "v3.0": 256}


class LerobotWriter(ClosedAtExit):
    """Writes a LeRobotDataset that lerobot reads, and from which `LerobotSource` reads all.

    Numbers are stored exactly. With `video`, images lose a little: 2 to 3 of 255 on average on
    LIBERO frames, much more at single pixels of sharp edges; the last image of each episode is
    exact. Without, they are PNG, exact and several times larger. What the format lacks stands in
    files that lerobot passes over, see `records.py`.

    Each episode is written whole to a folder of its own, forced to disk, and waits there to be put
    into the set with others: when there are enough for a table or video of v3.0, and by `close`. A
    kill loses no finished episode: the next writer puts in those that wait.

    Args:
        folder: The set's folder; made if it is not there, else gone on with.
        version: "v3.0" or "v2.1".
        fps: Steps a second, a whole number; None for `control_freq_hz` of the first episode's
            provenance, or 20, LIBERO's rate, where that is unknown.
        video: Whether images become videos.
        codec: "h264", or "av1" as lerobot has it by default.

    Raises:
        ValueError: If an argument is not valid, or the set there is another program's, damaged, or
            of another version, rate or kind of images.
        RuntimeError: If another writer has the folder open.
        ImportError: If PyArrow, or for videos PyAV, is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        version: str = "v3.0",
        fps: int | None = None,
        video: bool = True,
        codec: str = "h264",
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"`version` must be one of {', '.join(VERSIONS)}, got {version!r}.")
        if codec not in WRITTEN_CODECS:
            raise ValueError(f"`codec` must be one of {', '.join(WRITTEN_CODECS)}, got {codec!r}.")
        if fps is not None and (fps != int(fps) or not 0 < fps <= 1000):
            raise ValueError(f"`fps` must be a whole number of 1 to 1000, got {fps!r}.")
        import_pyarrow()
        if video:
            import_av()
        self._folder = Path(folder)
        self._version, self._fps, self._video, self._codec = version, fps, video, codec
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self._folder)
        self._is_open = True
        try:
            self._waiting: list[PendingEpisode] = []
            self._state = self._open_state()
            self._waiting = open_pending(self._folder, len(self))
            self._flush()
        except BaseException:
            self._release()
            raise

    def __len__(self) -> int:
        """The number of episodes in the set, with those that wait."""
        there = 0 if self._state is None else self._state.n_episodes
        return there + len(self._waiting)

    def append(self, episode: Episode) -> None:
        """Add one episode; once this returns, a kill or a power cut no longer loses it.

        Raises:
            OSError: If it cannot be written; what was written before stays, and the writer can be
                used on. Or if those that wait cannot be put in: the writer is closed then, they
                still wait, this one too, and the next writer puts them in.
            ValueError: If it does not fit the episodes before it, or cannot be stored.
        """
        if not self._is_open:
            raise RuntimeError(f"The writer of {str(self._folder)!r} is closed.")
        if self._state is None:
            self._state = self._begin(episode)
        state = self._state
        _check_fits(state, episode)
        text = episode.instruction or episode.task
        tasks = [*state.tasks, *dict.fromkeys(e.about["text"] for e in self._waiting)]
        tasks = list(dict.fromkeys([*tasks, text]))
        waiting_frames = sum(e.about["length"] for e in self._waiting)
        numbers = EpisodeNumbers(len(self), state.n_frames + waiting_frames, tasks.index(text))
        columns = make_columns(state.layout, episode, numbers, state.fps)
        about = {
            "text": text,
            "length": len(episode),
            "summary": dataclasses.asdict(episode.summary()),
            "stats": compute_stats(
                state.layout.features, columns, quantiles=state.version == "v3.0"
            ),
        }
        self._waiting.append(
            stage_episode(
                self._folder,
                numbers.episode,
                about,
                lambda path: _write_files(path, state, episode, columns),
            )
        )
        n_bytes = sum(waiting.n_bytes for waiting in self._waiting)
        if len(self._waiting) >= _MAX_WAITING[state.version] or n_bytes >= MAX_DATA_MB * 2**20:
            self._flush()

    def close(self) -> None:
        """Put the episodes that wait into the set. Calling it again does nothing.

        Raises:
            OSError: If they cannot be put in. They still wait, and the next writer puts them in.
        """
        if not self._is_open:
            return
        try:
            self._flush()
        finally:
            self._release()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._state is None:
            raise ValueError(
                f"Episodes wait in {str(self._folder)!r}, but there is no {INFO_FILE} of the set "
                "that they are to be put into."
            )
        try:
            commit_episodes(self._state, self._waiting)
        except BaseException:
            self._release()  # what is half done is put right when the set is opened again
            raise
        remove_pending(self._waiting)
        self._waiting = []

    def _release(self) -> None:
        if self._is_open and self._lock is not None:
            os.close(self._lock)
        self._is_open = False

    def _begin(self, episode: Episode) -> SetState:
        """Begin an empty set that fits its first episode."""
        fps = self._fps
        if fps is None:
            provenance = read_provenance(episode.metadata)
            known = None if provenance is None else provenance.control_freq_hz
            fps = 20 if known is None else known
            if fps != int(fps) or fps <= 0:
                raise ValueError(
                    f"lerobot counts whole frames a second, the episode has {fps} Hz. Give `fps`."
                )
        layout = make_layout(episode, video=self._video)
        state = SetState(self._folder, self._version, int(fps), self._codec, layout)
        begin_set(state)
        return state

    def _open_state(self) -> SetState | None:
        """Return what is in the folder, with what a kill left behind it cut off."""
        if not (self._folder / INFO_FILE).exists():
            files = {p.relative_to(self._folder) for p in self._folder.rglob("*") if p.is_file()}
            if others := files - set(map(Path, BEGINNING)):
                raise ValueError(
                    f"{str(self._folder)!r} holds {', '.join(map(str, sorted(others)[:3]))} and no "
                    "set. "
                    "Choose an empty folder, or another name."
                )
            return None
        state = reopen_set(self._folder)
        kinds = {f.dtype for f in state.layout.observations.values() if f.is_image}
        found = {"version": state.version, "fps": state.fps, "video": "video" in kinds}
        asked = {"version": self._version, "fps": self._fps or state.fps, "video": self._video}
        if not kinds:
            asked["video"] = found["video"]
        if found != asked:
            raise ValueError(
                f"The set in {str(self._folder)!r} has {found}, asked for is {asked}. Give the "
                "same arguments, or choose another folder."
            )
        return state


def _check_fits(state: SetState, episode: Episode) -> None:
    layout = state.layout
    found = {
        key: (value.shape[1:], value.dtype.newbyteorder("=").name)
        for key, value in episode.observations.items()
    }
    expected = {
        key: (layout.shapes[key], "uint8" if feature.is_image else feature.dtype)
        for key, feature in layout.observations.items()
    }
    if found != expected or episode.actions.shape[1] != layout.n_actions:
        raise ValueError(
            f"Expected an episode with {expected} and actions of {layout.n_actions} dimensions, "
            f"as those before it, got {found} and {episode.actions.shape[1]}. All episodes of a "
            "set are alike: choose another folder, or leave observations out."
        )
    provenance = read_provenance(episode.metadata)
    rate = None if provenance is None else provenance.control_freq_hz
    if rate is not None and rate != state.fps:
        raise ValueError(
            f"The episode has {rate} steps a second, the set {state.fps}. Give `fps` of the "
            "episodes, or correct `control_freq_hz` of their provenance."
        )


def _write_files(
    folder: Path, state: SetState, episode: Episode, columns: Mapping[str, np.ndarray]
) -> None:
    layout = state.layout
    features = list_features(layout, final=False)
    write_table(folder / DATA_FILE, make_table(features, columns))
    last = {f.name: episode.observations[key][-1:] for key, f in layout.observations.items()}
    write_table(folder / FINAL_FILE, make_table(list_features(layout, final=True), last))
    for position, feature in enumerate(layout.videos.values()):
        path = folder / name_video(position)
        write_video(path, columns[feature.name], state.fps, state.codec)
