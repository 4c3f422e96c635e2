"""One number and an interval from a few runs on a few tasks, after Agarwal et al. (2021).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021,
arXiv 2108.13264.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores, after Agarwal et al. (2021), section 4.3.

    floor(n / 4) scores are left out at each end, as in the authors' code. So three seeds of one
    task give their plain mean: nothing can be left out of fewer than four scores.

    Args:
        scores: Any shape; scores of several tasks must be on one scale.

    Raises:
        ValueError: If there is no score, or one that is not finite.

    Example:
        >>> interquartile_mean([0.0, 1.0, 3.0, 100.0])
        2.0
    """
    ordered = np.sort(_check_scores(scores), axis=None)
    n_cut = len(ordered) // 4
    return float(ordered[n_cut : len(ordered) - n_cut].mean())


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a stratified bootstrap, after Agarwal et al. (2021), 4.1.

    Runs are drawn with replacement within each task, never across tasks, so that a resample holds
    as many runs of a task as there are. With three seeds the interval cannot be wider than from
    the worst run to the best; it is a rough one.

    Args:
        strata: One task's scores a stratum, one a run (seed); each of any length.
        rng: Draws the resamples.
        statistic: What is asked about; gets all scores of a resample, shape (n,).
        n_resamples: How many resamples.
        confidence: Share of the resampled statistics between the ends.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: If there is no stratum or an empty one, a score is not finite, or an argument
            is out of range.

    Example:
        >>> bootstrap_interval([[1.0, 1.0, 1.0]], np.random.default_rng(0))
        (1.0, 1.0)
    """
    if n_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            "Expected `n_resamples` of at least 1 and `confidence` in (0, 1), got "
            f"{n_resamples} and {confidence}."
        )
    if not len(strata):
        raise ValueError("Expected the scores of at least one task, got none.")
    drawn = []
    for stratum in strata:
        scores = _check_scores(stratum).reshape(-1)
        drawn.append(scores[rng.integers(len(scores), size=(n_resamples, len(scores)))])
    values = [statistic(resample) for resample in np.concatenate(drawn, axis=1)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _check_scores(scores: ArrayLike) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    if not array.size:
        raise ValueError("Expected at least one score, got none.")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected finite scores, got {array.tolist()}.")
    return array
