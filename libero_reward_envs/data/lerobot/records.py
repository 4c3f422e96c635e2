"""What an `Episode` has and a LeRobotDataset lacks, in files beside it that lerobot passes over.

`meta/libero_reward_envs.json` says which feature each observation is and which shape it has;
`meta/libero_reward_envs.jsonl` has a line an episode, in the order of their numbers: outcome, task,
instruction, metadata, and the table and row that hold its last observation, o_T. Those tables lie
in `meta/final_observations`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from libero_reward_envs.data.episodes import EpisodeSummary
from libero_reward_envs.data.lerobot.info import LerobotInfo, read_json, stay_inside

HEADER_FILE = "meta/libero_reward_envs.json"
RECORDS_FILE = "meta/libero_reward_envs.jsonl"
FINAL_FOLDER = "meta/final_observations"
FORMAT_VERSION = 1
_MAX_RECORD_BYTES = 2**24
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Record:
    """What is known of one episode beside its table.

    Attributes:
        summary: Of the episode.
        final_file: The table that holds its last observation, below the set's folder.
        final_row: The row in it.
    """

    summary: EpisodeSummary
    final_file: str
    final_row: int

    def as_line(self, number: int) -> bytes:
        """Return the line of episode `number`."""
        names = ("length", "episode_return", "terminated", "success", "task", "instruction")
        content = {
            "episode_index": number,
            **{name: getattr(self.summary, name) for name in names},
            "metadata": dict(self.summary.metadata),
            "final_file": self.final_file,
            "final_row": self.final_row,
        }
        return json.dumps(content).encode() + b"\n"


class Records:
    """The records of a set, of which a line is read when it is needed.

    Args:
        info: Of the set.

    Attributes:
        keys: The key of each observation, by feature; empty without a header.
        shapes: The shape of a step of each observation, by feature.

    Raises:
        ValueError: If the header is damaged, or of a later version.
    """

    def __init__(self, info: LerobotInfo) -> None:
        self._info = info
        self._path = stay_inside(info.folder, RECORDS_FILE)
        self.keys: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._offsets = np.zeros(1, np.int64)
        header = stay_inside(info.folder, HEADER_FILE)
        if header.exists() and self._path.exists():
            self._read_header(header)
            self._offsets = find_lines(self._path)

    def __len__(self) -> int:
        """The number of episodes that have a record."""
        return len(self._offsets) - 1

    def read(self, number: int, length: int) -> Record | None:
        """Return the record of episode `number`, None if there is none.

        Raises:
            ValueError: If it is damaged, or of another episode.
        """
        return next(self.read_several([number], [length]))

    def read_several(
        self, numbers: Sequence[int], lengths: Sequence[int]
    ) -> Iterator[Record | None]:
        """Yield the records of some episodes, None for one that has none.

        Raises:
            ValueError: If one is damaged, or of another episode.
        """
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(self._path, "rb")) if len(self) else None
            for number, length in zip(numbers, lengths, strict=True):
                if file is None or not 0 <= number < len(self):
                    yield None
                else:
                    yield self._read_line(file, number, length)

    def final_path(self, record: Record) -> Path:
        """Return where the last observation of an episode lies.

        Raises:
            ValueError: If it leads out of the set.
        """
        return stay_inside(self._info.folder, record.final_file)

    def _read_line(self, file: IO[bytes], number: int, length: int) -> Record:
        start, stop = self._offsets[number : number + 2].tolist()
        if stop - start > _MAX_RECORD_BYTES:
            raise ValueError(f"Cannot read {str(self._path)!r}: line {number + 1} is too long.")
        file.seek(start)
        try:
            return _parse_record(json.loads(file.read(stop - start)), number, length)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"Cannot read {str(self._path)!r}, episode {number}: {reason}."
            ) from error

    def _read_header(self, path: Path) -> None:
        header = read_json(path)
        try:
            if header["format_version"] > FORMAT_VERSION:
                raise ValueError(f"format version {header['format_version']} is a later one")
            for key, entry in header["observations"].items():
                feature = entry["feature"]
                if feature not in self._info.features:
                    raise ValueError(f"no feature {feature!r} of observation {key!r}")
                self.keys[feature] = key
                self.shapes[feature] = tuple(int(size) for size in entry["shape"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Cannot read {str(path)!r}: {error}.") from error


def make_header(observations: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the header for feature and shape of a step of each observation, by key."""
    content = {
        "format_version": FORMAT_VERSION,
        "observations": {
            key: {"feature": feature, "shape": list(shape)}
            for key, (feature, shape) in observations.items()
        },
    }
    return json.dumps(content, indent=2).encode()


def find_lines(path: Path) -> np.ndarray:
    """Return where the whole lines of a file begin, and where the last one ends; shape (n + 1,)."""
    offsets = [np.zeros(1, np.int64)]
    position = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
            offsets.append(ends + (position + 1))
            position += len(piece)
    return np.concatenate(offsets)


def _parse_record(content: Any, number: int, length: int) -> Record:
    if (content["episode_index"], content["length"]) != (number, length):
        raise ValueError(
            f"it is of episode {content['episode_index']} of {content['length']} steps, expected "
            f"{length} steps. The set was changed by another program: remove the file, and "
            "outcome and last observations are gone"
        )
    kinds = {"terminated": bool, "success": bool, "task": str, "instruction": str, "metadata": dict}
    for name, kind in {**kinds, "final_file": str, "final_row": int}.items():
        if type(content[name]) is not kind:
            raise ValueError(f"expected {kind.__name__} for {name!r}, got {content[name]!r}")
    summary = EpisodeSummary(
        length=length,
        episode_return=float(content["episode_return"]),
        **{name: content[name] for name in kinds},
    )
    return Record(summary, content["final_file"], content["final_row"])
