"""Where the episodes of a LeRobotDataset lie, in arrays that take a few bytes an episode."""

import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from libero_reward_envs.data.lerobot.info import MAX_STEPS, LerobotInfo


@dataclass(frozen=True)
class EpisodePlace:
    """Where one episode lies.

    Attributes:
        number: Its `episode_index`.
        length: Steps.
        data_file: The table.
        first_row: Its first row in the table.
        videos: By feature, the file and the time of the first frame in it, in seconds.
    """

    number: int
    length: int
    data_file: Path
    first_row: int
    videos: dict[str, tuple[Path, float]]


@dataclass
class FileNumbers:
    """In which file each episode lies; arrays of shape (n,), int64."""

    chunks: np.ndarray
    files: np.ndarray


@dataclass
class EpisodeIndex:
    """The episodes of a set.

    Attributes:
        info: Of the set.
        numbers: `episode_index` of each, shape (n,), int64.
        lengths: Steps of each, shape (n,), int64.
        first_rows: The first row of each in its table, shape (n,), int64.
        data: The table of each; None in v2, where it follows from the number.
        videos: By feature, the video of each; empty in v2.
        video_starts_s: By feature, the time of the first frame of each, shape (n,), float64.
        tasks: What each was told, in a table of texts.
    """

    info: LerobotInfo
    numbers: np.ndarray
    lengths: np.ndarray
    first_rows: np.ndarray
    tasks: "TaskTexts"
    data: FileNumbers | None = None
    videos: dict[str, FileNumbers] = field(default_factory=dict)
    video_starts_s: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.numbers)

    def place(self, row: int) -> EpisodePlace:
        """Return where an episode lies.

        Raises:
            ValueError: If a path leads out of the set.
        """
        info, number = self.info, int(self.numbers[row])
        keys = [name for name, feature in info.features.items() if feature.dtype == "video"]
        if self.data is None:
            chunk = {"episode_chunk": number // info.chunks_size, "episode_index": number}
            chunk["total_episodes"] = info.n_episodes
            data_file = info.data_file(**chunk)
            videos = {key: (info.video_file(key, **chunk), 0.0) for key in keys}
        else:
            data_file = info.data_file(
                chunk_index=int(self.data.chunks[row]), file_index=int(self.data.files[row])
            )
            videos = {key: self._place_video(key, row) for key in keys}
        return EpisodePlace(
            number, int(self.lengths[row]), data_file, int(self.first_rows[row]), videos
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other episodes."""
        chosen = np.array(rows, np.int64)
        files = [*self.videos.values(), *([] if self.data is None else [self.data])]
        for numbers in files:
            numbers.chunks, numbers.files = numbers.chunks[chosen], numbers.files[chosen]
        self.video_starts_s = {key: v[chosen] for key, v in self.video_starts_s.items()}
        self.numbers, self.lengths = self.numbers[chosen], self.lengths[chosen]
        self.first_rows = self.first_rows[chosen]
        self.tasks.keep(rows)

    def _place_video(self, key: str, row: int) -> tuple[Path, float]:
        numbers = self.videos[key]
        path = self.info.video_file(
            key, chunk_index=int(numbers.chunks[row]), file_index=int(numbers.files[row])
        )
        return path, float(self.video_starts_s[key][row])


class TaskTexts:
    """What episodes were told; a text that many share is held once."""

    def __init__(self) -> None:
        self._codes = array.array("q")
        self._texts: list[tuple[str, ...]] = []
        self._known: dict[tuple[str, ...], int] = {}

    def append(self, texts: Sequence[str]) -> None:
        """Add an episode."""
        code = self._known.setdefault(tuple(texts), len(self._texts))
        if code == len(self._texts):
            self._texts.append(tuple(texts))
        self._codes.append(code)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other episodes."""
        self._codes = array.array("q", [self._codes[row] for row in rows])

    def __getitem__(self, row: int) -> tuple[str, ...]:
        """The texts of an episode."""
        return self._texts[self._codes[row]]


def check_length(number: int, length: int) -> None:
    """Refuse what cannot be the length of an episode.

    Raises:
        ValueError: If it is none.
    """
    if not 0 < length <= MAX_STEPS:
        raise ValueError(f"episode {number} has {length} steps, expected 1 to {MAX_STEPS}")
