import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.npy_episodes import NpySource, NpyWriter, is_npy
from libero_reward_envs.data.provenance import Provenance, read_provenance
from libero_reward_envs.data.trajectory_files import TrajectoryFile, write_trajectory


def make_images(n_frames, seed=0, size=6, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n_frames, channels, size, size + 1), np.uint8)


@pytest.fixture
def folders(tmp_path):
    for seed, (name, labels) in enumerate(
        [("positive", [0, 0, 1]), ("positive", [0, 1]), ("negative", [0, 0, 0.2, 0])]
    ):
        images = {
            "agentview_image": make_images(len(labels), seed),
            "hand": make_images(len(labels), 9, 4, 1),
        }
        write_trajectory(tmp_path / name, images, np.array(labels))
    return tmp_path


def make_episode(labels, seed=0, **changes):
    images = make_images(len(labels) + 1, seed).transpose(0, 2, 3, 1)
    fields = {
        "observations": {"agentview_image": images, "state": np.zeros((len(images), 3))},
        "actions": np.zeros((len(labels), 7)),
        "rewards": np.array(labels),
        "terminated": labels[-1] >= 0.5,
        "success": max(labels) >= 0.5,
    }
    return Episode(**{**fields, **changes})


def test_trajectories_are_read_as_episodes(folders):
    assert is_npy(folders)
    source = NpySource(folders, task="libero_object/x", instruction="pick it up")
    assert len(source) == 3
    first, second, third = (source.read(index) for index in range(3))
    assert first.rewards.tolist() == [0, 0, 1]
    assert (first.success, first.terminated) == (True, True)
    assert third.rewards.tolist() == pytest.approx([0, 0, 0.2, 0])
    assert (third.success, third.terminated) == (False, False)
    assert first.actions.shape == (3, 0)
    frames = make_images(3, 0).transpose(0, 2, 3, 1)
    images = first.observations["agentview_image"]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.concatenate([frames[:1], frames]))
    assert second.observations["hand"].shape == (3, 4, 5, 1)
    assert (first.task, first.instruction) == ("libero_object/x", "pick it up")
    assert first.metadata["file"] == "positive/000000.npy"
    assert read_provenance(first.metadata) == Provenance(
        "npy", success_source="reward", first_observation="repeated"
    )
    assert source.summaries() == [source.read(index).summary() for index in range(3)]


def test_one_size_of_images_is_told(tmp_path):
    write_trajectory(tmp_path, {"a": make_images(2)}, np.zeros(2))
    told = read_provenance(NpySource(tmp_path).read(0).metadata)
    assert told is not None
    assert told.image_size == (6, 7)


def test_folders_may_be_named_each_or_be_one(folders):
    source = NpySource(folders / "negative", folders / "positive")
    assert [len(summary) for summary in source.summaries()] == [4, 3, 2]
    assert is_npy(folders / "negative")
    assert len(NpySource(folders / "negative")) == 1
    with pytest.raises(FileNotFoundError, match="absent"):
        NpySource(folders / "positive", folders / "absent")


def test_success_that_does_not_last_is_no_end(tmp_path):
    write_trajectory(tmp_path, {"a": make_images(3)}, np.array([0, 1, 0]))
    episode = NpySource(tmp_path).read(0)
    assert (episode.success, episode.terminated) == (True, False)


def test_only_the_images_named_are_read(folders, monkeypatch):
    read = []
    original = TrajectoryFile.read_images
    monkeypatch.setattr(
        TrajectoryFile,
        "read_images",
        lambda self, key, *rows: (read.append(key), original(self, key, *rows))[1],
    )
    dataset = EpisodeDataset(NpySource(folders, key_map={"hand": "robot0_eye_in_hand_image"}))
    episode = dataset.read(0, ["robot0_eye_in_hand_image"])
    assert list(episode.observations) == ["robot0_eye_in_hand_image"]
    assert set(read) == {"hand"}
    read.clear()
    dataset.summaries()
    assert not read
    with pytest.raises(ValueError, match=r"No images \['hand'\] in .*000000\.npy"):
        dataset.read(0, ["hand"])
    with pytest.raises(ValueError, match="two images of"):
        NpySource(folders, key_map={"hand": "agentview_image"}).read(0)


