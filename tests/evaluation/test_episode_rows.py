from pathlib import Path

import pytest

from libero_reward_envs.evaluation.episode_rows import (
    EpisodeRow,
    append_row,
    describe_summary,
    read_rows,
    summarize_rows,
)
from libero_reward_envs.evaluation.success import EpisodeResult


def make_row(task: str, trial: int, success: bool | None) -> EpisodeRow:
    error = "ValueError: broken" if success is None else None
    return EpisodeRow(task, trial, EpisodeResult(trial, trial, 10, success, 0.0, None, error), 0.5)


def test_rows_come_back_and_the_last_of_a_repeated_episode_counts(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    rows = [make_row("a", 0, None), make_row("a", 1, True), make_row("a", 0, True)]
    for row in rows:
        append_row(path, row)
    with path.open("ab") as file:
        file.write(b'{"task": "a", "tri')  # a kill
    assert read_rows(path) == {("a", 0): rows[2], ("a", 1): rows[1]}
    append_row(path, make_row("b", 0, False))
    assert len(read_rows(path)) == 3
    path.write_text('{"task": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*episodes\.jsonl"):
        read_rows(path)


def test_errors_count_as_the_protocol_says() -> None:
    rows = [make_row("a", trial, trial < 8) for trial in range(10)]
    rows += [make_row("b", 0, None), make_row("b", 1, True)]
    counted = summarize_rows(rows, "failure")
    assert counted["tasks"]["a"]["rate"] == 0.8
    # Wilson (1927) for 8 of 10, by hand: (0.8 + z^2/20 -+ z sqrt(0.16/10 + z^2/400))/(1 + z^2/10)
    assert counted["tasks"]["a"]["low"] == pytest.approx(0.4902, abs=1e-4)
    assert counted["tasks"]["a"]["high"] == pytest.approx(0.9433, abs=1e-4)
    assert (counted["tasks"]["b"]["rate"], counted["tasks"]["b"]["errors"]) == (0.5, 1)
    assert (counted["suite"]["successes"], counted["suite"]["counted"]) == (9, 12)
    left_out = summarize_rows(rows, "left out")
    assert left_out["tasks"]["b"]["rate"] == 1.0
    assert left_out["suite"]["counted"] == 11
    table = describe_summary(counted)
    assert "8/10" in table
    assert "49.0% - 94.3%" in table


def test_nothing_but_errors_has_no_rate_where_they_are_left_out() -> None:
    summary = summarize_rows([make_row("a", 0, None)], "left out")
    assert summary["suite"]["rate"] is None
    assert "0/0" in describe_summary(summary)
