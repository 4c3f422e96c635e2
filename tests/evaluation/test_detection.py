import numpy as np
import pytest

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.evaluation.detection import (
    JudgedEpisode,
    judge_episodes,
    measure_detection,
)
from libero_reward_envs.evaluation.detection_figure import (
    cut_strip,
    draw_detection,
    draw_film_strips,
)
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel


def make_judged(n_steps, above=(), solved=()):
    """An episode whose probability is 0.9 at the steps of `above` and 0.1 at the others."""
    probabilities = np.full(n_steps, 0.1)
    probabilities[list(above)] = 0.9
    labels = np.zeros(n_steps, bool)
    labels[list(solved)] = True
    return JudgedEpisode(probabilities, labels)


def make_episode(images, rewards, with_labels=None):
    observations = {"a": images, "unused": np.zeros(len(images))}
    if with_labels is not None:
        observations["is_success"] = np.append(0, with_labels)
    actions = np.zeros((len(rewards), 7))
    metadata = {"policy": "expert"}
    return Episode(observations, actions, rewards, False, True, metadata=metadata)


@pytest.mark.parametrize(
    ("above", "k", "n", "trigger"),
    [
        ((4,), 1, 1, 4),
        ((4,), 2, 3, None),  # a single frame is no event
        ((4, 6), 2, 3, 6),
        ((4, 7), 2, 3, None),
        ((0, 1, 8, 9), 2, 3, 1),
        ((2, 4, 6), 3, 5, 6),
    ],
)
def test_an_event_is_k_of_the_last_n_frames(above, k, n, trigger):
    assert make_judged(10, above).find_trigger(0.5, k, n) == trigger


def test_the_threshold_itself_is_not_above_it():
    assert make_judged(4, range(4)).find_trigger(0.9, 1, 1) is None
    assert make_judged(4, range(4)).find_trigger(0.8999, 1, 1) == 0


def test_events_are_counted_as_early_detected_late_and_missed():
    solved = range(10, 20)
    judged = [
        make_judged(20, range(10, 20), solved),  # event at 11: delay 1
        make_judged(20, range(14, 20), solved),  # at 15: delay 5, just in time
        make_judged(20, range(15, 20), solved),  # at 16: delay 6
        make_judged(20, (3, 4, 12, 13), solved),  # at 4: lead 6, whatever comes later
        make_judged(20, (), solved),
        make_judged(20, (5,)),  # a failure; one frame alone is no event
        make_judged(20, (5, 7)),
        make_judged(20),
        make_judged(20),
    ]
    measured = measure_detection(judged, 0.5)
    assert (measured["n_episodes"], measured["n_failed"], measured["n_successes"]) == (9, 4, 5)
    assert measured["false_trigger_share"] == 1 / 4
    assert measured["false_triggers"] == [6]
    assert measured["false_trigger_low"] < 1 / 4 < measured["false_trigger_high"] < 0.75
    assert measured["early_share"] == measured["late_share"] == measured["missed_share"] == 1 / 5
    assert measured["detected_share"] == 2 / 5
    assert measured["near_share"] == 2 / 5  # a lead of 6 is too much
    assert measure_detection(judged, 0.5, within_steps=6)["near_share"] == 4 / 5
    assert (measured["early"], measured["late"], measured["missed"]) == ([3], [2], [4])
    assert measured["median_delay_steps"] == 5
    assert measured["max_delay_steps"] == 6
    assert measured["max_lead_steps"] == 6


def test_frames_are_measured_too():
    judged = [make_judged(4, (2, 3), (1, 2, 3)), make_judged(6, (0,))]
    measured = measure_detection(judged, 0.5)
    assert (measured["n_frames"], measured["n_positive_frames"]) == (10, 3)
    assert measured["recall"] == 2 / 3
    assert measured["false_positive_rate"] == 1 / 7
    # Two thresholds: above 0.5 lie three frames, two of them true; then all ten.
    assert measured["average_precision"] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 10)
    assert measured["auroc"] == pytest.approx((2 * (6 + 0.5) + 1 * (0 + 3)) / 21)


def test_without_a_window_every_frame_is_an_event():
    measured = measure_detection([make_judged(20, (5,)), make_judged(20, (9,), (9, 10))], 0.5, 1, 1)
    assert measured["false_trigger_share"] == 1
    assert measured["median_delay_steps"] == 0


def test_a_success_that_does_not_last_counts_from_its_first_step():
    measured = measure_detection([make_judged(20, (8, 9), (4, 8, 9))], 0.5)
    assert measured["max_delay_steps"] == 5
    assert measured["n_positive_frames"] == 3


def test_what_does_not_occur_is_none():
    failed = measure_detection([make_judged(5)], 0.5)
    assert failed["detected_share"] is failed["median_delay_steps"] is failed["auroc"] is None
    assert failed["average_precision"] is failed["recall"] is None
    assert failed["false_trigger_share"] == 0
    solved = measure_detection([make_judged(5, (), range(5))], 0.5)
    assert solved["false_trigger_share"] is solved["false_positive_rate"] is None
    assert solved["missed_share"] == 1
    with pytest.raises(ValueError, match="Expected episodes"):
        measure_detection([], 0.5)
    with pytest.raises(ValueError, match="window"):
        measure_detection([make_judged(5)], 0.5, 3, 2)


@pytest.fixture
def model():
    """Random weights; what it says is not the point."""
    from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier

    network = BinaryRewardClassifier(["a"], [3, 32, 32], use_pretrain=False, freeze_encoder=False)
    return ClassifierRewardModel.from_classifier(network)


def test_the_observation_after_each_step_is_judged(model):
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    (judged,) = judge_episodes(model, [make_episode(images, np.arange(8) >= 6)])
    np.testing.assert_allclose(
        judged.probabilities, model.compute_probability({"a": images[1:]}), rtol=1e-5
    )
    assert judged.labels.tolist() == [False] * 6 + [True] * 2
    assert (judged.first_success, judged.kind) == (6, "expert")


def test_the_observed_label_is_preferred_to_the_reward(model, tmp_path):
    from libero_reward_envs.data import EpisodeWriter, load_episodes

    images = np.zeros((4, 32, 32, 3), np.uint8)
    with EpisodeWriter(tmp_path / "episodes.hdf5") as writer:
        writer.append(make_episode(images, np.array([0.5, -1, 3]), with_labels=[0, 1, 0.4]))
    (judged,) = judge_episodes(model, load_episodes(tmp_path / "episodes.hdf5"))
    assert judged.labels.tolist() == [False, True, False]


def test_episodes_without_known_success_are_refused(model):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"rewards of 0 and 1.*in episode 0, got a reward of 0\.5"):
        judge_episodes(model, [make_episode(images, np.array([0.5, 0, 1]))])
    with pytest.raises(ValueError, match=r"[Nn]o observation"):
        judge_episodes(model, [make_episode(images, np.ones(3)).select(["unused"])])


def test_the_figures_are_drawn(tmp_path):
    from PIL import Image

    judged = [make_judged(20, range(10, 20), range(9, 20)), make_judged(20, (5, 6)), make_judged(9)]
    draw_detection(tmp_path / "curves.png", judged, 0.5, title="Soup")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    strips = [cut_strip("first", judged[0], images, 19), cut_strip("second", judged[1], images, 5)]
    assert [strip.captions[0] for strip in strips] == ["12: 0.90 solved", "1: 0.10"]
    np.testing.assert_array_equal(strips[0].images, images[12:])
    draw_film_strips(tmp_path / "frames.png", strips)
    for name in ("curves.png", "frames.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
