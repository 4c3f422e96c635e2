from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.openvla import image_augmentation
from libero_reward_envs.openvla.image_augmentation import ImageAugmentation
from libero_reward_envs.openvla.image_resampling import to_float, to_uint8

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing" / "eval_expected.npz"
ADJUSTMENTS = [
    "brightness_-0.2",
    "brightness_0.13",
    "contrast_0.8",
    "contrast_1.2",
    "saturation_0.8",
    "saturation_1.2",
    "hue_-0.05",
    "hue_0.05",
]


def load(*names: str) -> list[np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return [file[name] for name in names]


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjustments_are_the_golden_ones(name: str) -> None:
    operation, amount = name.split("_")
    image, expected = load("scene256/libero_image_224", f"aug/{name}")
    adjust = getattr(image_augmentation, f"adjust_{operation}")
    changed = to_uint8(np.clip(adjust(to_float(image[None]), np.array([float(amount)])), 0, 1))
    np.testing.assert_array_equal(changed[0], expected)


def test_grey_and_black_stay_as_they_are_when_hue_or_saturation_change() -> None:
    greys = np.repeat(np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1), 3, axis=3)
    for adjust in (image_augmentation.adjust_hue, image_augmentation.adjust_saturation):
        np.testing.assert_array_equal(adjust(greys, np.array([0.3])), greys)


def test_a_third_of_a_turn_makes_red_green_and_a_whole_turn_nothing() -> None:
    red = np.zeros((1, 1, 1, 3), np.float32)
    red[..., 0] = 1
    green = image_augmentation.adjust_hue(red, np.array([1 / 3]))
    np.testing.assert_allclose(green[0, 0, 0], [0, 1, 0], atol=1e-6)
    image = np.random.default_rng(0).random((1, 9, 9, 3), np.float32)
    np.testing.assert_allclose(
        image_augmentation.adjust_hue(image, np.array([1.0])), image, atol=1e-6
    )


def test_offsets_of_crops_are_equal_as_in_the_released_training_unless_told_otherwise() -> None:
    (pair,) = load("aug/offset_pair_same_seed")
    assert pair[0] == pair[1]
    boxes = ImageAugmentation().draw(50, np.random.default_rng(0)).boxes
    np.testing.assert_array_equal(boxes[:, 0], boxes[:, 1])
    np.testing.assert_allclose((boxes[:, 2] - boxes[:, 0]) ** 2, 0.9)
    free = ImageAugmentation(diagonal=False).draw(50, np.random.default_rng(0)).boxes
    assert (free[:, 0] != free[:, 1]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def test_changes_stay_in_their_ranges_and_fill_them() -> None:
    changes = ImageAugmentation().draw(2000, np.random.default_rng(0))
    for values, low, high in (
        (changes.brightness, -0.2, 0.2),
        (changes.contrast, 0.8, 1.2),
        (changes.saturation, 0.8, 1.2),
        (changes.hue, -0.05, 0.05),
        (changes.boxes[:, 0], 0, 1 - np.sqrt(0.9)),
    ):
        assert low <= values.min() < low + (high - low) / 50
        assert high - (high - low) / 50 < values.max() <= high


def test_images_are_changed_each_in_its_own_way_and_repeatably() -> None:
    (image,) = load("scene256/libero_image_224")
    images = np.repeat(image[None], 3, axis=0)
    before = images.copy()
    augment = ImageAugmentation()
    first = augment(images, np.random.default_rng(5))
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, augment(images, np.random.default_rng(5)))
    np.testing.assert_array_equal(images, before)


def test_no_change_is_none() -> None:
    (image,) = load("scene256/libero_image_224")
    augment = ImageAugmentation(
        crop_area=1, brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0
    )
    changed = augment(image[None], np.random.default_rng(0))[0].astype(int)
    assert np.abs(changed - image).max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_area": 0},
        {"crop_area": 1.5},
        {"brightness": -0.1},
        {"hue": 0.6},
        {"contrast": (1.2, 0.8)},
        {"saturation": (-1, 1)},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ImageAugmentation(**settings)
