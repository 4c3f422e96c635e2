"""`libero-reward evaluate` and `evaluate-openvla`: errors, and an evaluation that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from libero_reward_envs.cli.main import main


def fail(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("evaluate --agent expert --protocol openvl", "Did you mean 'openvla'"),
        ("evaluate --agent expert --suite libero_objet", "Did you mean 'libero_object'"),
        ("evaluate --agent expart", "Did you mean 'expert'"),
        ("evaluate --agent expert --tasks 11", "must be in 0..9"),
        ("evaluate --agent expert --n-envs 0", "`n_envs` must be at least 1"),
        ("evaluate --agent expert --suite libero_90 --tasks 1", "no scripted expert"),
        ("evaluate-openvla --unnorm-key libero_ten --tasks 0", "Unknown `unnorm_key`"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    words: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert expected in fail(f"{words} --assets builtin --out {folder}", capsys)
    assert not folder.exists()


def test_a_killed_evaluation_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = (
        "evaluate --agent expert --suite libero_object --tasks 0 --trials 3 --n-envs 1 "
        f"--assets builtin --out {folder}"
    ).split()
    code = f"from libero_reward_envs.cli.main import main; main({words!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    rows = folder / "episodes.jsonl"
    deadline = time.monotonic() + 300
    while not rows.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_before = len(rows.read_text().splitlines())
    assert n_before < 3
    main(words)
    printed = capsys.readouterr().out
    assert f"{n_before} of 3 episodes are there already." in printed
    assert "3/3" in printed
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["trial"] for row in found] == [0, 1, 2]
    assert json.loads((folder / "summary.json").read_text())["suite"]["successes"] == 3
    refusal = " ".join(words).replace("--trials 3", "--trials 2")
    assert "trials was 3 and is now 2" in fail(refusal, capsys)
