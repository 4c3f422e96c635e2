import warnings
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.evaluation import reward_quality
from libero_reward_envs.reward_models.frame_scores import (
    FrameScores,
    choose_threshold,
    compute_auroc,
    compute_average_precision,
    compute_ece,
    fit_temperature,
    measure_scores,
    measure_triggers,
    to_probability,
)

GOLDEN = Path(__file__).parents[1] / "data" / "reward_metrics" / "success_classification.npz"


def draw(n=4000, sharpness=1.0, seed=0):
    """Logits that are true when divided by `sharpness`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, n)
    labels = rng.random(n) < to_probability(logits)
    return logits * sharpness, labels


def test_the_measures_are_the_golden_ones():
    golden = np.load(GOLDEN)
    probs, labels = golden["probs"], golden["labels"]
    assert compute_auroc(probs, labels) == pytest.approx(float(golden["auroc"]), abs=1e-12)
    found = compute_average_precision(probs, labels)
    assert found == pytest.approx(float(golden["average_precision"]), abs=1e-12)
    assert compute_ece(probs, labels) == pytest.approx(float(golden["ece10"]), abs=1e-12)
    inside = np.clip(probs, 1e-9, 1 - 1e-9)
    scores = FrameScores(np.log(inside / (1 - inside)), labels == 1, np.zeros(len(labels), int))
    measures = measure_scores(scores)
    assert measures["brier"] == pytest.approx(float(golden["brier"]), abs=1e-9)
    assert measures["log_loss"] == pytest.approx(float(golden["log_loss"]), abs=1e-6)
    half = golden["table"][golden["table"][:, 0] == 0.5][0]
    accuracy = half[list(golden["columns"]).index("accuracy")]
    assert measures["accuracy"] == pytest.approx(accuracy, abs=5 / 400)  # ties at 0.5


def test_the_measures_of_ranking_are_those_of_counting_pairs_and_thresholds():
    logits, labels = draw(500)
    logits = np.round(logits, 1)  # with ties
    differences = logits[labels][:, None] - logits[~labels]
    pairs = (differences > 0) + 0.5 * (differences == 0)
    assert compute_auroc(logits, labels) == pytest.approx(pairs.mean())
    precision_gained, before = 0.0, 0.0
    for threshold in sorted(set(logits), reverse=True):
        above = logits >= threshold
        recall = (above & labels).sum() / labels.sum()
        precision_gained += (recall - before) * (above & labels).sum() / above.sum()
        before = recall
    assert compute_average_precision(logits, labels) == pytest.approx(precision_gained)


def test_reward_quality_measures_the_same_and_knows_what_is_not_defined():
    logits, labels = draw(500)
    assert reward_quality.compute_auroc(logits, labels) == compute_auroc(logits, labels)
    assert reward_quality.compute_average_precision(logits, labels) == compute_average_precision(
        logits, labels
    )
    assert reward_quality.compute_auroc(logits, np.ones(500, bool)) is None
    assert reward_quality.compute_average_precision(logits, np.zeros(500, bool)) is None


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 5.0])
def test_the_temperature_is_how_sharp_the_logits_are(sharpness):
    assert fit_temperature(*draw(sharpness=sharpness)) == pytest.approx(sharpness, rel=0.1)


def test_the_temperature_improves_the_calibration_of_other_overconfident_frames():
    temperature = fit_temperature(*draw(sharpness=5.0))
    logits, labels = draw(sharpness=5.0, seed=1)
    before = compute_ece(to_probability(logits), labels)
    after = compute_ece(to_probability(logits, temperature), labels)
    assert before > 0.1
    assert after < before / 4


def test_frames_that_are_separated_without_error_are_not_sharpened_without_end():
    labels = np.arange(100) < 30
    temperature = fit_temperature(np.where(labels, 4.0, -4.0), labels)
    assert 0.5 < temperature < 2


def test_scores_that_say_nothing_become_even():
    labels = np.arange(100) < 30
    assert fit_temperature(np.where(labels, -4.0, 4.0), labels) == pytest.approx(100)


def test_the_threshold_of_a_case_by_hand():
    #          labels 0 0 0 0 1 0 1 1
    logits = np.array([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 5.0])
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 1], bool)
    assert choose_threshold(logits, labels, 0.0) == (3.0, 0.0, 2 / 3)
    assert choose_threshold(logits, labels, 0.19) == (3.0, 0.0, 2 / 3)
    assert choose_threshold(logits, labels, 0.2) == (0.5, 0.2, 1.0)
    # More false positives would find nothing more.
    assert choose_threshold(logits, labels, 0.9) == (0.5, 0.2, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("decimals", [1, 9])
def test_the_threshold_keeps_the_rate_and_finds_all_that_it_allows(rate, decimals):
    logits, labels = draw(3000)
    logits = np.round(logits, decimals)
    threshold = choose_threshold(logits, labels, rate)
    assert threshold.false_positive_rate <= rate
    assert threshold.logit not in logits
    for other in np.unique(logits):
        if (logits[~labels] > other).mean() <= rate:
            assert (logits[labels] > other).mean() <= threshold.recall


def test_without_a_frame_to_find_nothing_triggers():
    with pytest.warns(UserWarning, match="finds nothing"):
        threshold = choose_threshold(np.array([0.0, 1.0, 2.0]), np.array([True, False, False]), 0)
    assert threshold == (2.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("labels", "rate", "message"),
    [
        ([True, False], 1.0, "must be in"),
        ([True, False], -0.1, "must be in"),
        ([True, True], 0.1, "both labels"),
        ([False, False], 0.1, "both labels"),
    ],
)
def test_a_wrong_rate_and_one_label_are_refused(labels, rate, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold(np.array([0.0, 1.0]), np.array(labels), rate)


def test_triggers_of_a_case_by_hand():
    rows = [  # labels, logits
        ([0, 0, 0], [-1, -1, -1]),  # fails, quiet
        ([0, 0, 0], [-1, 1, -1]),  # fails, triggers
        ([0, 1, 1], [-1, 1, 1]),  # found at once
        ([0, 1, 1], [1, -1, 1]),  # early, and found a step late
        ([0, 1, 1], [-1, -1, -1]),  # never found
    ]
    labels, logits = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
    scores = FrameScores(logits.astype(float), labels == 1, np.repeat(np.arange(5), 3))
    found = measure_triggers(scores, 0.0, np.random.default_rng(0))
    assert found["false_trigger_share"] == 1 / 2
    assert found["early_trigger_share"] == 1 / 3
    assert found["detected_share"] == 2 / 3
    assert measure_triggers(scores, 0.0, np.random.default_rng(0), 0)["detected_share"] == 1 / 3
    low, high = found["false_positive_rate_low"], found["false_positive_rate_high"]
    assert low is not None
    assert high is not None
    assert 0 <= low < 2 / 9 < high  # two false positives of nine frames without success


def test_extreme_logits_do_not_overflow():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = to_probability(np.array([-1e6, 0.0, 1e6]))
    assert found.tolist() == [0.0, 0.5, 1.0]
