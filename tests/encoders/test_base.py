import numpy as np
import pytest

from libero_reward_envs.encoders.base import check_encoders, encode_rows, is_image, select_inputs
from libero_reward_envs.encoders.frame_hashes import find_new_rows, hash_rows
from tests.encoders.small_encoders import ImageMeanEncoder, WordCountEncoder


def draw_images(n, seed=0, size=(4, 6)):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def test_rows_in_batches_are_those_of_one_batch():
    encoder = ImageMeanEncoder()
    inputs = select_inputs(encoder, {"agentview_image": draw_images(7)}, [""] * 7)
    whole = encode_rows(encoder, inputs)
    np.testing.assert_array_equal(encode_rows(encoder, inputs, 3), whole)
    assert encoder.batches == [7, 3, 3, 1]


def test_an_instruction_is_given_to_who_reads_it():
    inputs = select_inputs(WordCountEncoder(), {}, ["open the drawer", "stop"])
    assert encode_rows(WordCountEncoder(), inputs).tolist() == [[3, 15], [1, 4]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((2, 3)), "float32 array, got float64"),
        (np.zeros((2, 4), np.float32), r"shape \(2, 3\), got \(2, 4\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), "others in row 1"),
        ([1.0], "got list"),
    ],
)
def test_what_is_no_features_is_refused(features, message):
    encoder = ImageMeanEncoder()
    encoder.encode = lambda _: features  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=message):
        encode_rows(encoder, {"agentview_image": draw_images(2)})


def test_encoders_must_fit_what_is_there():
    mean = ImageMeanEncoder()
    check_encoders([mean, WordCountEncoder()], ["agentview_image"])
    with pytest.raises(ValueError, match="adds the observation 'mean', which is there already"):
        check_encoders([mean, ImageMeanEncoder()], ["agentview_image"])
    with pytest.raises(ValueError, match=r"reads 'agentview_image', which is not among .*: state"):
        check_encoders([mean], ["state"])
    with pytest.raises(ValueError, match="at least one encoder"):
        check_encoders([], ["state"])


def test_a_hash_tells_bytes_shapes_types_and_keys_apart():
    images = draw_images(3)
    first = hash_rows({"a": images, "b": images}, ["a", "b"])
    assert len(set(first)) == 3
    assert len(first[0]) == 16
    assert hash_rows({"a": images[1:], "b": images[1:]}, ["a", "b"]) == first[1:]
    others = [
        hash_rows({"a": images}, ["a"]),
        hash_rows({"b": images}, ["b"]),
        hash_rows({"a": images.reshape(3, 6, 4, 3)}, ["a"]),
        hash_rows({"a": images.view(np.int8)}, ["a"]),
        hash_rows({"a": np.array(["x", "y", "z"])}, ["a"]),
        hash_rows({"a": np.array(["x", "y", "a much longer one"])}, ["a"])[2:],
    ]
    assert len({found for rows in others for found in rows}) == 16
    assert hash_rows({"a": images[:, ::-1]}, ["a"]) != hash_rows({"a": images}, ["a"])
    swapped = images.astype(">u2")
    assert hash_rows({"a": swapped}, ["a"]) == hash_rows({"a": images.astype("<u2")}, ["a"])
    # The length of a text does not depend on the others.
    assert hash_rows({"a": np.array(["x"])}, ["a"])[0] == others[4][0]


def test_new_rows_are_the_first_of_each():
    assert find_new_rows([b"a", b"b", b"a", b"c", b"c"], {b"b"}) == [0, 3]


def test_images_are_rows_of_bytes_with_channels():
    assert is_image((4, 6, 3), np.uint8)
    assert not is_image((4, 6), np.uint8)
    assert not is_image((4, 6, 3), np.float32)
