from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.openvla.policy_images import (
    crop_center,
    pass_through_jpeg,
    prepare_policy_images,
)

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing"
CAMERAS = ("scene256", "smooth256", "noise256")


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "eval_inputs.npz", allow_pickle=False) as file:
        return {name: file[name] for name in CAMERAS}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "eval_expected.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file if key.split("/")[0] in CAMERAS}


def count_differences(image: np.ndarray, golden: np.ndarray) -> tuple[int, float]:
    difference = np.abs(image.astype(int) - golden)
    return int(difference.max()), float((difference > 0).mean())


@pytest.mark.parametrize("name", CAMERAS)
def test_the_jpeg_round_trip_is_the_golden_one(
    inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str
) -> None:
    turned = turn_images(inputs[name][None], "raw", "vla180")
    np.testing.assert_array_equal(pass_through_jpeg(turned)[0], expected[f"{name}/jpeg_decoded"])


@pytest.mark.parametrize("name", CAMERAS)
def test_the_whole_path_is_the_golden_one(
    inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str
) -> None:
    images = inputs[name][None]
    resized = prepare_policy_images(images, orientation="raw", crop_area=None)
    most, share = count_differences(resized[0], expected[f"{name}/libero_image_224"])
    assert most <= 1
    assert share < 0.0005
    cropped = prepare_policy_images(images, orientation="raw")
    most, share = count_differences(cropped[0], expected[f"{name}/center_crop_224"])
    assert most <= 1
    assert share < 0.001


@pytest.mark.parametrize("name", CAMERAS)
def test_the_centre_crop_is_the_golden_one(expected: dict[str, np.ndarray], name: str) -> None:
    cropped = crop_center(expected[f"{name}/libero_image_224"][None])
    np.testing.assert_array_equal(cropped[0], expected[f"{name}/center_crop_224"])


def test_the_orientation_of_the_camera_makes_no_difference(inputs: dict[str, np.ndarray]) -> None:
    raw = inputs["scene256"][None]
    prepared = prepare_policy_images(raw, orientation="raw")
    for orientation in ("upright", "vla180"):
        turned = turn_images(raw, "raw", orientation)
        np.testing.assert_array_equal(
            prepare_policy_images(turned, orientation=orientation), prepared
        )


def test_each_step_can_be_left_out(inputs: dict[str, np.ndarray]) -> None:
    images = turn_images(inputs["scene256"][None], "raw", "vla180")
    same = prepare_policy_images(
        images, orientation="vla180", jpeg=False, size=(256, 256), crop_area=None
    )
    np.testing.assert_array_equal(same, images)


def test_a_batch_is_prepared_as_its_images(inputs: dict[str, np.ndarray]) -> None:
    batch = np.stack([inputs[name] for name in CAMERAS])
    prepared = prepare_policy_images(batch)
    for image, row in zip(batch, prepared, strict=True):
        np.testing.assert_array_equal(prepare_policy_images(image[None])[0], row)


@pytest.mark.parametrize("area", [0, 1.1, -0.5])
def test_areas_that_are_none_are_refused(area: float) -> None:
    with pytest.raises(ValueError, match="area"):
        crop_center(np.zeros((1, 8, 8, 3), np.uint8), area)


def test_other_orientations_and_floats_are_refused() -> None:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="upright, raw, vla180"):
        prepare_policy_images(images, orientation="sideways")
    with pytest.raises(ValueError, match="float32"):
        prepare_policy_images(images.astype(np.float32))
