import numpy as np
import pytest

from libero_reward_envs.encoders.memory_cache import MemoryFeatureCache
from tests.encoders.small_encoders import ImageMeanEncoder
from tests.encoders.test_base import draw_images

ROW_BYTES = 12


def encode(cache, encoder, images):
    features = cache.encode(encoder, {"agentview_image": images})
    np.testing.assert_array_equal(features, ImageMeanEncoder().encode({"agentview_image": images}))
    return features


def test_a_frame_is_encoded_once():
    cache, encoder, images = MemoryFeatureCache(), ImageMeanEncoder(), draw_images(4)
    encode(cache, encoder, images)
    encode(cache, encoder, images[[3, 0, 0]])
    encode(cache, encoder, np.concatenate([images[2:], draw_images(2, seed=1)]))
    assert encoder.batches == [4, 2]
    assert (cache.n_encoded, cache.n_found) == (6, 5)


def test_rows_that_are_alike_are_one():
    cache, encoder = MemoryFeatureCache(), ImageMeanEncoder()
    encode(cache, encoder, draw_images(1)[[0, 0, 0]])
    assert encoder.batches == [1]


def test_the_one_not_used_for_longest_goes_first():
    cache, encoder, images = MemoryFeatureCache(3 * ROW_BYTES), ImageMeanEncoder(), draw_images(4)
    encode(cache, encoder, images[:3])
    encode(cache, encoder, images[:1])
    encode(cache, encoder, images[3:])
    assert len(cache) == 3
    encode(cache, encoder, images[[0, 2, 3]])
    assert encoder.batches == [3, 1]
    encode(cache, encoder, images[[1]])
    assert encoder.batches == [3, 1, 1]


def test_nothing_is_kept_without_room_and_batches_larger_than_it_are_right():
    encoder, images = ImageMeanEncoder(), draw_images(5)
    for max_bytes in (0, 2 * ROW_BYTES):
        cache = MemoryFeatureCache(max_bytes)
        encode(cache, encoder, images)
        encode(cache, encoder, images)
        assert len(cache) == max_bytes // ROW_BYTES
    with pytest.raises(ValueError, match="max_bytes"):
        MemoryFeatureCache(-1)


def test_encoders_do_not_see_each_others_features():
    cache, images = MemoryFeatureCache(), draw_images(3)
    one, ten = ImageMeanEncoder(), ImageMeanEncoder(factor=10.0)
    features = encode(cache, one, images)
    tenfold = cache.encode(ten, {"agentview_image": images})
    np.testing.assert_allclose(tenfold, 10 * features, rtol=1e-6)


def test_what_is_returned_may_be_changed():
    cache, encoder, images = MemoryFeatureCache(), ImageMeanEncoder(), draw_images(3)
    encode(cache, encoder, images)[:] = 0
    encode(cache, encoder, images)
