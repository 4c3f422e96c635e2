"""Scenes read from BDDL files, against what LIBERO's own parser reads."""

import itertools
from pathlib import Path

import pytest

from libero_reward_envs.envs import tasks
from libero_reward_envs.envs.scene import read_scene


def test_every_task_has_a_layout_without_gaps() -> None:
    for task in tasks.all_tasks():
        parts = read_scene(tasks.bddl_file(task)).state_layout()
        assert parts[0].start == 0
        for before, after in itertools.pairwise(parts):
            assert before.start + before.size == after.start
        assert len({part.name for part in parts}) == len(parts)


def test_names_and_categories_are_what_liberos_parser_reads(make_env) -> None:
    make_env().simulator  # noqa: B018  starts the simulator, which imports LIBERO safely
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    for task in tasks.all_tasks():
        path = tasks.bddl_file(task)
        problem, scene = robosuite_parse_problem(str(path)), read_scene(path)
        theirs = {name: kind for kind, names in problem["objects"].items() for name in names}
        assert scene.objects == theirs
        fixtures = {name: kind for kind, names in problem["fixtures"].items() for name in names}
        assert scene.fixtures.items() <= fixtures.items()
        assert len(fixtures) - len(scene.fixtures) == 1  # the table or floor


def test_drawers_doors_and_knobs_are_in_the_state() -> None:
    scene = read_scene(tasks.bddl_file(tasks.find_task("libero_goal", "turn_on_the_stove")))
    assert scene.joint_names == (
        "wooden_cabinet_1_top_level",
        "wooden_cabinet_1_middle_level",
        "wooden_cabinet_1_bottom_level",
        "flat_stove_1_button",
    )


@pytest.mark.parametrize("text", ["", "(define", "(define (problem x))", "hello"])
def test_what_is_not_a_problem_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.bddl"
    path.write_text(text)
    with pytest.raises(ValueError, match="BDDL problem"):
        read_scene(path)


def test_comments_and_capitals_are_read_as_libero_reads_them(tmp_path: Path) -> None:
    original = tasks.bddl_file(tasks.find_task("libero_object", 0))
    path = tmp_path / "styled.bddl"
    text = original.read_text().replace("(:objects", "(:objects ; things (on the floor")
    path.write_text(text.replace("milk_1", "Milk_1"))
    assert read_scene(path) == read_scene(original)
