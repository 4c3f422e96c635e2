"""The benchmark of OpenVLA's speed runs, and measures what it says."""

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "bench_openvla.py"


def test_it_writes_a_row_for_each_figure(tmp_path: Path) -> None:
    out = tmp_path / "results" / "bench.csv"
    words = ["--frames", "8", "--batch-size", "4", "--repeats", "1", "--out", str(out)]
    for _ in range(2):  # the second run takes the place of the first
        subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True)
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert len(out.read_text().splitlines()) == 5
    for row in rows.values():
        assert float(row["ratio"]) > 0
        assert (row["size"], row["device"], row["dtype"]) == ("tiny", "cpu", "float32")
    assert {"8 actions at once, actions/s", "cached epoch, frames/s"} <= rows.keys()
