"""The benchmark of classifiers runs and writes what it says."""

import csv
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "bench_classifier.py"


def test_a_small_run_compares_everything(tmp_path: Path) -> None:
    out = tmp_path / "new" / "bench.csv"
    sizes = ["--repetitions", "2", "--frames", "1200", "--buffer", "64", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, SCRIPT, "--assets", "builtin", *sizes, "--out", out],
        check=True,
        timeout=600,
        env=environment,
    )
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["what"], row["sizes"]) for row in rows}) == len(rows) == 8 + 1 + 2
    for row in rows:
        assert float(row["ours"]) > 0
        if row["bare"]:
            ratio = float(row["ours"]) / float(row["bare"])
            assert abs(float(row["ratio"]) - ratio) < 0.01 * ratio + 0.001
    small, large = (float(row["ours"]) for row in rows if row["what"].startswith("memory"))
    assert large < small + 25  # the larger set has 45 MB more
