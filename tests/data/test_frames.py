import pickle
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, WeightedRandomSampler

from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.frame_pictures import visualize_positive
from libero_reward_envs.data.frames import RewardDataset, split_trajectories
from libero_reward_envs.data.trajectory_files import write_trajectory

SIZE = (3, 8, 6)


def make_images(trajectory, n_frames):
    """Frames that can be told apart: (T, 3, 8, 6) uint8."""
    images = np.random.default_rng(trajectory).integers(0, 256, (n_frames, *SIZE), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = trajectory, np.arange(n_frames)
    return images


def make_labels(n_frames, success):
    labels = np.zeros(n_frames, np.float32)
    labels[-2:] = success
    return labels


def make_episode(trajectory, n_frames, success, with_labels=True, key="a"):
    images = np.concatenate([np.zeros((1, *SIZE), np.uint8), make_images(trajectory, n_frames)])
    labels = make_labels(n_frames, success)
    observations = {key: images.transpose(0, 2, 3, 1)}
    if with_labels:
        observations["is_success"] = np.append(np.float32(0), labels)
    rewards = np.zeros(n_frames) if with_labels else labels
    return Episode(observations, np.zeros((n_frames, 7)), rewards, bool(success), bool(success))


@pytest.fixture
def folders(tmp_path):
    """One folder of HDF5 episodes merged and waiting, one of both formats; 20 trajectories."""
    positive, negative = tmp_path / "positive", tmp_path / "negative"
    for number in range(5):
        labels = make_labels(20 + number, True)
        write_trajectory(positive, {"a": make_images(number, 20 + number)}, labels)
    with EpisodeWriter(positive / "000000.hdf5") as writer:
        for number in range(5, 10):
            writer.append(make_episode(number, 20 + number, True))
    with EpisodeWriter(negative / "000000.hdf5") as writer:
        for number in range(10, 15):
            writer.append(make_episode(number, 20 + number, False))
    killed = EpisodeWriter(negative / "000001.hdf5")
    for number in range(15, 20):
        killed.append(make_episode(number, 20 + number, False, with_labels=False))
    killed._release()
    return positive, negative


@pytest.fixture
def dataset(folders):
    return RewardDataset(*folders, image_keys="a", image_size=SIZE)


def test_every_frame_of_both_formats_is_there_with_its_label(dataset):
    assert len(dataset) == sum(range(20, 40))
    seen = set()
    for index in range(len(dataset)):
        images, label = dataset[index]
        assert label.dtype == torch.float32
        number, frame = images["a"][0, 0, :2].tolist()
        np.testing.assert_array_equal(images["a"], make_images(number, 20 + number)[frame])
        assert label == make_labels(20 + number, number < 10)[frame]
        seen.add((number, frame))
    assert len(seen) == len(dataset)
    assert dataset.class_counts() == (len(dataset) - 20, 20)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_loader_with_workers_reads_the_same(dataset):
    alone = [dataset[index][0]["a"].numpy() for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=64, num_workers=2, multiprocessing_context="fork")
    batches = [images["a"].numpy() for images, _ in loader]
    np.testing.assert_array_equal(np.concatenate(batches), np.stack(alone))
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[70][0]["a"], alone[70])


def test_both_labels_are_drawn_as_often(dataset):
    sampler = WeightedRandomSampler(
        dataset.sample_weights().tolist(), 4000, generator=torch.Generator().manual_seed(0)
    )
    share = dataset.labels[list(sampler)].mean()
    assert 0.47 < share < 0.53
    assert dataset.pos_weight() == (len(dataset) - 20) / 20


