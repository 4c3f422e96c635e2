import dataclasses
import os
import pickle

import h5py
import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.episode_steps import (
    EpisodeSteps,
    cut_steps,
    has_fast_steps,
    read_steps,
)
from libero_reward_envs.data.formats import open_writer
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY
from libero_reward_envs.data.torch_datasets import TransitionDataset
from tests.data.demonstration_makers import (
    make_arrays,
    make_robomimic_arrays,
    write_libero,
    write_robomimic,
)

LENGTHS = (7, 1, 12)


def make_episode(seed: int, n_steps: int, *, labelled: bool = False, size: int = 160) -> Episode:
    """Return an episode of which several chunks of an HDF5 file are needed."""
    rng = np.random.default_rng(seed)
    success = seed % 2 == 0
    observations = {
        "camera": rng.integers(0, 256, (n_steps + 1, size, size, 3), dtype=np.uint8),
        "state": rng.normal(size=(n_steps + 1, 3)).astype(np.float32),
    }
    rewards = np.zeros(n_steps, np.float32)
    rewards[-1] = success
    if labelled:
        labels = np.zeros(n_steps + 1, np.float32)
        labels[n_steps // 2 + 1 :] = success
        observations[SUCCESS_KEY] = labels
    actions = rng.uniform(-1, 1, (n_steps, 7)).astype(np.float32)
    return Episode(observations, actions, rewards, success, success)


def write(path, format, **options):
    episodes = [make_episode(seed, n, **options) for seed, n in enumerate(LENGTHS)]
    with open_writer(path, format) as writer:
        for episode in episodes:
            writer.append(episode)
    return load_episodes(path, format=format)


def write_others(path, kind):
    if kind == "libero":
        demos = {number: make_arrays(n, number) for number, n in enumerate(LENGTHS)}
        return load_episodes(write_libero(path / "a.hdf5", demos))
    demos = {
        number: make_robomimic_arrays(n, number, next_obs=kind == "next_obs")
        for number, n in enumerate(LENGTHS)
    }
    return load_episodes(write_robomimic(path / "a.hdf5", demos))


def assert_same(found: EpisodeSteps, expected: EpisodeSteps) -> None:
    assert found.episode_length == expected.episode_length
    assert found.observations.keys() == expected.observations.keys()
    for key, rows in expected.observations.items():
        assert found.observations[key].dtype == rows.dtype
        np.testing.assert_array_equal(found.observations[key], rows)
    for name in ("actions", "rewards", "terminated", "success"):
        value, wanted = getattr(found, name), getattr(expected, name)
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


def check_all(dataset: EpisodeDataset) -> None:
    """Compare all parts of all episodes with those cut out of the whole episodes."""
    for index, episode in enumerate(dataset):
        assert has_fast_steps(dataset, index)
        for start in range(len(episode)):
            for stop in sorted({start + 1, min(start + 4, len(episode)), len(episode)}):
                assert_same(
                    read_steps(dataset, index, start, stop), cut_steps(episode, start, stop)
                )
        keys = list(episode.observations)[:1]
        few = read_steps(dataset, index, 0, 1, keys)
        assert list(few.observations) == keys
        for start, stop in ((-1, 1), (0, len(episode) + 1), (1, 1)):
            with pytest.raises(ValueError, match=f"within 0 to {len(episode)}, got {start} to"):
                read_steps(dataset, index, start, stop)
        with pytest.raises(ValueError, match="absent"):
            read_steps(dataset, index, 0, 1, ["absent"])


@pytest.mark.parametrize("labelled", [False, True])
def test_steps_of_a_file_are_those_of_its_episodes(tmp_path, labelled):
    dataset = write(tmp_path / "a.hdf5", "hdf5", labelled=labelled)
    with h5py.File(tmp_path / "a.hdf5") as file:
        images = file["data/demo_2/obs/camera"]
        assert isinstance(images, h5py.Dataset)
        assert images.chunks is not None
        assert 1 < images.chunks[0] < 6  # so that parts lie within one and across several
    check_all(dataset)


@pytest.mark.parametrize("kind", ["libero", "robomimic", "next_obs"])
def test_steps_of_demonstrations_are_those_of_their_episodes(tmp_path, kind):
    check_all(write_others(tmp_path, kind))


@pytest.mark.parametrize(("format", "name"), [("minari", "a-v0"), ("npy", "a"), ("lerobot", "a")])
def test_steps_of_other_formats_are_those_of_their_episodes(tmp_path, format, name):
    check_all(write(tmp_path / name, format, size=16))


def test_formats_that_cannot_read_steps_read_the_episode(tmp_path):
    dataset = write(tmp_path / "a", "rlds", size=16)
    assert not has_fast_steps(dataset, 0)
    assert_same(read_steps(dataset, 2, 3, 5), cut_steps(dataset[2], 3, 5))


def test_steps_of_views_and_chains_are_found(tmp_path):
    file = write(tmp_path / "a.hdf5", "hdf5", size=16)
    memory = EpisodeDataset([make_episode(9, 4, size=16)])
    chain = file[1:] + memory + file.filter(lambda summary: summary.length == 7)
    assert [has_fast_steps(chain, index) for index in range(4)] == [True, True, False, True]
    for index in range(-4, 4):
        episode = chain[index]
        assert_same(read_steps(chain, index, 0, 1), cut_steps(episode, 0, 1))
    with pytest.raises(IndexError, match="Episode 4 of a dataset of 4"):
        read_steps(chain, 4, 0, 1)


def test_rewards_elsewhere_decide_what_those_of_a_step_mean():
    arrays = {"state": np.zeros((5, 1), np.float32)}, np.zeros((4, 1))
    sparse = Episode(*arrays, np.array([0, 1, 0, 0]), terminated=False, success=True)
    dense = Episode(*arrays, np.array([0, 1, 0, 0.5]), terminated=False, success=True)
    assert cut_steps(sparse, 1, 3).success.tolist() == [True, False]
    assert cut_steps(dense, 1, 3).success.tolist() == [False, False]
    assert cut_steps(dense, 3, 4).success.tolist() == [True]


@pytest.mark.parametrize("rewards", [[0, 1, 0, 0], [0, 1, 0, 0.5]])
def test_rewards_elsewhere_decide_in_files_too(tmp_path, rewards):
    episode = make_episode(0, 4, size=16)
    episode = dataclasses.replace(episode, rewards=np.array(rewards), terminated=False)
    with EpisodeWriter(tmp_path / "a.hdf5") as writer:
        writer.append(episode)
    check_all(load_episodes(tmp_path / "a.hdf5"))


def test_only_the_chunks_of_the_steps_are_read(tmp_path):
    path = tmp_path / "a.hdf5"
    dataset = write(path, "hdf5")
    with h5py.File(path) as file:
        images = file["data/demo_2/obs/camera"]
        assert isinstance(images, h5py.Dataset)
        chunk = images.id.get_chunk_info(images.id.get_num_chunks() - 1)
        first_row = chunk.chunk_offset[0]
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(bytes(content))
    read_steps(dataset, 2, 0, first_row - 1)
    for part in ((first_row - 1, first_row), (0, LENGTHS[2])):
        with pytest.raises(ValueError, match=r"Cannot read .*a\.hdf5"):
            read_steps(dataset, 2, *part)
    with pytest.raises(ValueError, match=r"Cannot read .*a\.hdf5"):
        dataset[2]


def test_what_is_not_finite_is_refused_where_it_is_read(tmp_path):
    path = tmp_path / "a.hdf5"
    dataset = write(path, "hdf5", size=16)
    with h5py.File(path, "r+") as file:
        file["data/demo_2/obs/state"][6] = np.nan  # pyright: ignore[reportIndexIssue] - a dataset
    assert len(read_steps(dataset, 2, 0, 5)) == 5
    with pytest.raises(ValueError, match=r"finite numbers in `observations\['state'\]`, got nan"):
        read_steps(dataset, 2, 5, 6)


def test_a_file_that_is_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "a.hdf5"
    write(path, "hdf5", size=16)
    dataset = load_episodes(path)
    before = read_steps(dataset, 0, 2, 3)
    other = tmp_path / "b.hdf5"
    with EpisodeWriter(other) as writer:
        writer.append(make_episode(40, 7, size=16))
    os.replace(other, path)
    after = read_steps(dataset, 0, 2, 3)
    assert not np.array_equal(before.actions, after.actions)
    assert_same(after, cut_steps(dataset[0], 2, 3))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_steps(dataset, 0, 2, 3)


def test_episodes_that_are_merged_in_between_are_found(tmp_path):
    path = tmp_path / "a.hdf5"
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(0, 5, size=16))
        writer.append(make_episode(1, 6, size=16))
        dataset = load_episodes(path)
        waiting = [read_steps(dataset, index, 1, 3) for index in range(2)]
    for index, steps in enumerate(waiting):
        assert_same(read_steps(dataset, index, 1, 3), steps)


