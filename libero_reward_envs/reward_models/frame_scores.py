"""From a classifier's logits of held-out frames to its temperature, threshold and measures."""

import math
import warnings
from typing import NamedTuple

import numpy as np

_N_RESAMPLES = 1000
_MAX_LOG_TEMPERATURE = math.log(100)
_N_HALVINGS = 60  # of an interval of ten, down to rounding


class FrameScores(NamedTuple):
    """Logits of n frames, before calibration, and what is true of them.

    Attributes:
        logits: Shape (n,), float64.
        labels: Whether a frame shows success, shape (n,), bool.
        trajectories: Number of each frame's trajectory, shape (n,), int64; frames lie in order.
    """

    logits: np.ndarray
    labels: np.ndarray
    trajectories: np.ndarray


class Threshold(NamedTuple):
    """A threshold and what it does on the frames it was chosen on.

    Attributes:
        logit: Frames above it count as success; before calibration.
        false_positive_rate: Share of the frames without success that are above it.
        recall: Share of the frames of success that are above it.
    """

    logit: float
    false_positive_rate: float
    recall: float


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature by which dividing logits makes them most likely (Guo et al., 2017).

    Differs from the paper: targets are not 1 and 0 but (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), after
    Platt (1999), for n1 frames of success and n0 others. Without that, logits that separate the two
    without error would be sharpened without end.

    Args:
        logits: Shape (n,).
        labels: Shape (n,), bool.

    Returns:
        The temperature, in [0.01, 100].
    """
    labels = np.asarray(labels, bool)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    # The loss is convex in 1 / T, so its derivative there changes its sign once, or never.
    low, high = -_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        slope = ((to_probability(logits, math.exp(middle)) - targets) * logits).sum()
        low, high = (middle, high) if slope > 0 else (low, middle)  # too sharp: hotter
    return math.exp((low + high) / 2)


def choose_threshold(
    logits: np.ndarray, labels: np.ndarray, target_false_positive_rate: float
) -> Threshold:
    """Choose the threshold that finds the most frames of success at a stated false-positive rate.

    Of all thresholds above which lie at most that share of the frames without success, it takes
    those that find the most frames of success, of these the highest, and there the middle between
    the two scores beside it. Where no frame of success lies above the rate's threshold, nothing is
    to be triggered: the threshold is the highest score of a frame without success, with a warning.

    Args:
        logits: Shape (n,).
        labels: Shape (n,), bool; both values occur.
        target_false_positive_rate: In [0, 1).

    Raises:
        ValueError: If the rate is not in [0, 1) or all labels are the same.
    """
    labels = np.asarray(labels, bool)
    if not 0 <= target_false_positive_rate < 1:
        raise ValueError(
            f"`target_false_positive_rate` must be in [0, 1), got {target_false_positive_rate}."
        )
    true, false = logits[labels], np.sort(logits[~labels])[::-1]
    if not len(true) or not len(false):
        raise ValueError(
            f"Expected frames of both labels, got {len(true)} of 1 and {len(false)} of 0."
        )
    # Rounded up by less than a frame: 0.29 * 100 is 28.999999999999996.
    n_allowed = min(math.floor(target_false_positive_rate * len(false) + 1e-9), len(false) - 1)
    found = true[true > false[n_allowed]]
    if len(found):
        above = found.min()
        threshold = float((false[false < above].max() + above) / 2)
    else:
        threshold = float(false[0])
        warnings.warn(
            f"No frame of success scores above all but {n_allowed} of the {len(false)} frames "
            "without: at this false-positive rate the classifier finds nothing. Give it more or "
            "better data, or a higher rate.",
            stacklevel=3,
        )
    return Threshold(threshold, float((false > threshold).mean()), float((true > threshold).mean()))


def measure_scores(scores: FrameScores, temperature: float = 1.0) -> dict[str, float]:
    """Return measures of ranking and, with a temperature, of calibration.

    `average_precision` and `auroc` are of success, ties counting half in the latter; `accuracy` is
    at a probability of 0.5; `log_loss`, `brier` and `ece`, in ten bins, are of the probabilities.
    """
    probabilities = to_probability(scores.logits, temperature)
    labels, margins = scores.labels, np.where(scores.labels, -1, 1) * scores.logits / temperature
    return {
        "average_precision": compute_average_precision(scores.logits, labels),
        "auroc": compute_auroc(scores.logits, labels),
        "accuracy": float(((probabilities > 0.5) == labels).mean()),
        "log_loss": float(np.logaddexp(0, margins).mean()),
        "brier": float(np.square(probabilities - labels).mean()),
        "ece": compute_ece(probabilities, labels),
    }


def measure_triggers(
    scores: FrameScores, threshold: float, rng: np.random.Generator, within_steps: int = 5
) -> dict[str, float | int | None]:
    """Return what single frames above a threshold do to whole trajectories.

    `false_trigger_share`: trajectories without success that have a frame above the threshold.
    `early_trigger_share`: those with success that have one before the first frame of success.
    `detected_share`: those with success that have one at, or at most `within_steps` after it.
    `false_positive_rate_interval`: the middle 95 % of the rate over frames when the trajectories
    are drawn again, with replacement; it says nothing where no frame is a false positive. What does
    not occur is None.
    """
    n_failed, n_false, n_early, n_detected, counts = 0, 0, 0, 0, []
    for number in np.unique(scores.trajectories):
        mine = scores.trajectories == number
        above, labels = scores.logits[mine] > threshold, scores.labels[mine]
        counts.append((int((above & ~labels).sum()), int((~labels).sum())))
        if not labels.any():
            n_failed += 1
            n_false += bool(above.any())
            continue
        first = int(labels.argmax())
        n_early += bool(above[:first].any())
        n_detected += bool(above[first : first + within_steps + 1].any())
    n_solved = len(counts) - n_failed
    low, high = _resample_rate(np.array(counts), rng)
    return {
        "n_failed_trajectories": n_failed,
        "n_successful_trajectories": n_solved,
        "false_trigger_share": n_false / n_failed if n_failed else None,
        "early_trigger_share": n_early / n_solved if n_solved else None,
        "detected_share": n_detected / n_solved if n_solved else None,
        "false_positive_rate_low": low,
        "false_positive_rate_high": high,
    }


def _resample_rate(counts: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of sum / sum over rows (false positives, negatives)."""
    drawn = rng.integers(len(counts), size=(_N_RESAMPLES, len(counts)))
    false, negative = counts[drawn].sum(1).T
    low, high = np.percentile(false / np.maximum(negative, 1), [2.5, 97.5])
    return float(low), float(high)


def to_probability(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return sigmoid(logits / temperature), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64) / temperature))


def compute_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the probability that a true label scores above a false one, ties counting half."""
    labels = np.asarray(labels, bool)
    true, false = scores[labels], np.sort(scores[~labels])
    below = np.searchsorted(false, true, "left") + np.searchsorted(false, true, "right")
    return float(below.mean() / 2 / len(false))


def compute_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean precision over the recalls gained, one threshold for each distinct score."""
    labels = np.asarray(labels, bool)
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(labels[order])[last_of_ties]
    precision = hits / (last_of_ties + 1)
    return float((np.diff(hits, prepend=0) / labels.sum() * precision).sum())


def compute_ece(probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error, in bins of equal width, the last one closed.

    sum over bins of (share of rows in it) |mean probability - share of true labels|.
    """
    bins = np.minimum((np.asarray(probabilities) * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, probabilities - np.asarray(labels, float), n_bins)
    return float(np.abs(gaps).sum() / len(bins))
