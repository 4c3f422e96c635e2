import numpy as np
import pytest
import torch

from tests.reward_models.classifier_makers import fit, read_all

# Few frames are held out, for speed.
pytestmark = pytest.mark.filterwarnings("ignore:.*held-out frames without success are too few")


@pytest.mark.parametrize("max_cache_bytes", [2**31, 0])
def test_an_epoch_of_drawn_frames_learns_as_well(sides, weights_path, max_cache_bytes):
    batches: list[int] = []
    settings = {"frames_per_epoch": 60, "n_epochs": 16, "max_cache_bytes": max_cache_bytes}
    model = fit(sides, weights_path, on_batch=batches.append, **settings)
    assert sum(batches) == pytest.approx(16 * 60, rel=0.1)
    assert model.training["settings"]["frames_per_epoch"] == 60
    quality = model.training["quality"]
    assert quality["average_precision"] > 0.95
    # More than half of what was drawn are successes, of the data an eighth: that is believed.
    images, labels = read_all(sides[1])
    assert model.compute_probability(images).mean() == pytest.approx(labels.mean(), abs=0.1)


def test_shifted_images_are_learnt_from_and_decided_by_the_seed(sides):
    one, again, other = (
        fit(sides, n_epochs=1, frames_per_epoch=48, **changes)
        for changes in ({"max_shift_px": 2}, {"max_shift_px": 2}, {})
    )
    weights, others = one.get_weights(), other.get_weights()
    assert all(np.array_equal(value, again.get_weights()[key]) for key, value in weights.items())
    assert any(not np.array_equal(value, others[key]) for key, value in weights.items())


def test_the_learning_rate_falls_as_a_half_cosine(sides, weights_path, tmp_path):
    rates: list[float] = []
    run = {"n_epochs": 4, "lr_schedule": "cosine", "checkpoint_folder": tmp_path}

    def note(optimizer):
        rates.append(optimizer.param_groups[0]["lr"])

    steps = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self: (note(self), steps(self)))
        fit(sides, weights_path, **run)
    n_batches = len(rates) // 4
    expected = 1e-3 * 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    assert rates[::n_batches] == pytest.approx(expected)
    assert rates[n_batches - 1 :: n_batches] == pytest.approx(expected)
    with pytest.raises(ValueError, match="differs in n_epochs"):
        fit(sides, weights_path, **{**run, "n_epochs": 5})
