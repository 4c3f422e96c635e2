from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.openvla.image_resampling import (
    check_images,
    crop_and_resize,
    resize_lanczos,
    to_float,
    to_uint8,
)

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing"
CAMERAS = ("scene256", "smooth256", "noise256")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file if not key.startswith("norm/")}


def assert_alike(image: np.ndarray, expected: np.ndarray, share: float = 0.0005) -> None:
    """Within one grey level, and equal but for a share of the values."""
    assert image.dtype == np.uint8
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("name", CAMERAS)
def test_lanczos_is_the_golden_one(name: str) -> None:
    expected = load("eval_expected")
    resized = resize_lanczos(expected[f"{name}/jpeg_decoded"][None], (224, 224))
    assert_alike(resized[0], expected[f"{name}/lanczos_only_224"])


def test_lanczos_enlarges_one_side_and_shrinks_the_other_as_the_golden_one() -> None:
    resized = resize_lanczos(load("eval_inputs")["odd_100x180"][None], (224, 224))
    assert_alike(resized[0], load("eval_expected")["odd_100x180/lanczos_224"])


def test_images_of_the_size_stay_as_they_are() -> None:
    image = load("eval_inputs")["already224"]
    np.testing.assert_array_equal(resize_lanczos(image[None], (224, 224))[0], image)


def test_a_batch_is_resized_as_its_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 61, 3), np.uint8)
    batch = resize_lanczos(images, (33, 70))
    for image, resized in zip(images, batch, strict=True):
        np.testing.assert_array_equal(resize_lanczos(image[None], (33, 70))[0], resized)


def test_a_constant_image_stays_constant_at_its_edges() -> None:
    resized = resize_lanczos(np.full((1, 256, 90, 3), 77, np.uint8), (224, 224))
    assert (resized == 77).all()


def test_crops_are_the_golden_ones() -> None:
    expected = load("eval_expected")
    boxes = expected["aug/crop_boxes"]
    images = to_float(np.repeat(expected["scene256/libero_image_224"][None], len(boxes), axis=0))
    crops = to_uint8(np.clip(crop_and_resize(images, boxes, (224, 224)), 0, 1))
    for index, crop in enumerate(crops):
        assert_alike(crop, expected[f"aug/crop{index}"], share=1 / 20_000)


def test_the_whole_box_changes_nothing_and_one_row_is_the_middle() -> None:
    images = np.random.default_rng(0).random((1, 7, 5, 3), np.float32)
    whole = np.array([[0, 0, 1, 1]])
    np.testing.assert_array_equal(crop_and_resize(images, whole, (7, 5)), images)
    np.testing.assert_allclose(crop_and_resize(images, whole, (1, 5))[:, 0], images[:, 3])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [(np.zeros((2, 4)), r"\(1, 4\)"), (np.array([[0, 0, 1.1, 1]]), "within")],
)
def test_boxes_that_do_not_fit_are_refused(boxes: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crop_and_resize(np.zeros((1, 8, 8, 3), np.float32), boxes, (4, 4))


def test_bytes_survive_floats() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(values)), values)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), r"0 to 0\. Convert.*255 \* images"),
        (np.full((1, 8, 8, 3), 200.0), r"float64 from 200 to 200.*`images\.round"),
        (np.zeros((1, 8, 8, 3), np.int64), "int64"),
        (np.zeros((1, 3, 8, 8), np.uint8), "transpose"),
        (np.zeros((8, 8, 3), np.uint8), r"images\[None\]"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"\(n, H, W, 3\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\(n, H, W, 3\)"),
        ([[0]], "list"),
    ],
)
def test_other_things_than_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_images(images)
