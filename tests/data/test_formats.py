import pickle

import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.chained_source import ChainedSource
from libero_reward_envs.data.episodes import chain_datasets
from libero_reward_envs.data.formats import find_format, open_writer
from tests.data.episode_makers import make_episode


def test_a_file_that_is_still_only_waiting_is_part_of_its_folder(tmp_path):
    with EpisodeWriter(tmp_path / "a.h5") as writer:
        writer.append(make_episode(0, 3))
    with EpisodeWriter(tmp_path / "b.h5") as writer:
        writer.append(make_episode(1, 4))
        assert not (tmp_path / "b.h5").exists()
        assert [len(episode) for episode in load_episodes(tmp_path)] == [3, 4]
        (tmp_path / "a.h5").unlink()
        assert find_format(tmp_path) == "hdf5"
        assert len(load_episodes(tmp_path)) == 1
    assert [len(episode) for episode in load_episodes(tmp_path)] == [4]


def test_hundreds_of_sets_are_joined_on_one_level():
    parts = [EpisodeDataset([make_episode(seed, 1 + seed % 3)]) for seed in range(3)]
    joined = EpisodeDataset([])
    for number in range(1500):  # more than the interpreter's limit of nested calls
        joined = joined + parts[number % 3]
    assert len(joined) == 1500
    assert [len(joined[index]) for index in (0, 1, 2, 700, -1)] == [1, 2, 3, 2, 3]
    assert len(joined.summaries()) == 1500
    assert len(pickle.loads(pickle.dumps(joined))) == 1500


def test_chains_keep_views_apart_and_count_across_empty_parts():
    episodes = EpisodeDataset([make_episode(seed, 1 + seed) for seed in range(4)])
    chain = chain_datasets([episodes[:0], episodes[1:3], episodes[:0], episodes])
    assert [len(episode) for episode in chain[1:] + chain[:1]] == [3, 1, 2, 3, 4, 2]
    assert chain_datasets([episodes]) is episodes
    with pytest.raises(IndexError, match="Episode 6 of 6"):
        ChainedSource([episodes[:3], episodes[:3]]).read(6)


def test_options_that_a_format_does_not_take_are_named(tmp_path):
    path = tmp_path / "a.h5"
    with EpisodeWriter(path) as writer:
        writer.append(make_episode())
    with pytest.raises(ValueError, match=r"Hdf5Source of 'hdf5'.*'foo'.*options are: none"):
        load_episodes(path, foo=1)
    with pytest.raises(ValueError, match=r"'foo'.*options are: env_args, compression"):
        open_writer(tmp_path / "b.h5", foo=1)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="NpySource of 'npy' cannot be made so: 'int' object"):
        load_episodes(tmp_path / "c", format="npy", key_map=3)
    np.testing.assert_array_equal(load_episodes(path)[0].actions, make_episode().actions)
