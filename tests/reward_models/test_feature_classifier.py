from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.feature_classifier import FeatureClassifierRewardModel
from libero_reward_envs.reward_models.feature_classifier_fit import fit_feature_classifier
from libero_reward_envs.reward_models.openvla_reward_net import LANGUAGE_KEY, VISION_KEY

SHAPES = {LANGUAGE_KEY: (3,), VISION_KEY: (4,)}
FEW_STEPS: dict[str, Any] = {"hidden_sizes": (16,), "n_epochs": 12, "learning_rate": 3e-3}


def make_episode(seed: int, success: bool, n_steps: int = 12) -> Episode:
    """The vision of the last three observations of a success stands out."""
    rng = np.random.default_rng(seed)
    vision = rng.normal(size=(n_steps + 1, 4)).astype(np.float32)
    rewards = np.zeros(n_steps)
    if success:
        vision[-3:, 0] += 8
        rewards[-3:] = 1
    observations = {LANGUAGE_KEY: np.ones((n_steps + 1, 3), np.float32), VISION_KEY: vision}
    actions = rng.uniform(-1, 1, (n_steps, 2))
    return Episode(observations, actions, rewards, terminated=False, success=success)


def make_episodes(n: int, seed: int = 0) -> list[Episode]:
    return [make_episode(1000 * seed + index, index % 2 == 0) for index in range(n)]


def join(episodes: list[Episode]) -> Transitions:
    parts = [episode.transitions() for episode in episodes]
    first, second = (
        {key: np.concatenate([getattr(part, side)[key] for part in parts]) for key in SHAPES}
        for side in ("observations", "next_observations")
    )
    return Transitions(
        first,
        np.concatenate([part.actions for part in parts]),
        second,
        np.concatenate([part.terminated for part in parts]),
    )


@pytest.fixture(scope="module")
def fitted() -> FeatureClassifierRewardModel:
    return fit_feature_classifier(make_episodes(20), make_episodes(10, seed=1), **FEW_STEPS)


def test_success_is_told_on_episodes_it_never_saw(fitted: FeatureClassifierRewardModel) -> None:
    episodes = make_episodes(20, seed=2)
    labels = np.concatenate([episode.rewards for episode in episodes])
    np.testing.assert_array_equal(fitted.compute_reward(join(episodes)), labels)
    assert fitted.training["quality"]["average_precision"] > 0.95
    assert fitted.class_prior == pytest.approx(0.125)


def test_continuous_rewards_are_probabilities(fitted: FeatureClassifierRewardModel) -> None:
    transitions = join(make_episodes(6, seed=3))
    probabilities = fitted.with_reward_type("continuous").compute_reward(transitions)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    binary = (probabilities > np.float32(fitted.threshold)).astype(np.float32)
    np.testing.assert_array_equal(binary, fitted.compute_reward(transitions))


@pytest.mark.parametrize("reward_type", ["binary", "continuous"])
def test_it_is_a_reward_model(
    fitted: FeatureClassifierRewardModel, reward_type: str, tmp_path: Path
) -> None:
    transitions = join(make_episodes(4, seed=4))
    check_reward_model(fitted.with_reward_type(reward_type), transitions, tmp_path)


def test_threshold_and_temperature_are_saved(
    fitted: FeatureClassifierRewardModel, tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path)
    loaded = load_reward_model(tmp_path)
    assert isinstance(loaded, FeatureClassifierRewardModel)
    assert loaded.calibration == fitted.calibration
    assert loaded.training["quality"] == fitted.training["quality"]


def test_a_stopped_training_goes_on_to_the_same_weights(
    fitted: FeatureClassifierRewardModel, tmp_path: Path
) -> None:
    sides = make_episodes(20), make_episodes(10, seed=1)
    settings = {**FEW_STEPS, "n_epochs": 5}
    fit_feature_classifier(*sides, **settings, checkpoint_folder=tmp_path)
    model = fit_feature_classifier(*sides, **FEW_STEPS, checkpoint_folder=tmp_path)
    for name, value in fitted.get_weights().items():
        np.testing.assert_array_equal(model.get_weights()[name], value)
    assert [report["epoch"] for report in model.training["history"]] == list(range(1, 13))


def test_steps_of_one_label_are_refused() -> None:
    failures = [make_episode(seed, False) for seed in range(4)]
    with pytest.raises(ValueError, match="steps with success and without in `train`, got 0 of"):
        fit_feature_classifier(failures, make_episodes(4))


def test_episodes_without_features_are_refused() -> None:
    arrays = {"state": np.zeros((3, 1))}, np.zeros((2, 1)), np.array([0, 1])
    episode = Episode(*arrays, terminated=True, success=True)
    with pytest.raises(ValueError, match="openvla/language"):
        fit_feature_classifier([episode], [episode])
