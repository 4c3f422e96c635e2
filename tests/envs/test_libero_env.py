"""LiberoEnv: spaces, resets, seeds, info, images and refusals."""

from collections.abc import Callable

import numpy as np
import pytest

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import load_init_states

MakeEnv = Callable[..., LiberoEnv]


def rollout(env: LiberoEnv, seed: int, n_steps: int) -> np.ndarray:
    env.action_space.seed(seed)
    observations = [env.reset(seed=seed)[0]]
    observations += [env.step(env.action_space.sample())[0] for _ in range(n_steps)]
    return np.stack(observations)


def test_one_seed_gives_one_trajectory_in_two_environments(make_env: MakeEnv) -> None:
    twin = LiberoEnv("libero_object", 0, assets="builtin")
    first, second = rollout(make_env(), 3, 50), rollout(twin, 3, 50)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - rollout(twin, 4, 50)).max() > 0.01


def test_the_seed_decides_where_fixtures_stand(make_env: MakeEnv) -> None:
    env = make_env("libero_90", 28)
    cabinet = next(part.slice for part in env.state_layout if part.name == "white_cabinet_1_pos")
    options = {"init_state_id": 0}
    places = [env.reset(seed=seed, options=options)[0][cabinet] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(places[0], places[1])
    assert np.abs(places[0] - places[2]).max() > 1e-5


def test_50_resets_visit_all_50_stored_states(make_env: MakeEnv) -> None:
    env = make_env(settle_steps=0)
    env.reset(seed=0)
    env.reset(seed=0)
    visited = [env.reset()[1]["init_state_id"] for _ in range(49)]
    assert len(set(visited)) == 49
    assert env.reset()[1]["init_state_id"] in range(50)  # the second round begins


def test_options_name_the_initial_state(make_env: MakeEnv) -> None:
    env = make_env(settle_steps=0)
    by_id, info = env.reset(seed=1, options={"init_state_id": 7})
    assert info["init_state_id"] == 7
    stored = load_init_states(env.task)[7]
    by_array, info = env.reset(seed=1, options={"init_state": stored})
    assert info["init_state_id"] is None
    np.testing.assert_array_equal(by_id, by_array)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_state": np.zeros(3)}, r"shape \(110,\).*got \(3,\)"),
        ({"init_state": np.full(110, np.nan)}, "NaN"),
        ({"init_state_id": 50}, r"0\.\.49, got 50"),
        ({"init_state_id": 1, "init_state": np.zeros(110)}, "not both"),
        ({"seed": 1}, "Unknown reset options.*init_state_id, init_state"),
    ],
)
def test_bad_options_are_refused(make_env: MakeEnv, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_env(settle_steps=0).reset(options=options)


@pytest.mark.parametrize("action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan)])
def test_bad_actions_are_refused(make_env: MakeEnv, action: np.ndarray) -> None:
    env = make_env(settle_steps=0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="Expected a"):
        env.step(action)


def test_step_before_reset_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        LiberoEnv("libero_object", 0).step(np.zeros(7))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"suite": "libero_objects"}, "libero_object"),
        ({"suite": "libero_object", "task": "pick_up_the_soup"}, "nearest.*alphabet_soup"),
        ({"suite": "libero_object", "task": 10}, r"0\.\.9"),
        ({"task": "no/such.bddl"}, "BDDL"),
        ({"suite": "libero_goal", "obs_type": "image"}, "'pixels_state'"),
        ({"suite": "libero_goal", "orientation": "flipped"}, "'vla180'"),
        ({"suite": "libero_goal", "init_states": "random"}, "'sampled'"),
        ({"suite": "libero_goal", "image_size": 0}, "image_size"),
        ({"suite": "libero_goal", "cameras": "agentview"}, "list of camera names"),
        ({"suite": "libero_goal", "render_mode": "ascii"}, "'rgb_array'"),
    ],
)
def test_bad_arguments_are_refused_with_what_would_do(keywords: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LiberoEnv(**keywords)


def test_an_unknown_camera_is_refused_with_the_known_ones() -> None:
    env = LiberoEnv("libero_object", 0, assets="builtin", obs_type="pixels", cameras=["wrist"])
    with pytest.raises(ValueError, match=r"'wrist'.*agentview"):
        env.reset(seed=0)
    env.close()


def test_info_says_what_happened(make_env: MakeEnv) -> None:
    env = make_env()
    _, info = env.reset(seed=0)
    assert info["task"] == "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    assert info["instruction"] == "pick up the alphabet soup and place it in the basket"
    assert info["assets"] == "builtin"
    _, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["is_success"] is info["success"] is False
    assert info["reward/env"] == 0.0
    assert info["progress"] == 0.0


def test_progress_is_the_share_of_goal_predicates_that_hold(make_env: MakeEnv) -> None:
    """Two mugs belong on two plates; one of them is put there."""
    env = make_env("libero_10", 4, settle_steps=0)
    env.reset(seed=0, options={"init_state_id": 0})
    goals = env.simulator.libero_env.parsed_problem["goal_state"]
    assert len(goals) == 2
    assert {goal[0] for goal in goals} == {"on"}
    _, mug, plate = goals[0]
    state = env.simulator.state
    layout = {part.name: part.slice for part in env.state_layout}
    values = env.simulator.reader.values
    joint = env.simulator.libero_env.get_object(mug).joints[-1]
    start = 1 + env.simulator.model.joint(joint).qposadr[0]
    plate_name = plate if f"{plate}_pos" in layout else plate.split("_plate")[0]
    state[start : start + 3] = values[layout[f"{plate_name}_pos"]] + [0, 0, 0.03]
    env.reset(options={"init_state": state})
    progress = [env.step(np.zeros(7, np.float32))[4]["progress"] for _ in range(15)]
    assert progress[-1] == 0.5
    assert not env.step(np.zeros(7, np.float32))[2]


def test_success_terminates_unless_told_otherwise(make_env: MakeEnv) -> None:
    for terminate in (True, False):
        env = make_env("libero_90", 28, terminate_on_success=terminate)
        env.reset(seed=0, options={"init_state_id": 0})
        closed = env.simulator.state
        address = env.simulator.model.joint("white_cabinet_1_top_level").qposadr[0]
        closed[1 + address] = 0.004
        env.reset(options={"init_state": closed})
        _, reward, terminated, _, info = env.step(np.zeros(7, np.float32))
        assert reward == 1.0
        assert info["is_success"]
        assert terminated is terminate


def test_numpys_global_generator_is_left_alone(make_env: MakeEnv) -> None:
    env = make_env("libero_90", 28)
    env.reset(seed=5)  # LIBERO's own code draws from it when a simulator is started
    np.random.seed(11)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(11)  # noqa: NPY002
    env.reset(seed=5)
    env.step(np.zeros(7, np.float32))
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_sampled_states_differ_and_repeat_by_seed(make_env: MakeEnv) -> None:
    env = make_env(init_states="sampled")
    first, info = env.reset(seed=1)
    assert info["init_state_id"] is None
    second, _ = env.reset()
    again, _ = env.reset(seed=1)
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(first, again)


def test_a_bddl_file_is_a_task(tmp_path, make_env: MakeEnv) -> None:
    from libero_reward_envs.envs.tasks import bddl_file

    copy = tmp_path / "my_task.bddl"
    copy.write_text(bddl_file(make_env().task).read_text())
    with pytest.raises(ValueError, match="init_states='sampled'"):
        LiberoEnv(task=str(copy))
    env = LiberoEnv(task=str(copy), init_states="sampled", assets="builtin")
    _, info = env.reset(seed=0)
    assert info["task"] == "custom/my_task"
    assert info["instruction"] == "Pick the alphabet soup and place it in the basket"
    env.close()


def test_state_parts_name_every_number(make_env: MakeEnv) -> None:
    env = make_env("libero_90", 28)
    observation, _ = env.reset(seed=0)
    covered = np.concatenate([np.arange(*part.slice.indices(10**6)) for part in env.state_layout])
    np.testing.assert_array_equal(covered, np.arange(len(observation)))
    parts = {part.name: observation[part.slice] for part in env.state_layout}
    assert parts["white_cabinet_1_top_level_qpos"][0] < -0.1  # it starts open
    assert np.linalg.norm(parts["robot0_eef_quat"]) == pytest.approx(1, abs=1e-5)
    assert 0.8 < parts["robot0_eef_pos"][2] < 1.5


def test_images_are_liberos_in_the_orientation_asked_for(make_env: MakeEnv) -> None:
    """Bit for bit LIBERO's own picture, at the moment at which LIBERO draws it."""
    env = make_env(obs_type="pixels_state", image_size=64, settle_steps=0, orientation="raw")
    raw, _ = env.reset(seed=0, options={"init_state_id": 0})

    from libero.libero.envs import OffScreenRenderEnv

    from libero_reward_envs.envs.tasks import bddl_file

    libero = OffScreenRenderEnv(
        bddl_file_name=str(bddl_file(env.task)), camera_heights=64, camera_widths=64
    )
    libero.reset()
    theirs = libero.set_init_state(load_init_states(env.task)[0])
    action = np.array([0.5, -0.5, -0.8, 0.3, 0, 0.2, 1], np.float32)
    for _ in range(4):
        for camera in env.cameras:
            np.testing.assert_array_equal(raw[f"{camera}_image"], theirs[f"{camera}_image"])
        raw = env.step(action)[0]
        theirs = libero.step(action.astype(np.float64))[0]
    libero.close()


def test_orientations_are_flips_of_each_other(make_env: MakeEnv) -> None:
    keywords = {"obs_type": "pixels", "image_size": 64, "settle_steps": 0}
    images = {
        orientation: make_env(orientation=orientation, **keywords).reset(
            seed=0, options={"init_state_id": 0}
        )[0]
        for orientation in ("raw", "upright", "vla180")
    }
    for camera in ("agentview_image", "robot0_eye_in_hand_image"):
        raw = images["raw"][camera]
        np.testing.assert_array_equal(images["upright"][camera], raw[::-1])
        np.testing.assert_array_equal(images["vla180"][camera], raw[::-1, ::-1])
        assert np.abs(raw.astype(int) - raw[::-1]).mean() > 5


def test_two_environments_in_one_process_draw_their_own_scenes(make_env: MakeEnv) -> None:
    keywords = {"obs_type": "pixels", "image_size": 64, "cameras": ["agentview"]}
    one, two = make_env("libero_object", 0, **keywords), make_env("libero_goal", 7, **keywords)
    before = one.reset(seed=0)[0]["agentview_image"]
    other = two.reset(seed=0)[0]["agentview_image"]
    after = one.reset(seed=0)[0]["agentview_image"]
    np.testing.assert_array_equal(before, after)
    assert np.abs(before.astype(int) - other).mean() > 5


def test_state_observations_draw_nothing(make_env: MakeEnv) -> None:
    env = make_env("libero_spatial", 0)
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    assert env._renderer is None


def test_render_is_upright_and_shows_the_scene() -> None:
    env = LiberoEnv("libero_object", 0, assets="builtin", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame is not None
    assert frame.shape == (256, 256, 3)
    assert frame.std() > 20
    env.close()
    assert env.metadata["render_fps"] == 20
