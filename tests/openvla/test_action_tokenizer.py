from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.openvla.action_tokenizer import ActionTokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing" / "action_tokenizer.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ("values", "token_ids"),
        ("batch", "batch_token_ids"),
        ("batch_float32", "batch_float32_token_ids"),
    ],
)
def test_ids_are_the_golden_ones(golden: dict[str, np.ndarray], values: str, ids: str) -> None:
    encoded = ActionTokenizer().encode(golden[values])
    assert encoded.dtype == np.int64
    np.testing.assert_array_equal(encoded, golden[ids])


def test_bins_are_the_golden_ones(golden: dict[str, np.ndarray]) -> None:
    tokenizer = ActionTokenizer()
    np.testing.assert_array_equal(tokenizer.bins, golden["bins"])
    np.testing.assert_array_equal(tokenizer.bin_centers, golden["bin_centers"])
    assert tokenizer.begin_id == golden["action_token_begin_idx"]


def test_every_id_of_the_vocabulary_is_decoded_as_the_golden_one(
    golden: dict[str, np.ndarray],
) -> None:
    tokenizer = ActionTokenizer()
    np.testing.assert_array_equal(tokenizer.decode(golden["token_ids"]), golden["decoded"])
    np.testing.assert_array_equal(tokenizer.decode(golden["all_token_ids"]), golden["all_decoded"])


def test_not_a_number_counts_as_one(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(
        ActionTokenizer().encode(np.array([np.nan])), golden["nan_token_id"]
    )


def test_only_action_ids_are_actions() -> None:
    ids = np.array([31743, 31744, 31999, 32000])
    assert ActionTokenizer().is_action(ids).tolist() == [False, True, True, False]


def test_another_number_of_bins_comes_back_within_half_a_bin() -> None:
    tokenizer = ActionTokenizer(vocab_size=100, n_bins=11)
    values = np.linspace(-1, 1, 101)
    assert np.abs(tokenizer.decode(tokenizer.encode(values)) - values).max() <= 0.1 + 1e-12


@pytest.mark.parametrize(("vocab_size", "n_bins"), [(32000, 1), (100, 101)])
def test_impossible_numbers_of_bins_are_refused(vocab_size: int, n_bins: int) -> None:
    with pytest.raises(ValueError, match="n_bins"):
        ActionTokenizer(vocab_size, n_bins)
