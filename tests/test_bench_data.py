"""The benchmark of recorded episodes works: a tiny run with all of its rows."""

import csv
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_a_tiny_run_has_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_data  # pyright: ignore[reportMissingImports]

    out = tmp_path / "results" / "bench_data.csv"
    sizes = {"episodes": 2, "steps": 4, "repeats": 1, "large": 8}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    monkeypatch.setattr(sys, "argv", ["bench_data.py", *words, "--out", str(out)])
    monkeypatch.setattr(bench_data, "N_FRAMES", 3)
    bench_data.main(bench_data.parse_args())
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["what"], []).append(row["set"])
        assert float(row["ours"]) > 0
    assert found["episodes a second"] == ["hdf5", "LIBERO"]
    assert [float(row["ratio"]) > 0 for row in rows[:2]] == [True, True]
    assert sum("hdf5 of 8 episodes" in kind for kind in found["one frame at random, ms"]) == 2
    (opening,) = (sets for what, sets in found.items() if what.startswith("opening"))
    assert opening == ["hdf5", "LIBERO", "lerobot", "rlds", "large hdf5"]
