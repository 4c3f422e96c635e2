import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean

from libero_reward_envs.evaluation.aggregate import bootstrap_interval, interquartile_mean


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 30])
def test_the_interquartile_mean_is_the_trimmed_mean_of_the_paper(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25), abs=1e-12)


def test_the_interquartile_mean_takes_tasks_together_and_ignores_outliers() -> None:
    scores = np.array([[1.0, -1e9], [2.0, 3.0], [4.0, 1e9], [0.0, 5.0]])
    assert interquartile_mean(scores) == pytest.approx(np.mean([1, 2, 3, 4]))


def test_the_interval_of_two_runs_is_that_of_all_their_resamples() -> None:
    # Means of resamples of (0, 1): 0, 1/2, 1/2, 1; the middle half of them is 1/2.
    rng = np.random.default_rng(0)
    assert bootstrap_interval([[0.0, 1.0]], rng, confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([[0.0, 1.0]], rng, confidence=0.9) == (0.0, 1.0)


def test_runs_are_drawn_within_their_task_only() -> None:
    # If runs moved between tasks, a mean other than this one would occur.
    strata = [[0.0, 0.0, 0.0], [10.0, 10.0, 10.0, 10.0, 10.0]]
    low, high = bootstrap_interval(strata, np.random.default_rng(0), statistic=np.mean)
    assert low == high == pytest.approx(50 / 8)


def test_the_interval_is_about_that_of_all_resamples_of_three_runs() -> None:
    scores = np.array([1.0, 2.0, 6.0])
    means = [np.mean(draw) for draw in itertools.product(scores, repeat=3)]
    expected = np.quantile(means, [0.1, 0.9])
    found = bootstrap_interval(
        [scores], np.random.default_rng(1), n_resamples=20_000, confidence=0.8
    )
    np.testing.assert_allclose(found, expected, atol=0.35)


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = [np.random.default_rng(5).normal(size=6)]
    first, second = (bootstrap_interval(scores, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first[0] < interquartile_mean(scores) < first[1]


@pytest.mark.parametrize("scores", [[], [np.nan], [1.0, np.inf]])
def test_scores_that_are_missing_or_not_finite_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        interquartile_mean(scores)
    with pytest.raises(ValueError, match="Expected"):
        bootstrap_interval([[1.0], scores], np.random.default_rng(0))


@pytest.mark.parametrize("arguments", [{"n_resamples": 0}, {"confidence": 1.0}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="n_resamples"):
        bootstrap_interval([[1.0]], np.random.default_rng(0), **arguments)  # pyright: ignore
    with pytest.raises(ValueError, match="at least one task"):
        bootstrap_interval([], np.random.default_rng(0))
