import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models.frame_draw import FrameDraw, shift_images


def make_batches(n_frames, n_positive, batch_size, seed=0):
    """Shuffled frames that are known by the number in their first pixel."""
    order = np.random.default_rng(seed).permutation(n_frames)
    numbers = torch.from_numpy(order)
    labels = (numbers < n_positive).float()
    images = numbers[:, None, None, None].expand(-1, 1, 2, 2).to(torch.int32)
    for start in range(0, n_frames, batch_size):
        rows = slice(start, start + batch_size)
        yield {"a": images[rows], "b": 2 * images[rows]}, labels[rows]


@pytest.mark.parametrize(
    ("wanted", "balance", "probabilities", "positive_share"),
    [
        (None, True, (1, 1), 0.1),
        (5000, True, (1, 1), 0.1),
        (100, True, (50 / 900, 0.5), 0.5),
        (600, True, (500 / 900, 1), 1 / 6),  # all successes, and still too few of them
        (100, False, (0.1, 0.1), 0.1),
    ],
)
def test_both_labels_are_drawn_alike_as_far_as_there_are_frames(
    wanted, balance, probabilities, positive_share
):
    draw = FrameDraw(900, 100, wanted, balance)
    assert draw.probabilities == pytest.approx(probabilities)
    assert draw.positive_share == pytest.approx(positive_share)
    assert draw.keeps_all == (wanted in (None, 5000))


def test_of_many_successes_some_are_drawn_too():
    assert FrameDraw(100, 900, 600, True).probabilities == pytest.approx((1, 500 / 900))


def test_thinned_batches_hold_each_frame_once_and_are_full():
    draw = FrameDraw(900, 100, 200, True)
    batches = list(draw.thin(make_batches(1000, 100, 64), 32, np.random.default_rng(0)))
    assert [len(labels) for _, labels in batches[:-1]] == [32] * (len(batches) - 1)
    numbers = torch.cat([images["a"][:, 0, 0, 0] for images, _ in batches]).numpy()
    labels = torch.cat([labels for _, labels in batches]).numpy()
    assert len(set(numbers.tolist())) == len(numbers)
    np.testing.assert_array_equal(labels, numbers < 100)
    for images, _ in batches:
        torch.testing.assert_close(images["b"], 2 * images["a"])
    assert (labels == 1).sum() == 100
    assert (labels == 0).sum() == pytest.approx(100, abs=30)  # three deviations


def test_another_epoch_draws_other_frames():
    draw = FrameDraw(1000, 10, 100, True)
    labels = torch.zeros(1000)
    one, other = (draw.choose(labels, np.random.default_rng([0, epoch])) for epoch in (1, 2))
    again = draw.choose(labels, np.random.default_rng([0, 1]))
    assert torch.equal(one, again)
    assert (one & other).sum() < 30 < one.sum()


def test_images_are_shifted_by_whole_pixels_with_their_edges_repeated():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (50, 3, 6, 8), dtype=np.uint8))
    views = {"a": images, "b": images.flip(3)}
    shifted = shift_images(views, 2, torch.Generator().manual_seed(0))
    seen = set()
    for number in range(50):
        padded = np.pad(images[number].numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[:, y : y + 6, x : x + 8], shifted["a"][number].numpy())
        ]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 15
    assert shifted["a"].dtype == torch.uint8
    again = shift_images(views, 2, torch.Generator().manual_seed(0))
    assert torch.equal(again["b"], shifted["b"])
    unmoved = shift_images(views, 0, torch.Generator())
    assert torch.equal(unmoved["a"], images)
