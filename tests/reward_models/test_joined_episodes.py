import numpy as np
import pytest

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.joined_episodes import JoinedEpisodes
from libero_reward_envs.reward_models.rrd_data import SubsequenceSampler
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel
from libero_reward_envs.reward_models.rrd_trainer import RRDTrainer


def make_episode(number: int, length: int, key: str = "state") -> Episode:
    """State and action of step t are 100 * number + t."""
    values = np.arange(100 * number, 100 * number + length + 1, dtype=np.float32)
    return Episode(
        {key: values[:, None]},
        values[:-1, None] * 1e-4,
        np.eye(1, length, length - 1)[0] * number,
        terminated=number % 2 == 0,
        success=number % 2 == 0,
        task="test",
    )


def make_store(*episodes: Episode, keys: tuple[str, ...] = ("state",)) -> EpisodeStore:
    store = EpisodeStore(keys, 1000)
    for episode in episodes:
        store.append(episode)
    return store


def test_episodes_stand_one_source_after_the_other() -> None:
    joined = JoinedEpisodes(
        [make_store(make_episode(1, 5), make_episode(2, 7)), make_store(make_episode(4, 3))]
    )
    assert joined.lengths.tolist() == [5, 7, 3]
    assert joined.returns.tolist() == [1.0, 2.0, 4.0]
    assert joined.lengths.dtype == np.int64
    assert joined.returns.dtype == np.float64


def test_gathers_what_one_store_of_all_episodes_gathers() -> None:
    episodes = [make_episode(number, 4 + number) for number in range(6)]
    together = make_store(*episodes)
    joined = JoinedEpisodes(
        [
            make_store(*episodes[:2]),
            make_store(),
            make_store(*episodes[2:5]),
            make_store(*episodes[5:]),
        ]
    )
    sampler = SubsequenceSampler(4, "length", seed=0)
    for _ in range(20):
        chosen, steps = sampler.draw(together.lengths, 8)
        expected, found = together.gather(chosen, steps), joined.gather(chosen, steps)
        np.testing.assert_array_equal(found.observations["state"], expected.observations["state"])
        np.testing.assert_array_equal(
            found.next_observations["state"], expected.next_observations["state"]
        )
        np.testing.assert_array_equal(found.actions, expected.actions)
        np.testing.assert_array_equal(found.terminated, expected.terminated)


def test_sees_a_source_grow_and_keeps_its_arrays_until_then() -> None:
    growing = make_store()
    joined = JoinedEpisodes([make_store(make_episode(1, 5)), growing])
    before = joined.lengths
    assert joined.lengths is before
    growing.append(make_episode(2, 6))
    assert joined.lengths is not before
    assert joined.lengths.tolist() == [5, 6]
    assert joined.returns.tolist() == [1.0, 2.0]
    states = joined.gather(np.array([1]), np.array([[0, 5]])).observations["state"]
    assert states.ravel().tolist() == [200.0, 205.0]


def test_a_trainer_learns_from_it_as_from_one_store() -> None:
    episodes = [make_episode(number, 6) for number in range(4)]
    models = []
    for source in (
        make_store(*episodes),
        JoinedEpisodes([make_store(*episodes[:1]), make_store(*episodes[1:])]),
    ):
        model = RRDRewardModel({"state": (1,)}, 1, hidden_sizes=(8,), normalize=False)
        RRDTrainer(model, steps_per_episode=3).train(source, 10)
        models.append(model.get_weights())
    for name, value in models[0].items():
        np.testing.assert_array_equal(models[1][name], value)


def test_refuses_no_source_and_sources_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        JoinedEpisodes([])
    other = make_store(make_episode(2, 5, key="features"), keys=("features",))
    joined = JoinedEpisodes([make_store(make_episode(1, 5)), other])
    with pytest.raises(ValueError, match="features"):
        joined.gather(np.array([0, 1]), np.array([[0], [1]]))
