"""What a conversion has written so far, kept beside its result, so that a second run goes on."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data.episodes import EpisodeSummary
from libero_reward_envs.data.json_lines import append_json_line, read_json_lines
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance, read_provenance

_SETTINGS, _INDEX, _SKIPPED = "settings", "index", "skipped"
_SAME, _RETURN = ("length", "success", "instruction"), "episode_return"


class ConversionProgress:
    """The lines of `<out>.progress.jsonl`: the settings, then one an episode of the source.

    Formats keep too little of an episode, or in another order, to tell from a result which episodes
    of the source it holds. A line is written after its episode, so one more episode than lines may
    be there after a kill.

    Args:
        path: What the writer writes.
        settings: All that the result depends on, as JSON would hold it.
        n_there: The episodes that the writer has; with none, what an earlier file tells is over.

    Attributes:
        skipped: Why episodes of the source were left out, by their index there.
        lacks_line: Whether the last episode that was written has no line.

    Raises:
        ValueError: If the file tells of other settings, or of more or fewer episodes.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], n_there: int) -> None:
        target = Path(path).resolve()
        self._path = target.with_name(target.name + ".progress.jsonl")
        self._target = target
        wanted = json.loads(json.dumps(dict(settings)))  # tuples become lists, as in the file
        lines = read_json_lines(self._path) if n_there else []
        if n_there:
            self._check_settings(lines[0].get(_SETTINGS) if lines else None, wanted)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, [json.dumps({_SETTINGS: wanted}).encode() + b"\n"])
        indices: list[Any] = [row.get(_INDEX) for row in lines[1:]]
        if any(type(index) is not int for index in indices) or indices != sorted(set(indices)):
            raise ValueError(f"{str(self._path)!r} is damaged: its lines are in no order.")
        self._rows = [row for row in lines[1:] if _SKIPPED not in row]
        self.skipped = {row[_INDEX]: str(row[_SKIPPED]) for row in lines[1:] if _SKIPPED in row}
        self._next = 1 + indices[-1] if indices else 0
        self.lacks_line = n_there == len(self._rows) + 1
        if n_there != len(self._rows) and not self.lacks_line:
            raise ValueError(
                f"{str(self._path)!r} tells of {len(self._rows)} episodes, but {n_there} are in "
                f"{str(target)!r}. Choose another path, or remove both."
            )

    @property
    def next_index(self) -> int:
        """The first episode of the source that no line tells of."""
        return self._next

    def check_source(self, summaries: Sequence[EpisodeSummary]) -> None:
        """Raise ValueError unless the episodes that were written are those of a source."""
        for row in self._rows:
            index = row[_INDEX]
            found = _identify(summaries[index]) if index < len(summaries) else {}
            told = {name: row.get(name) for name in (*_SAME, _RETURN)}
            returns = [float(part.get(_RETURN) or 0) for part in (told, found)]  # sums of float32
            same = found and all(told[name] == found[name] for name in _SAME)
            if not same or not math.isclose(*returns, rel_tol=1e-4, abs_tol=1e-4):
                raise ValueError(
                    f"Episode {index} of {str(self._target)!r} is not that of the source: {told} "
                    f"there, {found or 'none'} here. Choose another path, or remove this one."
                )

    def iterate_provenance(self) -> Iterator[Provenance]:
        """Yield that of each episode that was written.

        Raises:
            ValueError: If one is none.
        """
        for row in self._rows:
            provenance = read_provenance(row)
            if provenance is not None:
                yield provenance

    def add(self, index: int, source: EpisodeSummary, provenance: Mapping[str, Any]) -> None:
        """Note an episode that was written.

        Args:
            index: In the source.
            source: What it is there.
            provenance: What it was written with.
        """
        self._append({_INDEX: index, **_identify(source), PROVENANCE_KEY: dict(provenance)})

    def skip(self, index: int, reason: str) -> None:
        """Note an episode that cannot be read."""
        self.skipped[index] = reason
        self._append({_INDEX: index, _SKIPPED: reason})

    def _append(self, row: Mapping[str, Any]) -> None:
        append_json_line(self._path, row)
        self._next = row[_INDEX] + 1

    def _check_settings(self, there: Any, wanted: dict[str, Any]) -> None:
        if not isinstance(there, dict):
            raise ValueError(
                f"{str(self._target)!r} holds episodes, but {str(self._path)!r}, which tells of "
                "which source they are, is not there. Choose another path, or remove this one."
            )
        names = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
        if names:
            told = "; ".join(f"{key} {there.get(key)!r}, not {wanted.get(key)!r}" for key in names)
            raise ValueError(
                f"{str(self._target)!r} was begun with other settings: {told}. Give the same ones, "
                "choose another path, or remove this one."
            )


def _identify(summary: EpisodeSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in (*_SAME, _RETURN)}
