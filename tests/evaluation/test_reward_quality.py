"""Splits by episode, and measures that a clock cannot pass."""

import json
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.evaluation.reward_quality import (
    ScoredEpisode,
    compare_matched,
    compute_auroc,
    compute_average_precision,
    compute_pearson,
    compute_spearman,
    judge_reward,
    judge_scores,
    split_episodes,
)
from libero_reward_envs.reward_models.base import Transitions

GOLDEN = Path(__file__).parents[1] / "data" / "reward_metrics" / "success_classification.npz"


class FirstCoordinate:
    """Pays the first number of the next observation, less a constant."""

    observation_keys = ("state",)

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        values = transitions.next_observations["state"][:, 0]
        return (values - self.offset).astype(np.float32)


def make_episode(success: bool, values: list[float]) -> Episode:
    rewards = np.zeros(len(values))
    rewards[-1] = success
    return Episode(
        {"state": np.array([[0.0], *[[value] for value in values]])},
        np.zeros((len(values), 1)),
        rewards,
        terminated=success,
        success=success,
    )


def make_dataset(n_successes: int, n_failures: int) -> EpisodeDataset:
    outcomes = [True] * n_successes + [False] * n_failures
    return EpisodeDataset([make_episode(success, [0.0, 1.0]) for success in outcomes])


def score(success: bool, rewards: list[float]) -> ScoredEpisode:
    return ScoredEpisode(success, float(success), np.array(rewards, np.float32))


def test_a_split_keeps_episodes_whole_and_both_outcomes_on_both_sides() -> None:
    dataset = make_dataset(10, 5)
    train, holdout = split_episodes(dataset, 0.4, np.random.default_rng(0))
    successes = [sum(summary.success for summary in side.summaries()) for side in (train, holdout)]
    assert (len(train), len(holdout)) == (9, 6)
    assert successes == [6, 4]
    again = split_episodes(dataset, 0.4, np.random.default_rng(0))[1]
    assert [id(episode) for episode in again] == [id(episode) for episode in holdout]
    assert {id(e) for e in train} | {id(e) for e in holdout} == {id(e) for e in dataset}


def test_different_generators_split_differently() -> None:
    dataset = make_dataset(20, 20)
    splits = [split_episodes(dataset, 0.5, np.random.default_rng(seed))[1] for seed in (0, 1)]
    first, second = ([id(episode) for episode in split] for split in splits)
    assert first != second


def test_a_small_share_still_holds_out_one_of_each_outcome() -> None:
    for fraction in (0.01, 0.99):
        for side in split_episodes(make_dataset(2, 2), fraction, np.random.default_rng(0)):
            assert sorted(summary.success for summary in side.summaries()) == [False, True]


def test_one_outcome_alone_can_be_split() -> None:
    train, holdout = split_episodes(make_dataset(4, 0), 0.25, np.random.default_rng(0))
    assert (len(train), len(holdout)) == (3, 1)


@pytest.mark.parametrize(("successes", "failures"), [(1, 5), (5, 1), (0, 0)])
def test_a_split_without_enough_episodes_is_refused(successes: int, failures: int) -> None:
    with pytest.raises(ValueError, match="episodes"):
        split_episodes(make_dataset(successes, failures), 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_share_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="holdout_fraction"):
        split_episodes(make_dataset(2, 2), fraction, np.random.default_rng(0))


def test_auroc_and_average_precision_match_golden_values_with_ties() -> None:
    golden = np.load(GOLDEN)
    auroc = compute_auroc(golden["probs"], golden["labels"])
    precision = compute_average_precision(golden["probs"], golden["labels"])
    assert auroc == pytest.approx(float(golden["auroc"]), abs=1e-12)
    assert precision == pytest.approx(float(golden["average_precision"]), abs=1e-12)


def test_correlations_match_scipy() -> None:
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 40).astype(float)
    b = a + rng.normal(size=40)
    assert compute_spearman(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert compute_pearson(a, b) == pytest.approx(pearsonr(a, b)[0])


def test_matched_comparison_by_hand() -> None:
    differences = compare_matched([np.array([1.0, 1.0, -5.0]), np.array([0.5, 1.0])])
    np.testing.assert_allclose(differences, [[0.0, 0.5], [-0.5, 0.0]])


def test_a_clock_separates_by_length_and_has_no_advantage_at_equal_lengths() -> None:
    scored = [score(True, [-1.0] * n) for n in (10, 12)] + [score(False, [-1.0] * 30)] * 3
    quality = judge_scores(scored)
    assert quality["return_auroc"] == 1.0  # which is why this number alone is no evidence
    assert quality["clock_auroc"] == 1.0
    assert quality["matched_auroc"] == quality["clock_matched_auroc"] == 0.5
    assert quality["mean_auroc"] == 0.5


def test_the_clock_is_judged_in_its_better_direction() -> None:
    scored = [score(True, [0.0] * 30), score(False, [0.0] * 10)]
    assert judge_scores(scored)["clock_auroc"] == 1.0


def test_a_reward_that_sees_the_outcome_passes_at_equal_lengths_whatever_its_offset() -> None:
    good, bad = [0.1, 0.2, 0.9, 0.9], [0.1, 0.2, 0.1, 0.0, 0.0, 0.0]
    dataset = EpisodeDataset([make_episode(True, good), make_episode(False, bad)] * 2)
    for offset in (0.0, 5.0, -5.0):
        quality = judge_reward(FirstCoordinate(offset), dataset)
        assert quality["matched_auroc"] == quality["matched_pairwise_accuracy"] == 1.0
        assert quality["mean_auroc"] == 1.0
    # A positive constant makes long failures look good: the whole return is fooled, others not.
    assert judge_reward(FirstCoordinate(-5.0), dataset)["return_auroc"] == 0.0


def test_a_reward_that_prefers_failures_is_seen_in_spite_of_its_offset() -> None:
    scored = [score(True, [-2.0] * 10), score(False, [-1.9] * 30)]
    quality = judge_scores(scored)
    assert quality["return_auroc"] == 1.0
    assert quality["matched_auroc"] == 0.0


def test_what_is_undefined_is_none_with_a_reason() -> None:
    quality = judge_scores([score(True, [1.0, 2.0]), score(True, [1.0, 2.0, 3.0])])
    for name in ("return_auroc", "mean_auroc", "matched_auroc", "clock_auroc", "return_spearman"):
        assert quality[name] is None
    assert "all 2 episodes are successes" in str(quality["undefined"])
    assert "undefined" not in judge_scores([score(True, [1.0, 2.0]), score(False, [1.0, 3.0])])


def test_a_reward_spread_evenly_is_told_from_one_that_varies() -> None:
    flat = judge_scores([score(True, [1.0] * 5), score(False, [0.0] * 5)])
    assert flat["within_episode_share"] == flat["within_episode_std"] == 0.0
    varied = judge_scores([score(True, [0.0, 1.0]), score(False, [0.0, 1.0])])
    assert varied["within_episode_share"] == pytest.approx(1.0)
    constant = judge_scores([score(True, [0.1] * 5), score(False, [0.1] * 7)])
    assert constant["within_episode_share"] is None


def test_the_result_is_json_without_nan() -> None:
    for scored in ([score(True, [1.0])], [score(True, [1.0, 0.5]), score(False, [0.0])]):
        quality = judge_scores(scored)
        assert json.loads(json.dumps(quality, allow_nan=False)) == quality


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        judge_reward(FirstCoordinate(), EpisodeDataset([]))
