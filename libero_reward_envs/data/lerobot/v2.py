"""LeRobotDataset v2: a table and a video a camera for each episode, and JSON lines about them.

`meta/episodes.jsonl` has a line an episode with `episode_index`, `tasks` and `length`;
`meta/tasks.jsonl` and `meta/episodes_stats.jsonl` are not needed for reading.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.lerobot.index import EpisodeIndex, TaskTexts, check_length
from libero_reward_envs.data.lerobot.info import LerobotInfo

EPISODES_FILE = "meta/episodes.jsonl"
_MAX_LINE_BYTES = 2**24


def index_v2(info: LerobotInfo, damage: list[str]) -> EpisodeIndex:
    """Read where the episodes of a set lie.

    Args:
        info: Of the set.
        damage: Where to tell of what is wrong; the episodes that it concerns are left out.

    Raises:
        FileNotFoundError: If `meta/episodes.jsonl` is not there.
    """
    path = info.folder / EPISODES_FILE
    numbers, lengths, texts = [], [], TaskTexts()
    known: set[int] = set()
    for position, line in enumerate(read_lines(path)):
        if position >= info.n_episodes:  # of a writer that was killed, or that writes now
            break
        try:
            number, length, tasks = _parse_line(line)
            if number in known:
                raise ValueError(f"episode {number} is there twice")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            damage.append(f"Cannot read {str(path)!r}, line {position + 1}: {reason}.")
            continue
        known.add(number)
        numbers.append(number)
        lengths.append(length)
        texts.append(tasks)
    if len(numbers) < info.n_episodes:
        damage.append(
            f"Cannot read {str(path)!r}: {len(numbers)} episodes are listed, {info.name_file()} "
            f"promises {info.n_episodes}."
        )
    return EpisodeIndex(
        info,
        np.array(numbers, np.int64),
        np.array(lengths, np.int64),
        np.zeros(len(numbers), np.int64),
        texts,
    )


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, none of them longer than 16 MiB.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If a line is longer.
    """
    with open(path, "rb") as file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            if len(line) > _MAX_LINE_BYTES:
                raise ValueError(
                    f"Cannot read {str(path)!r}: a line is longer than {_MAX_LINE_BYTES} bytes."
                )
            yield line


def _parse_line(line: bytes) -> tuple[int, int, list[str]]:
    content: Any = json.loads(line)
    number, length, tasks = content["episode_index"], content["length"], content.get("tasks", [])
    if type(number) is not int or type(length) is not int or not 0 <= number < 2**53:
        raise ValueError(f"expected numbers, got episode {number!r} of {length!r} steps")
    check_length(number, length)
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise ValueError(f"expected `tasks` of episode {number} as texts, got {tasks!r}")
    return number, length, tasks
