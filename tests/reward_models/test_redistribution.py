from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.redistribution import (
    IRCRRewardModel,
    IRCRTrainer,
    UniformRewardModel,
)
from libero_reward_envs.reward_models.training import RewardTrainer

FIXTURE = Path(__file__).parents[1] / "data" / "rrd" / "episodic_wrapper.npz"


def make_episode(rewards):
    n_steps = len(rewards)
    return Episode(
        {"state": np.zeros((n_steps + 1, 1))}, np.zeros((n_steps, 1)), rewards, False, False
    )


def golden_episodes():
    with np.load(FIXTURE, allow_pickle=False) as file:
        fixture = {key: file[key] for key in file}
    pairs = zip(fixture["dense"], fixture["lengths"], strict=True)
    return fixture, [make_episode(rewards[:length]) for rewards, length in pairs]


def test_uniform_rewards_are_the_golden_ones(tmp_path):
    fixture, episodes = golden_episodes()
    model = UniformRewardModel()
    found = [model.compute_reward(episode.transitions()) for episode in episodes]
    for rewards, expected, episode in zip(found, fixture["uniform_reward"], episodes, strict=True):
        np.testing.assert_allclose(rewards, np.full(len(episode), expected), rtol=1e-6)
        assert rewards.sum(dtype=float) == pytest.approx(episode.episode_return, rel=1e-5)
    check_reward_model(model, episodes[0].transitions(), tmp_path)


def test_ircr_rewards_are_the_golden_ones(tmp_path):
    fixture, episodes = golden_episodes()
    store = EpisodeStore.from_dataset(episodes, ["state"])
    trainer = IRCRTrainer()
    assert isinstance(trainer, RewardTrainer)
    assert trainer.train(store, 3) == {}
    assert trainer.n_steps == 3
    for episode, expected in zip(episodes, fixture["ircr_reward"], strict=True):
        rewards = trainer.model.compute_reward(episode.transitions())
        np.testing.assert_allclose(rewards, np.full(len(episode), expected), atol=1e-6)
    check_reward_model(trainer.model, episodes[0].transitions(), tmp_path)


def test_the_best_episode_counts_after_it_is_gone_and_survives_a_resume():
    store = EpisodeStore(["state"], capacity=8)
    trainer = IRCRTrainer()
    store.append(make_episode(np.array([5.0, 5.0, 5.0])))
    trainer.train(store)
    for value in (0.0, 1.0, 2.0):
        store.append(make_episode(np.full(3, value)))
    trainer.train(store)
    assert store.returns.tolist() == [3, 6]
    assert (trainer.model.lowest, trainer.model.highest) == (3, 15)
    other = IRCRTrainer()
    other.set_state(*trainer.get_state())
    assert (other.model.lowest, other.model.highest, other.n_steps) == (3, 15, 2)
    with pytest.raises(ValueError, match="state of an IRCRTrainer"):
        other.set_state({}, {})


def test_equal_returns_or_no_episode_give_nothing():
    trainer = IRCRTrainer()
    assert trainer.train(EpisodeStore(["state"], capacity=8)) == {}
    assert trainer.n_steps == 0
    episode = make_episode(np.ones(3))
    trainer.train(EpisodeStore.from_dataset([episode], ["state"]))
    assert trainer.model.compute_reward(episode.transitions()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("limits", [(1, 0), (np.nan, 1), (0, np.inf)])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="finite limits, lowest first"):
        IRCRRewardModel(*limits)
