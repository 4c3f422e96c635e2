"""Tasks: names, instructions, limits, initial states, and what a wrong name is answered with."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.envs import tasks


def test_the_names_are_those_of_the_installed_libero_in_its_order() -> None:
    path = tasks.libero_folder() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("task_map", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.libero_task_map
    assert {suite: list(names) for suite, names in tasks.task_names().items()} == {
        suite: theirs[suite] for suite in tasks.SUITES
    }


def test_instructions_are_liberos() -> None:
    spoken = {task.id: task.instruction for task in tasks.all_tasks()}
    assert (
        spoken["libero_10/KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"]
        == "turn on the stove and put the moka pot on it"
    )
    assert (
        spoken[
            "libero_90/KITCHEN_SCENE10_put_the_butter_at_the_back_in_the_top_drawer_of_the_cabinet_and_close_it"
        ]
        == "put the butter at the back in the top drawer of the cabinet and close it"
    )


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_goal", 7),
        ("libero_goal", "turn_on_the_stove"),
        (None, "turn_on_the_stove"),
        (None, "libero_goal/turn_on_the_stove"),
        (None, "libero_goal/turn_on_the_stove-v0"),
    ],
)
def test_a_task_has_several_names(suite: str | None, task: int | str) -> None:
    assert tasks.find_task(suite, task).id == "libero_goal/turn_on_the_stove"


def test_an_index_alone_counts_in_the_default_suite() -> None:
    assert tasks.find_task(task=3).id.startswith("libero_object/")


def test_a_shipped_bddl_file_is_the_task_itself() -> None:
    task = tasks.find_task("libero_goal", 7)
    assert tasks.find_task(task=str(tasks.bddl_file(task))) == task


def test_a_task_of_two_suites_must_say_which() -> None:
    names = [name for suite in tasks.SUITES for name in tasks.task_names()[suite]]
    twice = sorted({name for name in names if names.count(name) > 1})
    for name in twice:
        with pytest.raises(ValueError, match="say which"):
            tasks.find_task(None, name)
    with pytest.raises(ValueError, match="names the suite"):
        tasks.find_task("libero_10", "libero_goal/turn_on_the_stove")


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_stored_states_are_50_and_read_only(suite: str) -> None:
    states = tasks.load_init_states(tasks.find_task(suite, 0))
    assert states.shape[0] == 50
    assert states.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        states[0, 0] = 1.0


def test_a_file_of_states_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self):
            return (print, ("this must not be run",))

    path = tmp_path / "evil.pruned_init"
    torch.save(Evil(), path)
    with pytest.raises(ValueError, match="Cannot read the initial states"):
        tasks._read_init_states(path)


def test_a_missing_simulator_is_one_error_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps robosuite==1\.4\.0"):
        tasks.libero_folder()


def test_a_custom_task_outlives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.bddl").write_text("(define (problem X) (:language do it) (:objects))")
    monkeypatch.chdir(tmp_path)
    task = tasks.find_task(task="mine.bddl")
    monkeypatch.chdir("/")
    assert task.instruction == "do it"
