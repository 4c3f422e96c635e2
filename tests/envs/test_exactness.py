"""Our simulator beside LIBERO's own `ControlEnv`: the same numbers, bit for bit."""

import numpy as np
import pytest

from libero_reward_envs.envs import tasks
from libero_reward_envs.envs.assets import AssetSet
from libero_reward_envs.envs.scene import read_scene
from libero_reward_envs.envs.simulator import LiberoSimulator

TASKS = [
    ("libero_object", 0),
    ("libero_spatial", 3),
    ("libero_goal", 7),
    ("libero_90", 28),
    ("libero_10", 9),
]
FIXTURE_SEED = 5


class FixedSeed(np.random.Generator):
    """Hands the simulator the seed with which LIBERO's global generator is started."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, *_: object, **__: object) -> int:  # pyright: ignore
        return FIXTURE_SEED


def make_libero(task: tasks.Task):
    """LIBERO's environment on the assets of the simulator that was made last."""
    from libero.libero.envs.env_wrapper import ControlEnv

    env = ControlEnv(str(tasks.bddl_file(task)), has_offscreen_renderer=False, use_camera_obs=False)
    # LIBERO adds these once more at every reset, so that one seed gives other places each time.
    env.env.object_property_initializers.clear()
    return env


def reset_libero(env, init_state: np.ndarray | None):
    np.random.seed(FIXTURE_SEED)  # noqa: NPY002
    observation = env.reset()
    return observation if init_state is None else env.set_init_state(init_state)


def random_actions(rng: np.random.Generator, n: int, into_contact: bool) -> np.ndarray:
    """Uniform actions, or pushes held for five steps that drive the arm down into the scene."""
    actions = rng.uniform(-1, 1, (n, 7))
    if into_contact:
        actions = np.repeat(actions[: n // 5], 5, axis=0)
        actions[:, 2] = np.clip(actions[:, 2] - 0.3, -1, 1)
    return actions.astype(np.float32)


def assert_same_observation(simulator: LiberoSimulator, task: tasks.Task, observation) -> int:
    parts = read_scene(tasks.bddl_file(task)).state_layout()
    shared = [part for part in parts if part.name in observation]
    for part in shared:
        ours = simulator.reader.values[part.slice]
        np.testing.assert_array_equal(ours, observation[part.name], err_msg=part.name)
    return len(shared)


@pytest.mark.parametrize(("suite", "index"), TASKS)
@pytest.mark.parametrize("into_contact", [False, True])
def test_200_random_steps_after_a_soft_reset_equal_liberos_after_a_hard_one(
    suite: str, index: int, into_contact: bool, builtin_assets: AssetSet
) -> None:
    task = tasks.find_task(suite, index)
    simulator = LiberoSimulator(task, builtin_assets)
    libero = make_libero(task)
    rng = np.random.default_rng(index)
    states = tasks.load_init_states(task)
    simulator.reset(rng, states[1])
    for action in rng.uniform(-1, 1, (20, 7)):  # so that the reset has something to undo
        simulator.step(action)

    simulator.reset(FixedSeed(), states[0])
    observation = reset_libero(libero, states[0])
    assert_same_observation(simulator, task, observation)
    compared = 0
    for action in random_actions(rng, 200, into_contact):
        observation, reward, done, _ = libero.step(action.astype(np.float64))
        simulator.step(action)
        np.testing.assert_array_equal(simulator.state, libero.get_sim_state())
        success = all(simulator.goal_predicates())
        assert success == bool(done) == (reward == 1)
        compared = assert_same_observation(simulator, task, observation)
    assert compared >= 9  # the robot's six parts and at least one object's three


@pytest.mark.parametrize(("suite", "index"), TASKS[:2])
def test_a_sampled_start_equals_liberos_reset(
    suite: str, index: int, builtin_assets: AssetSet
) -> None:
    task = tasks.find_task(suite, index)
    simulator = LiberoSimulator(task, builtin_assets)
    libero = make_libero(task)
    simulator.reset(FixedSeed(), None)
    observation = reset_libero(libero, None)
    np.testing.assert_array_equal(simulator.state, libero.get_sim_state())
    for action in random_actions(np.random.default_rng(1), 30, into_contact=False):
        observation, *_ = libero.step(action.astype(np.float64))
        simulator.step(action)
        assert_same_observation(simulator, task, observation)
        np.testing.assert_array_equal(simulator.state, libero.get_sim_state())


def test_success_is_seen_in_the_same_step_as_liberos(builtin_assets: AssetSet) -> None:
    """The drawer of LIBERO-90 task 28 is pushed shut by its joint."""
    task = tasks.find_task("libero_90", 28)
    simulator = LiberoSimulator(task, builtin_assets)
    libero = make_libero(task)
    state = tasks.load_init_states(task)[0].copy()
    address = simulator.model.joint("white_cabinet_1_top_level").qposadr[0]
    seen = []
    for opening in np.linspace(state[1 + address], 0.004, 8):
        state[1 + address] = opening
        simulator.reset(FixedSeed(), state)
        reset_libero(libero, state)
        simulator.step(np.zeros(7))
        _, _, done, _ = libero.step(np.zeros(7))
        assert all(simulator.goal_predicates()) == bool(done)
        seen.append(bool(done))
    assert seen[0] is False
    assert seen[-1] is True


@pytest.mark.official_assets
def test_official_assets_step_as_liberos_too(official_assets: AssetSet) -> None:
    task = tasks.find_task("libero_10", 2)  # stove, moka pot and pan
    simulator = LiberoSimulator(task, official_assets)
    libero = make_libero(task)
    state = tasks.load_init_states(task)[3]
    simulator.reset(FixedSeed(), state)
    reset_libero(libero, state)
    for action in random_actions(np.random.default_rng(2), 200, into_contact=True):
        libero.step(action.astype(np.float64))
        simulator.step(action)
        np.testing.assert_array_equal(simulator.state, libero.get_sim_state())
