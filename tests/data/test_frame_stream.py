import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.frame_stream import FrameStream
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.hdf5_frames import OpenFiles
from libero_reward_envs.data.trajectory_files import write_trajectory

N_FRAMES = 60  # of each of 8 trajectories of 64 px: three chunks


def make_images(number):
    """(T, 64, 64, 3) whose first pixels tell trajectory and frame."""
    rng = np.random.default_rng(number)
    images = rng.integers(0, 256, (N_FRAMES, 64, 64, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number, np.arange(N_FRAMES)
    return images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(8):
        images, success = make_images(number), number < 4
        labels = np.zeros(N_FRAMES, np.float32)
        labels[-5:] = success
        target = folder / ("positive" if success else "negative")
        if number % 4 == 0:
            write_trajectory(target, {"a": images.transpose(0, 3, 1, 2)}, labels)
            continue
        with EpisodeWriter(target / f"00000{number}.hdf5") as writer:
            observations = {
                "a": np.concatenate([images[:1] * 0, images]),
                "is_success": np.append(np.float32(0), labels),
            }
            actions, rewards = np.zeros((N_FRAMES, 7)), np.zeros(N_FRAMES)
            writer.append(Episode(observations, actions, rewards, success, success))
    return RewardDataset(folder / "positive", folder / "negative", image_keys="a")


def read(stream, **loader):
    """The frames' (trajectory, frame) in their order, checked, and the batches' sizes."""
    found, sizes = [], []
    for images, labels in DataLoader(stream, batch_size=None, **loader):
        assert images["a"].dtype == torch.uint8
        assert images["a"].shape[1:] == (3, 64, 64)
        sizes.append(len(labels))
        for image, label in zip(images["a"], labels, strict=True):
            number, frame = image[0, 0, 0].item(), image[1, 0, 0].item()
            assert label == (number < 4 and frame >= N_FRAMES - 5)
            found.append((number, frame))
    return found, sizes


def test_every_frame_comes_once_and_whole(dataset):
    known = {number: make_images(number) for number in range(8)}
    for images, labels in FrameStream(dataset, batch_size=50, buffer_frames=100):
        for image in images["a"].permute(0, 2, 3, 1).numpy():
            np.testing.assert_array_equal(image, known[image[0, 0, 0]][image[0, 0, 1]])
        assert labels.dtype == torch.float32
    found, sizes = read(FrameStream(dataset, batch_size=50, buffer_frames=100))
    assert sorted(found) == [(n, t) for n in range(8) for t in range(N_FRAMES)]
    assert sizes == [50] * 9 + [30]
    assert read(FrameStream(dataset, batch_size=50, drop_last=True))[1] == [50] * 9


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_share_the_frames_and_repeat_them(dataset, persistent):
    stream = FrameStream(dataset, batch_size=40, buffer_frames=100, seed=3)
    options = {
        "num_workers": 2, "persistent_workers": persistent, "multiprocessing_context": "fork"
    }  # fmt: skip
    first, _ = read(stream, **options)
    assert sorted(first) == [(n, t) for n in range(8) for t in range(N_FRAMES)]
    assert read(stream, **options)[0] == first
    loader = DataLoader(stream, batch_size=None, **options)
    passes = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        passes.append([images["a"][:, :2, 0, 0] for images, _ in loader])
    assert len(passes[0]) == len(passes[1])
    assert any(not torch.equal(a, b) for a, b in zip(*passes, strict=True))


def test_the_order_is_of_the_seed_and_the_epoch(dataset):
    def order(seed, epoch):
        stream = FrameStream(dataset, batch_size=40, buffer_frames=100, seed=seed)
        stream.set_epoch(epoch)
        return read(stream)[0]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_batches_are_mixed(dataset):
    batches = FrameStream(dataset, batch_size=48, buffer_frames=240)
    mixed = [len(torch.unique(images["a"][:, 0, 0, 0])) for images, _ in batches]
    assert np.mean(mixed[:5]) > 4


def test_a_part_that_is_damaged_is_named_and_skipped(dataset, tmp_path, caplog):
    folder = dataset.sources[1].path.parent.parent
    copies = [tmp_path / name for name in ("positive", "negative")]
    for copy in copies:
        copy.mkdir()
        for path in (folder / copy.name).iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    damaged = copies[0] / "000002.hdf5"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF  # in the pixels
    damaged.write_bytes(content)
    found, _ = read(FrameStream(RewardDataset(*copies, image_keys="a")))
    assert 8 * N_FRAMES - 25 <= len(found) < 8 * N_FRAMES
    assert "000002.hdf5" in caplog.text
    assert "are skipped" in caplog.text


def test_data_that_is_gone_is_an_error(dataset, tmp_path):
    for name in ("positive", "negative"):
        write_trajectory(
            tmp_path / name, {"a": make_images(0).transpose(0, 3, 1, 2)},
            np.full(N_FRAMES, name == "positive", np.float32),
        )  # fmt: skip
    gone = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    for source in gone.sources:
        source.path.unlink()
    with pytest.raises(ValueError, match="No part of the data could be read"):
        list(FrameStream(gone))


def test_sizes_are_checked(dataset):
    for sizes in ((0, 10), (11, 10)):
        with pytest.raises(ValueError, match="batch_size"):
            FrameStream(dataset, batch_size=sizes[0], buffer_frames=sizes[1])


def test_memory_is_used_again_but_never_under_batches_in_use(dataset):
    stream = FrameStream(dataset, batch_size=48, buffer_frames=96)

    def addresses():
        return {images["a"].data_ptr() for images, _ in stream}

    assert addresses() == addresses()
    kept, copies = [], []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        for images, labels in stream:
            kept.append((images["a"], labels))
            copies.append((images["a"].clone(), labels.clone()))
    for batch, copy in zip(kept, copies, strict=True):
        assert all(map(torch.equal, batch, copy))


def test_two_passes_at_once_do_not_share_memory(dataset):
    stream = FrameStream(dataset, batch_size=48, buffer_frames=96)
    expected = [images["a"].clone() for images, _ in stream]
    for (first, _), (second, _), wanted in zip(stream, stream, expected, strict=True):
        assert torch.equal(first["a"], wanted)
        assert torch.equal(second["a"], wanted)


def test_a_pass_that_was_left_early_does_not_disturb_the_next(dataset):
    stream = FrameStream(dataset, batch_size=48, buffer_frames=96)
    expected = read(stream)
    iterator = iter(stream)
    next(iterator)
    del iterator
    assert read(stream) == expected


def test_the_stream_travels_without_its_buffers(dataset):
    stream = FrameStream(dataset, batch_size=48, seed=5)
    expected = read(stream)
    pickled = pickle.dumps(stream)
    assert len(pickled) < 100_000
    assert read(pickle.loads(pickled)) == expected


def test_open_files_keep_no_chunks(dataset):
    """HDF5 2 would keep 8 MB of each of up to 64 datasets a key."""
    files = OpenFiles()
    source = dataset.sources[1]
    source.read(0, 1, files)
    (file,) = files._files.values()
    assert file.id.get_access_plist().get_cache()[2] == 0
    files.close()