def test_damaged_files_are_left_out_and_counted(folders):
    whole = (folders / "positive" / "000000.npy").read_bytes()
    (folders / "positive" / "000001.npy").write_bytes(whole[:-100])
    (folders / "positive" / "000002.npy").write_bytes(b"no array")
    channels_last = {"images": {"a": np.zeros((2, 6, 6, 3), np.float32)}, "labels": np.zeros(2)}
    np.save(folders / "positive" / "000003.npy", np.array(channels_last))
    ragged = {"images": {"a": np.zeros((2, 3, 6, 6), np.float32)}, "labels": np.zeros(5)}
    np.save(folders / "positive" / "000004.npy", np.array(ragged))
    with open(folders / "positive" / "000005.npy", "wb") as file:
        pickle.dump({"images": print, "labels": 1}, file)
    source = NpySource(folders, on_error="skip")
    assert len(source) == 2
    assert [f"{number:06d}.npy" in reason for number, reason in enumerate(source.skipped, 1)] == [
        True
    ] * 5
    raising = NpySource(folders)
    assert len(raising) == 7
    for index in range(1, 6):
        with pytest.raises(ValueError, match=f"00000{index}"):
            raising.read(index)
    assert not raising.read(6).success


def test_other_folders_are_not_taken_for_trajectories(tmp_path):
    assert not is_npy(tmp_path)
    assert not is_npy(tmp_path / "absent")
    (tmp_path / "text.npy").write_text("no array")
    assert not is_npy(tmp_path)
    assert not is_npy(tmp_path / "text.npy")


def test_source_survives_pickling(folders):
    source = NpySource(folders)
    for _ in range(2):
        copied = pickle.loads(pickle.dumps(source))
        assert copied.summaries() == source.summaries()


def test_frames_become_bytes_without_all_of_them_as_floats(tmp_path):
    images = make_images(200, size=128)
    write_trajectory(tmp_path, {"a": images}, np.zeros(200))
    source = NpySource(tmp_path)
    len(source)
    tracemalloc.start()
    episode = source.read(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    as_bytes = episode.observations["a"].nbytes
    assert peak < as_bytes + 2**24 < as_bytes + 2 * images.size


def test_written_episodes_come_back(tmp_path):
    episodes = [make_episode([0, 0, 1], 0), make_episode([0, 0], 1), make_episode([0.5, 0.2], 2)]
    with NpyWriter(tmp_path) as writer:
        for episode in episodes:
            writer.append(episode)
        assert len(writer) == 3
    source = NpySource(tmp_path)
    order = [0, 2, 1]  # successes first
    for index, position in enumerate(order):
        read, written = source.read(index), episodes[position]
        np.testing.assert_array_equal(read.rewards, written.rewards)
        assert (read.success, read.terminated) == (written.success, written.terminated)
        images = written.observations["agentview_image"]
        np.testing.assert_array_equal(read.observations["agentview_image"][1:], images[1:])
    with NpyWriter(tmp_path) as writer:
        assert len(writer) == 3
        writer.append(episodes[0])
    assert len(NpySource(tmp_path)) == 4
    with pytest.raises(RuntimeError, match="closed"):
        writer.append(episodes[0])


def test_labels_come_from_is_success_before_rewards(tmp_path):
    images = make_images(4).transpose(0, 2, 3, 1)
    observations = {"a": images, "is_success": np.array([1.0, 0, 1, 1])}
    with NpyWriter(tmp_path) as writer:
        writer.append(
            make_episode([0, 0, 1], observations=observations, rewards=np.array([-3, 5, 7]))
        )
    assert NpySource(tmp_path).read(0).rewards.tolist() == [0, 1, 1]


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    with NpyWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=r"labels in \[0, 1\] in the rewards, got -1 to 0"):
            writer.append(make_episode([-1, 0]))
        with pytest.raises(ValueError, match=r"agree.*outcome, success; the largest in the rew"):
            writer.append(make_episode([0, 0], success=True))
        with pytest.raises(ValueError, match="the episode has: none"):
            writer.append(make_episode([0], observations={"state": np.zeros((2, 3))}))
    writer = NpyWriter(tmp_path, image_keys=["hand"])
    with pytest.raises(ValueError, match=r"\['hand'\].*has: agentview_image"):
        writer.append(make_episode([0]))
    with pytest.raises(ValueError, match="a list of names, got 'hand'"):
        NpyWriter(tmp_path, image_keys="hand")
    assert not list(tmp_path.rglob("*.npy"))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(data=st.data())
def test_any_trajectory_comes_back(tmp_path_factory, data):
    labels = data.draw(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=1, max_size=6))
    channels, size = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(1, 5))
    folder = tmp_path_factory.mktemp("any")
    images = make_images(len(labels) + 1, data.draw(st.integers(0, 99)), size, channels)
    images = images.transpose(0, 2, 3, 1)
    with NpyWriter(folder) as writer:
        writer.append(make_episode(labels, observations={"a": images}))
    read = NpySource(folder).read(0)
    np.testing.assert_array_equal(read.observations["a"][1:], images[1:])
    np.testing.assert_array_equal(read.rewards, np.float32(labels))
    assert read.success == (max(labels) >= 0.5)
