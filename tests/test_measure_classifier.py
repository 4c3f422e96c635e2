"""The classifier's benchmark works on few episodes, and goes on where it was stopped."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent / "benchmarks"
SMALL = {"n_episodes": 4, "success_fraction": 0.5}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*held-out frames without success are too few")
@pytest.mark.filterwarnings("ignore:No frame of success scores above")
def test_few_episodes_are_collected_learnt_from_and_measured(tmp_path, monkeypatch, builtin_assets):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measure_classifier  # pyright: ignore[reportMissingImports]

    sets = {name: {**values, **SMALL} for name, values in measure_classifier.SETS.items()}
    sets.pop("train/after")
    training = {**measure_classifier.TRAINING, "n_epochs": 1, "frames_per_epoch": 64}
    monkeypatch.setattr(measure_classifier, "SETS", sets)
    monkeypatch.setattr(measure_classifier, "TRAINING", training)
    out, work = tmp_path / "out", tmp_path / "work"
    words = ["--image-size", "64", "--assets", "builtin", "--out", out, "--work-dir", work]
    monkeypatch.setattr(sys, "argv", ["measure_classifier.py", *map(str, words)])
    measure_classifier.main()
    stored = json.loads((out / "measured_64.json").read_text())
    assert len(stored["measured"]) == 2 * len(measure_classifier.WINDOWS)
    assert stored["measured"][0]["n_failed"] == stored["measured"][0]["n_successes"] == 2
    assert str(tmp_path) not in (out / "measured_64.json").read_text()
    with open(out / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["test_seeds"] * 3 + ["test_states"] * 3
    assert all(np.asarray(Image.open(path)).std() > 5 for path in out.glob("*.png"))
    # Nothing is collected or learnt again.
    monkeypatch.setattr(measure_classifier, "fit_classifier", None)
    monkeypatch.setattr("libero_reward_envs.agents.collection.start_env", None)
    measure_classifier.main()
    assert json.loads((out / "measured_64.json").read_text()) == stored