def test_datasets_with_open_files_are_pickled_and_files_are_closed_after_a_pass(tmp_path):
    path = tmp_path / "a.hdf5"
    dataset = write(path, "hdf5", size=16)
    for _ in dataset:
        with pytest.raises(OSError, match="already open"):
            h5py.File(path, "r+")
    with h5py.File(path, "r+"):
        pass
    read_steps(dataset, 0, 0, 1)
    copy = pickle.loads(pickle.dumps(dataset))
    assert_same(read_steps(copy, 0, 0, 1), read_steps(dataset, 0, 0, 1))


def test_transitions_of_a_file_at_random_and_in_order_are_the_same(tmp_path, monkeypatch):
    dataset = write(tmp_path / "a.hdf5", "hdf5", labelled=True)
    in_memory = TransitionDataset(EpisodeDataset(list(dataset)))
    transitions = TransitionDataset(dataset)
    whole: list[int] = []
    read = EpisodeDataset.read
    monkeypatch.setattr(
        EpisodeDataset,
        "read",
        lambda self, index, keys=None: (whole.append(index), read(self, index, keys))[1],
    )

    def assert_same_items(indices) -> None:
        for index in indices:
            found, expected = transitions[index], in_memory[index]
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                parts = value if isinstance(value, dict) else {"": value}
                others = found[name] if isinstance(value, dict) else {"": found[name]}
                assert parts.keys() == others.keys()
                for key, part in parts.items():
                    assert others[key].dtype == part.dtype
                    np.testing.assert_array_equal(others[key], part)

    n = len(in_memory)
    for index in range(n):
        in_memory[index]
    whole.clear()
    assert_same_items([*range(n - 1, -1, -1), 5, 2, 18, 0])
    assert whole == []
    assert_same_items(range(n))
    assert whole == [0, 1, 2]
