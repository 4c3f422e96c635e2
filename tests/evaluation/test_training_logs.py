import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from libero_reward_envs.evaluation.training_figure import draw_reward_training
from libero_reward_envs.evaluation.training_logs import RewardTrainingLog, write_reward_curves


def report(step: int, *, judged: bool = True) -> dict[str, float]:
    made = {"step": step, "loss": 1 / step, "data_loss": 1 / step, "variance_term": 0.1 + 0.2}
    if judged:
        made |= {"holdout_loss": 2 / step, "cumulative_reward_mean": 1 - 1 / step}
        made |= {"cumulative_reward_std": 0.3}
    return made


def read_events(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload().Scalars(tag)
    return [(event.step, event.value) for event in events]


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_log_that_goes_on_from_a_checkpoint_is_that_of_an_unbroken_run(tmp_path: Path) -> None:
    reports = [report(step) for step in range(10, 60, 10)]
    unbroken = RewardTrainingLog(tmp_path / "unbroken", "run")
    for one in reports:
        unbroken.add(one)
    unbroken.finish()
    stopped = RewardTrainingLog(tmp_path / "stopped", "run")
    for one in [*reports[:3], {**reports[3], "loss": 9.0}]:  # the checkpoint is of step 20
        stopped.add(one)
    stopped.close()
    going_on = RewardTrainingLog(tmp_path / "stopped", "run", reports[:2])
    assert len(read_csv(tmp_path / "stopped" / "curves.csv")) == 5  # nothing is touched yet
    for one in reports[2:]:
        going_on.add(one)
    going_on.finish()
    for name in ("curves.csv", "cumulative_reward.csv", "curves.png"):
        first, second = (tmp_path / folder / name for folder in ("unbroken", "stopped"))
        assert first.read_bytes() == second.read_bytes(), name
    folder = tmp_path / "stopped" / "tensorboard" / "run"
    expected = [value for one in reports for value in (one["step"], one["loss"])]
    found = [value for event in read_events(folder, "train/loss") for value in event]
    assert found == pytest.approx(expected)
    assert len(read_events(folder, "cumulative_reward/std")) == 5
    assert len(list(folder.iterdir())) == 1


def test_csv_files_hold_the_numbers_exactly(tmp_path: Path) -> None:
    write_reward_curves(tmp_path, [report(3), report(7, judged=False)])
    curves = read_csv(tmp_path / "curves.csv")
    assert curves[0] == ["step", "loss", "data_loss", "variance_term", "holdout_loss"]
    assert [float(text) for text in curves[1]] == [3, 1 / 3, 1 / 3, 0.1 + 0.2, 2 / 3]
    assert curves[2][0] == "7"
    assert curves[2][4] == ""
    assert read_csv(tmp_path / "cumulative_reward.csv") == [
        ["step", "mean", "std"],
        ["3", repr(1 - 1 / 3), "0.3"],
    ]
    assert len(list(tmp_path.iterdir())) == 2


def width(path: Path) -> int:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    return image.width


def test_the_figure_has_a_plot_for_each_thing_there_is(tmp_path: Path) -> None:
    judged = [report(step) for step in (10, 20, 30)]
    draw_reward_training(tmp_path / "two.png", judged, "run", true_return=0.5)
    below_zero = [{**one, "loss": -one["loss"]} for one in judged]
    draw_reward_training(tmp_path / "three.png", below_zero, "run")
    draw_reward_training(tmp_path / "one.png", [report(10, judged=False)], "run")
    widths = [width(tmp_path / f"{name}.png") for name in ("one", "two", "three")]
    assert widths == [528, 1056, 1584]
