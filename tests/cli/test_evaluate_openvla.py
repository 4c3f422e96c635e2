"""The example of evaluating OpenVLA runs as it is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_evaluates_the_tiny_model(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "libero-reward"
    command.parent.mkdir()
    code = "from libero_reward_envs.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    command.chmod(0o755)
    variables = {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "ASSETS": "builtin",
    }
    script = REPOSITORY / "examples" / "openvla_policy" / "eval_openvla_example.sh"
    result = subprocess.run(
        ["bash", str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=3000,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == f"Results: {tmp_path / 'run'}"
    (row,) = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()
    assert json.loads(row)["steps"] == 280
    assert json.loads(row)["error"] is None
    assert (tmp_path / "run" / "videos" / "libero_object_00_000.mp4").is_file()
