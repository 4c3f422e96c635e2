import numpy as np
import pytest
from PIL import Image

from libero_reward_envs.openvla.picture_resizer import PictureResizer

HALF = (0.5, 0.5, 0.5)


def make_picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("strategy", ["resize-naive", "letterbox", "resize-crop"])
@pytest.mark.parametrize("size", [(61, 97), (97, 60), (224, 224), (7, 300)])
def test_pictures_get_the_size(strategy: str, size: tuple[int, int]) -> None:
    resizer = PictureResizer.make(strategy, (56, 56), HALF)
    assert resizer(make_picture(*size)).size == (56, 56)


def test_a_letterbox_has_bars_of_the_mean_colour() -> None:
    resizer = PictureResizer.make("letterbox", (40, 40), (0.2, 0.4, 0.6))
    boxed = np.asarray(resizer(make_picture(40, 20)))
    np.testing.assert_array_equal(boxed[:8], np.broadcast_to([51, 102, 153], (8, 40, 3)))
    assert boxed[12:28].std() > 10


def test_a_crop_keeps_the_middle() -> None:
    picture = make_picture(60, 20)
    cut = PictureResizer.make("resize-crop", (20, 20), HALF)(picture)
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(picture)[:, 20:40])


def test_pictures_that_stay_as_they_are_are_known() -> None:
    for strategy in ("resize-naive", "letterbox", "resize-crop"):
        resizer = PictureResizer.make(strategy, (20, 20), HALF)
        assert resizer.keeps(20, 20)
        assert not resizer.keeps(20, 24)
        picture = make_picture(20, 20)
        np.testing.assert_array_equal(np.asarray(resizer(picture)), np.asarray(picture))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 20), "resize": 20}, "1 to 4096"),
        ({"size": (20, 20), "resize": 10**6}, "1 to 4096"),
        ({"size": (20, 20), "resize": (20, 10)}, "Cannot cut"),
        ({"size": (20, 20), "resize": 20, "interpolation": "cubic"}, "bicubic"),
    ],
)
def test_impossible_sizes_and_interpolations_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PictureResizer(**arguments)


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'squash'.*resize-naive, letterbox, resize-crop"):
        PictureResizer.make("squash", (20, 20), HALF)
