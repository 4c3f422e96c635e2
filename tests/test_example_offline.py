"""`examples/offline_dataset.py` runs as a reader would run it, on a tiny budget."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples/offline_dataset.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip().splitlines()[-1]


def test_it_collects_its_own_episodes_or_takes_others(tmp_path: Path) -> None:
    number = r"-?\d+\.\d\d"
    expected = (
        rf"(\d+) reward steps; learned reward a step: {number} in 1 successes, "
        rf"{number} in 1 failures"
    )
    own = re.fullmatch(expected, run(tmp_path, "--episodes", "2", "--passes", "1"))
    assert own is not None
    assert int(own[1]) > 50
    path = tmp_path / "moved.h5"
    (tmp_path / "offline_episodes.h5").rename(path)
    again = run(tmp_path, "--data", str(path), "--passes", "1")
    assert again == own[0]
    assert not (tmp_path / "offline_episodes.h5").exists()
