import itertools

import numpy as np
import pytest

from libero_reward_envs.data.orientations import ORIENTATIONS, turn_images

RAW = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)  # two pictures


def test_the_orientations_are_what_their_names_say():
    np.testing.assert_array_equal(turn_images(RAW, "raw", "upright"), RAW[:, ::-1])
    np.testing.assert_array_equal(turn_images(RAW, "raw", "vla180"), RAW[:, ::-1, ::-1])
    np.testing.assert_array_equal(turn_images(RAW[0], "upright", "vla180"), RAW[0, :, ::-1])


@pytest.mark.parametrize(("first", "second"), itertools.product(ORIENTATIONS, repeat=2))
def test_turning_there_and_back_changes_nothing(first, second):
    turned = turn_images(RAW, first, second)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turn_images(turned, second, first), RAW)
    through_raw = turn_images(turn_images(RAW, first, "raw"), "raw", second)
    np.testing.assert_array_equal(turned, through_raw)


def test_an_unknown_orientation_is_refused():
    with pytest.raises(ValueError, match="Unknown orientation 'left'"):
        turn_images(RAW, "raw", "left")
