"""What became of each episode that was played again, and the file that says it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.formats import load_episodes
from libero_reward_envs.data.json_lines import append_json_line, read_json_lines
from libero_reward_envs.data.provenance import read_provenance

SOURCE_INDEX_KEY = "source_episode"  # of a written episode's metadata
_N_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What became of one episode.

    Attributes:
        index: In the source.
        n_steps: Its steps there.
        n_kept: Steps that were played again.
        success_before: Whether it was a success.
        success_after: Whether the task is solved after the last step now.
        kept: Whether it was written.
        error: Why it could not be played, or "".
    """

    index: int
    n_steps: int
    n_kept: int
    success_before: bool
    success_after: bool
    kept: bool
    error: str = ""


def describe_report(rows: Sequence[Replayed]) -> str:
    """Return a few lines on what became of the episodes."""
    n_kept_steps = sum(row.n_kept for row in rows)
    n_steps = sum(row.n_steps for row in rows)
    lost = [row for row in rows if row.success_before and not row.success_after]
    lines = [
        f"{len(rows)} episodes played again, {n_kept_steps} of {n_steps} steps kept.",
        f"{sum(row.success_after for row in rows)} succeed now, "
        f"{sum(row.success_before for row in rows)} did before; {sum(row.kept for row in rows)} "
        "written.",
    ]
    if lost:
        numbers = ", ".join(str(row.index) for row in lost[:20])
        lines.append(f"Successes before that fail now: {numbers}{', ...' * (len(lost) > 20)}.")
    failed = [row for row in rows if row.error]
    lines += [f"Episode {row.index} could not be played: {row.error}" for row in failed[:_N_SHOWN]]
    if len(failed) > _N_SHOWN:
        lines.append(f"And {len(failed) - _N_SHOWN} more could not.")
    return "\n".join(lines)


def read_report(path: Path) -> dict[int, Replayed]:
    """Return what a report says, by index; of an episode that was played twice, what came last.

    Raises:
        ValueError: If a line is none of a report.
    """
    rows = {}
    for number, line in enumerate(read_json_lines(path), start=1):
        try:
            row = Replayed(**line)
        except TypeError as error:
            raise ValueError(f"Cannot read line {number} of {str(path)!r}: {error}.") from error
        rows[row.index] = row
    return rows


def append_to_report(path: Path, row: Replayed) -> None:
    """Add a line."""
    append_json_line(path, dataclasses.asdict(row))


def find_written(path: str | Path, n_there: int) -> dict[int, EpisodeSummary]:
    """Return the episodes that are there, by their index in the source."""
    found: dict[int, EpisodeSummary] = {}
    for summary in load_episodes(path).summaries() if n_there else ():
        index = summary.metadata.get(SOURCE_INDEX_KEY)
        if type(index) is not int or index in found:
            raise ValueError(
                f"Expected episodes in {str(path)!r} that each say which of the source they are "
                f"({SOURCE_INDEX_KEY!r}), got one that says {index!r}: it is no file of a "
                "regeneration. Choose another path."
            )
        found[index] = summary
    return found


def check_report(
    report: Path,
    done: Mapping[int, Replayed],
    there: Mapping[int, EpisodeSummary],
    summaries: list[EpisodeSummary],
) -> None:
    """Raise ValueError unless a report is of what is there and of the episodes of the source."""
    n_missing = sum(row.kept and row.index not in there for row in done.values())
    strange = [
        row.index
        for row in done.values()
        if row.index >= len(summaries)
        or row.n_steps != summaries[row.index].length
        or (row.index in there and not row.kept and not row.error)
    ]
    strange += [index for index in there if not 0 <= index < len(summaries)]
    if n_missing or strange:
        raise ValueError(
            f"{str(report)!r} tells of {len(done)} episodes, of which "
            f"{sum(row.kept for row in done.values())} were written, but there are {len(there)}"
            f"{f', and episode {strange[0]} is another' if strange else ''}. It belongs to other "
            "files: choose another path, or remove both."
        )


def check_same(index: int, there: EpisodeSummary, replayed: Episode | None) -> None:
    """Raise ValueError unless an episode that is there is the one that was played now."""
    if (
        replayed is None
        or (len(replayed), replayed.success) != (there.length, there.success)
        or read_provenance(replayed.metadata) != read_provenance(there.metadata)
    ):
        raise ValueError(
            f"Episode {index} is there already, and is another than the one played now. It is of "
            "another source or other settings: choose another path."
        )


def check_alike(there: Mapping[int, EpisodeSummary], replayed: Episode) -> None:
    """Raise ValueError if what is there was made with other settings than an episode now."""
    now = read_provenance(replayed.metadata)
    before = read_provenance(next(iter(there.values())).metadata) if there else now
    assert now is not None
    differing = {} if before is None else before.find_differences(now)
    differing.pop("no_ops_filtered", None)  # of one source, some may have been filtered before
    if differing:
        told = "; ".join(f"{k} {a!r} there, {b!r} now" for k, (a, b) in differing.items())
        raise ValueError(f"What is there was made otherwise: {told}. Choose another path.")
