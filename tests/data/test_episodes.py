import pickle

import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeDataset


def make_episode(n_steps=3, *, value=0.0, success=True, task="suite/task", **changes):
    fields = {
        "observations": {"state": np.arange(n_steps + 1, dtype=np.float32)[:, None] + value},
        "actions": np.zeros((n_steps, 2)),
        "rewards": np.eye(n_steps)[-1] * success,
        "terminated": success,
        "success": success,
        "task": task,
        "instruction": "do it",
        "metadata": {"seed": 1},
    }
    return Episode(**{**fields, **changes})


def test_episode_knows_its_length_return_and_story():
    episode = make_episode(5)
    assert len(episode) == 5
    assert episode.episode_return == 1.0
    assert episode.actions.dtype == episode.rewards.dtype == np.float32
    assert repr(episode) == (
        "Episode('suite/task': 5 steps, return 1, success, terminated; state (1,))"
    )


def test_transitions_pair_each_observation_with_the_next_one():
    transitions = make_episode(3).transitions()
    assert transitions.observations["state"][:, 0].tolist() == [0, 1, 2]
    assert transitions.next_observations["state"][:, 0].tolist() == [1, 2, 3]
    assert transitions.terminated.tolist() == [False, False, True]


def test_timeout_is_not_an_end():
    assert not make_episode(3, success=False).transitions().terminated.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((0, 2))}, "T > 0"),
        ({"actions": np.zeros(3)}, r"shape \(T, a\)"),
        ({"actions": np.full((3, 2), 1.5)}, r"in \[-1, 1\]"),
        ({"actions": np.full((3, 2), np.nan)}, "`actions`, got nan at"),
        ({"actions": np.array([["a", "b"]] * 3)}, "Expected numbers"),
        ({"rewards": np.zeros(4)}, r"`rewards` of shape \(3,\), got \(4,\)"),
        ({"rewards": np.array([0, np.inf, 0])}, r"`rewards`, got inf at \[1\]"),
        ({"observations": {}}, "at least one key"),
        ({"observations": {"state": np.zeros((3, 1))}}, "4 rows, one more than actions"),
        ({"observations": {"state": np.array([0, 1, np.nan, 3])}}, "nan at"),
        ({"observations": {"state": np.array([None] * 4)}}, "dtype object"),
        ({"metadata": {"x": np.zeros(2)}}, "`metadata` must be what JSON can hold"),
        ({"metadata": {"x": float("nan")}}, "`metadata` must be what JSON can hold"),
    ],
)
def test_impossible_episode_is_refused_with_its_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        make_episode(3, **changes)


def test_dataset_indexes_slices_and_iterates_like_a_sequence():
    dataset = EpisodeDataset([make_episode(n) for n in (1, 2, 3, 4)])
    assert len(dataset) == 4
    assert len(dataset[-1]) == 4
    assert [len(episode) for episode in dataset] == [1, 2, 3, 4]
    assert [len(episode) for episode in dataset[1:][::2]] == [2, 4]
    with pytest.raises(IndexError, match="Episode 4 of a dataset of 4"):
        dataset[4]
    with pytest.raises(IndexError):
        dataset[:2][-3]


def test_filter_returns_a_view_and_sees_summaries():
    dataset = EpisodeDataset([make_episode(n, success=n % 2 == 0) for n in (1, 2, 3, 4)])
    successes = dataset.filter(lambda summary: summary.success)
    assert [len(episode) for episode in successes] == [2, 4]
    assert [len(summary) for summary in successes[1:].summaries()] == [4]
    assert successes[0] is dataset[1]
    assert [summary.episode_return for summary in dataset.summaries()] == [0, 1, 0, 1]
    assert len(successes.filter(lambda summary: summary.length > 9)) == 0


def test_datasets_add_up():
    first = EpisodeDataset([make_episode(1), make_episode(2)])
    both = first[1:] + EpisodeDataset([make_episode(3)])
    assert [len(episode) for episode in both] == [2, 3]
    assert [len(summary) for summary in both.summaries()] == [2, 3]
    assert len(both.filter(lambda summary: summary.length == 3)[0]) == 3


def test_only_the_observations_asked_for_are_read():
    observations = {"state": np.zeros((4, 1)), "image": np.zeros((4, 2, 2, 3), np.uint8)}
    dataset = EpisodeDataset([make_episode(3, observations=observations)])
    assert list(dataset.read(0, ["image"]).observations) == ["image"]
    with pytest.raises(ValueError, match=r"No observation 'depth' in .* It has: state, im"):
        dataset.read(0, ["depth"])


def test_dataset_survives_pickling():
    dataset = pickle.loads(pickle.dumps(EpisodeDataset([make_episode(2), make_episode(3)])[1:]))
    assert len(dataset[0]) == 3


def test_dataset_refuses_what_is_not_an_episode():
    with pytest.raises(TypeError, match="Expected Episode at index 1, got dict"):
        EpisodeDataset([make_episode(1), {}])  # pyright: ignore[reportArgumentType]  # on purpose