def test_a_split_shares_no_trajectory_and_keeps_both_kinds(dataset):
    train, held_out = split_trajectories(dataset, 0.3, seed=1)
    names = [{(s.folder, s.name) for s in part.sources} for part in (train, held_out)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 20
    assert [row.n_trajectories for row in held_out.statistics()] == [3, 3]
    assert [row.n_trajectories for row in train.statistics()] == [7, 7]
    assert len(train) + len(held_out) == len(dataset)
    again = split_trajectories(dataset, 0.3, seed=1)[1]
    other = split_trajectories(dataset, 0.3, seed=2)[1]
    assert {s.name for s in again.sources} == {s.name for s in held_out.sources}
    assert [s.path for s in other.sources] != [s.path for s in held_out.sources] or (
        {s.name for s in other.sources} != {s.name for s in held_out.sources}
    )
    images, label = held_out[len(held_out) - 1]
    number, frame = images["a"][0, 0, :2].tolist()
    assert label == make_labels(20 + number, number < 10)[frame]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1])
def test_a_fraction_that_is_none_is_refused(dataset, fraction):
    with pytest.raises(ValueError, match="holdout_fraction"):
        split_trajectories(dataset, fraction)


def test_a_single_success_cannot_be_split(folders, tmp_path):
    write_trajectory(tmp_path / "one", {"a": make_images(0, 5)}, make_labels(5, True))
    dataset = RewardDataset(tmp_path / "one", folders[1], image_keys=["a"])
    with pytest.raises(ValueError, match=r"at least two trajectories in '.*one'"):
        split_trajectories(dataset)


def test_damaged_trajectories_are_named_skipped_and_counted(folders, caplog):
    positive, negative = folders
    (positive / "000002.npy").write_bytes((positive / "000002.npy").read_bytes()[:900])
    np.save(positive / "000009.npy", np.array({"images": print}))
    (positive / "000007.hdf5").write_bytes(b"no HDF5")
    (positive / "notes.txt").write_text("passed over")
    with h5py.File(negative / "000000.hdf5", "r+") as file:
        del file["data/demo_2/final_obs/a"]
    dataset = RewardDataset(positive, negative, image_keys="a")
    assert len(dataset.sources) == 18
    assert len(dataset.skipped) == 4
    table = dataset.describe()
    for name in ("000002.npy", "000009.npy", "000007.hdf5", "demo_2"):
        assert sum(name in reason for reason in dataset.skipped) == 1
        assert name in caplog.text
    assert "builtins.print" in caplog.text
    assert [row.n_skipped for row in dataset.statistics()] == [1, 3]
    assert table.splitlines()[0].split()[:2] == ["folder", "trajectories"]
    assert table.splitlines()[2].split()[1:] == ["9", "223", "18", "205", "3"]


def test_links_out_of_an_episode_file_are_refused(folders, caplog):
    with h5py.File(folders[1] / "000000.hdf5", "r+") as file:
        del file["data/demo_0/obs/a"]
        file["data/demo_0/obs/a"] = h5py.ExternalLink("/etc/passwd", "/a")
        data: Any = file["data/demo_1/obs"]
        del data["a"]
        data.create_dataset("a", (30, 8, 6, 3), np.uint8, external=[("/etc/passwd", 0, 4320)])
    dataset = RewardDataset(*folders, image_keys="a")
    assert len(dataset.skipped) == 2
    assert "ExternalLink, which is refused" in caplog.text
    assert "stored outside the file" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_keys": "b"}, "'b'"),
        ({"image_keys": "a", "image_size": (3, 16, 16)}, r"\(3, 16, 16\), got \(3, 8, 6\)"),
    ],
)
def test_keys_and_sizes_must_match(folders, arguments, message):
    with pytest.raises(ValueError, match=message):
        RewardDataset(*folders, **arguments)


def test_one_trajectory_of_another_size_or_layout_is_named(folders):
    path = folders[0] / "000020.npy"
    for images, message in [
        (np.zeros((4, 3, 9, 6), np.float32), r"got \(\(3, 9, 6\),\) in '.*000020.npy'"),
        (np.zeros((4, 8, 6, 3), np.float32), r"000020\.npy.*\(T, H, W, C\)"),
        (np.full((4, 3, 8, 6), 255, np.float32), r"000020\.npy.*divide by 255"),
    ]:
        np.save(path, np.array({"images": {"a": images}, "labels": make_labels(4, True)}))
        with pytest.raises(ValueError, match=message):
            RewardDataset(*folders, image_keys="a")


