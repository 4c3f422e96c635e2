from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.agents.regeneration import find_moving_steps
from libero_reward_envs.envs.libero_env import NO_OP
from libero_reward_envs.openvla.libero_conventions import (
    binarize_gripper,
    compute_axis_angle,
    from_env_actions,
    to_env_actions,
)

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing"
PARTS = ("gripper", "libero", "quat_xyzw", "axis_angle", "noop", "dummy_action")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    found = {}
    for kind in ("inputs", "expected"):
        with np.load(GOLDEN / f"eval_{kind}.npz", allow_pickle=False) as file:
            found |= {f"{kind}/{key}": file[key] for key in file if key.startswith(PARTS)}
    return found


def test_actions_are_turned_into_libero_s_as_by_the_published_evaluation(
    golden: dict[str, np.ndarray],
) -> None:
    actions = np.zeros((11, 7))
    actions[:, :6] = 0.3
    actions[:, 6] = golden["inputs/gripper/values"]
    before = actions.copy()
    converted = to_env_actions(actions)
    np.testing.assert_array_equal(converted[:, 6], golden["expected/gripper/env_command"])
    np.testing.assert_array_equal(converted[:, :6], actions[:, :6])
    np.testing.assert_array_equal(actions, before)


def test_libero_s_actions_are_turned_into_the_model_s_as_in_its_training(
    golden: dict[str, np.ndarray],
) -> None:
    converted = from_env_actions(golden["inputs/libero/action_raw"])
    assert converted.dtype == np.float32
    np.testing.assert_array_equal(converted, golden["expected/libero/action"])


def test_an_open_and_a_closed_gripper_come_back() -> None:
    actions = np.array([[0.0, -1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(to_env_actions(from_env_actions(actions)), actions)


def test_gripper_positions_become_the_golden_commands(golden: dict[str, np.ndarray]) -> None:
    commands = binarize_gripper(golden["inputs/gripper/binarize_seq"])
    np.testing.assert_array_equal(commands, golden["expected/gripper/binarize_seq"])
    assert binarize_gripper(np.zeros(0)).shape == (0,)


def test_rotation_vectors_are_the_golden_ones(golden: dict[str, np.ndarray]) -> None:
    found = compute_axis_angle(golden["inputs/quat_xyzw"])
    np.testing.assert_allclose(found, golden["expected/axis_angle"], atol=1e-12)


def test_idle_steps_are_the_golden_ones(golden: dict[str, np.ndarray]) -> None:
    moving = find_moving_steps(golden["inputs/noop/actions"])
    np.testing.assert_array_equal(~moving, golden["expected/noop/is_noop_running"])
    np.testing.assert_array_equal(NO_OP, golden["expected/dummy_action"])
