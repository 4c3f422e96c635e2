import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.envs.assets import AssetSet
from libero_reward_envs.envs.builtin_assets import BUILTIN_ASSETS_VERSION, write_builtin_assets
from libero_reward_envs.envs.builtin_assets.textures import STYLES
from libero_reward_envs.envs.simulator import LiberoSimulator
from libero_reward_envs.envs.tasks import SUITES, all_tasks, bddl_file, find_task, load_init_states

REFERENCE = Path(__file__).parents[1] / "data" / "builtin_settle_reference.npz"
TOLERANCE_M = 0.01
SURFACES = {"floor", "kitchen_table", "living_room_table", "study_table", "table"}
HOLD_STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
SPREAD = [find_task(suite, index) for suite, index in zip(SUITES, (3, 2, 5, 4, 70), strict=True)]


@pytest.fixture(scope="session")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builtin") / "assets"
    write_builtin_assets(folder)
    return AssetSet("builtin", folder)


@cache
def words_of_tasks():
    """Categories and problem names that the BDDL files of the 130 tasks name."""
    categories, problems = set(), set()
    for task in all_tasks():
        text = bddl_file(task).read_text(encoding="utf-8")
        problems |= set(re.findall(r"\(problem (\S+)\)", text))
        for block in re.findall(r"\(:(?:fixtures|objects)(.*?)\)", text, re.DOTALL):
            categories |= set(re.findall(r" - (\S+)", block))
    return categories, problems


@cache
def reference():
    with np.load(REFERENCE, allow_pickle=False) as file:
        return dict(file)


def settle(simulator, state):
    simulator.reset(np.random.default_rng(0), state)
    for _ in range(10):
        simulator.step(HOLD_STILL)
    env = simulator.libero_env
    return {name: simulator.data.xpos[env.obj_body_id[name]].copy() for name in env.objects_dict}


def check_task(task, assets):
    """Loads a task, its stored states fit, and everything rests where it officially does."""
    simulator, states = LiberoSimulator(task, assets), load_init_states(task)
    assert simulator.state.shape == states[0].shape
    stored = reference()
    rows = np.flatnonzero(stored["tasks"] == task.id)
    assert set(stored["objects"][rows]) == set(simulator.libero_env.objects_dict)
    for column, k in enumerate(stored["states"]):
        rest = settle(simulator, states[k])
        assert not all(simulator.goal_predicates())
        for row in rows:
            if not stored["restless"][row, column]:
                name = stored["objects"][row]
                off_m = np.linalg.norm(rest[name] - stored["positions"][row, column])
                assert off_m < TOLERANCE_M, f"{name} of {task.id} in state {k} is off by {off_m} m"


def test_every_category_and_arena_of_the_130_tasks_is_written(assets):
    categories, problems = words_of_tasks()
    written = {path.stem for path in assets.path.glob("*_objects/**/*.xml")}
    assert categories - SURFACES == written
    assert len(written) == 33
    assert len(list(assets.path.glob("scenes/*.xml"))) == len(problems) == 5


def test_two_writes_are_equal_byte_for_byte(assets, tmp_path):
    write_builtin_assets(tmp_path)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    again = sorted(p.relative_to(assets.path) for p in assets.path.rglob("*") if p.is_file())
    assert files == again
    assert all((tmp_path / f).read_bytes() == (assets.path / f).read_bytes() for f in files)


def test_the_set_is_small_and_has_only_text_and_pictures(assets):
    files = [path for path in assets.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".xml", ".png"}
    assert sum(path.stat().st_size for path in files) < 2e6


def test_every_floor_and_wall_style_of_libero_has_a_picture(assets):
    for name in STYLES:
        assert (assets.path / "textures" / f"{name}.png").is_file()


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(ValueError, match="empty"):
        write_builtin_assets(tmp_path)
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_the_version_changes_when_the_models_change(assets):
    digest = hashlib.sha256()
    for path in sorted(assets.path.rglob("*.xml")):
        digest.update(path.relative_to(assets.path).as_posix().encode() + path.read_bytes())
    # If this fails, give `BUILTIN_ASSETS_VERSION` a new value and write both down here.
    assert (BUILTIN_ASSETS_VERSION, digest.hexdigest()[:16]) == ("3", "90e8a577233ba762")


@pytest.mark.parametrize("task", SPREAD, ids=lambda task: task.id)
def test_objects_rest_where_they_do_with_the_official_models(task, assets):
    check_task(task, assets)


@pytest.mark.slow
@pytest.mark.parametrize("task", all_tasks(), ids=lambda task: task.id)
def test_objects_of_every_task_rest_where_they_do_with_the_official_models(task, assets):
    check_task(task, assets)