def test_empty_and_one_sided_data_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"0 of label 1"):
        RewardDataset(tmp_path / "empty", folders[1], image_keys="a")
    (tmp_path / "empty2").mkdir()
    with pytest.raises(ValueError, match="No trajectory to read"):
        RewardDataset(tmp_path / "empty", tmp_path / "empty2", image_keys="a")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        RewardDataset(folders[0], tmp_path / "nowhere", image_keys="a")
    with pytest.raises(ValueError, match="Give two"):
        RewardDataset(folders[0], folders[0], image_keys="a")


def test_rewards_that_are_not_success_are_no_labels(tmp_path, folders):
    with EpisodeWriter(tmp_path / "dense.hdf5") as writer:
        episode = make_episode(0, 5, True, with_labels=False)
        episode.rewards[1] = 0.3
        writer.append(episode)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"rewards of 0 and 1, got 0\.3"):
        RewardDataset(tmp_path / "dense.hdf5", tmp_path / "none", image_keys="a")


def test_pictures_have_the_names_and_pixels_of_their_frames(dataset, tmp_path):
    paths = visualize_positive(dataset, tmp_path / "pictures")
    assert len(paths) == 20
    assert tmp_path / "pictures/positive_000001_frame019.png" in paths
    assert tmp_path / "pictures/positive_000001_frame020.png" in paths
    assert tmp_path / "pictures/positive_000000-0002_frame025.png" in paths
    picture = np.asarray(Image.open(tmp_path / "pictures/positive_000001_frame019.png"))
    np.testing.assert_array_equal(picture, make_images(1, 21)[19].transpose(1, 2, 0))
    assert len(visualize_positive(dataset, tmp_path / "few", max_images=3)) == 3


def test_the_episodes_of_a_mixed_file_are_classed_by_their_labels(tmp_path):
    path = tmp_path / "episodes.hdf5"
    with EpisodeWriter(path) as writer:
        for number in range(6):
            writer.append(make_episode(number, 20 + number, number % 3 == 0, with_labels=False))
    dataset = RewardDataset.from_episodes(path, image_keys="a")
    assert dataset.classes.tolist() == [1, 0, 0, 1, 0, 0]
    assert dataset.image_sizes == (SIZE,)
    assert [row[1:] for row in dataset.statistics()] == [(4, 92, 0, 92, 0), (2, 43, 4, 39, 0)]
    assert f"{path}: successes" in dataset.describe()
    frame = dataset[21]  # the second of trajectory 1
    np.testing.assert_array_equal(frame[0]["a"].numpy(), make_images(1, 21)[1])
    train, held_out = split_trajectories(dataset, 0.5)
    assert sorted(train.classes) == sorted(held_out.classes) == [0, 0, 1]


def test_a_mixed_file_of_one_outcome_is_refused_by_its_name(tmp_path):
    path = tmp_path / "episodes.hdf5"
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(0, 20, False, with_labels=False))
    with pytest.raises(ValueError, match=r"both labels in '.*episodes\.hdf5', got 0 of label 1"):
        RewardDataset.from_episodes(path, image_keys="a")
    with pytest.raises(FileNotFoundError, match="nothing"):
        RewardDataset.from_episodes(tmp_path / "nothing.hdf5", image_keys="a")
    with pytest.raises(ValueError, match=r"Give two, or use `from_episodes`"):
        RewardDataset(path, path, image_keys="a")


def test_a_damaged_episode_of_a_mixed_file_is_skipped_and_counted(tmp_path):
    path = tmp_path / "episodes.hdf5"
    with EpisodeWriter(path) as writer:
        for number in range(4):
            writer.append(make_episode(number, 20, number % 2, with_labels=False))
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/rewards"]
    dataset = RewardDataset.from_episodes(path, image_keys="a")
    assert len(dataset.skipped) == 1
    assert [row.n_skipped for row in dataset.statistics()] == [1, 0]
    assert dataset.classes.tolist() == [0, 1, 1]
