import errno
import multiprocessing
import os

import numpy as np
import pytest

from libero_reward_envs.data import trajectory_files
from libero_reward_envs.data.trajectory_files import (
    TrajectoryFile,
    read_trajectory,
    write_trajectory,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((5, 3, 8, 6), np.float32)
LABELS = np.array([0, 0, 0, 1, 1], np.float32)


def save(path, content):
    np.save(path, np.array(content))
    return path


def test_what_is_written_is_what_np_save_writes(tmp_path):
    path = write_trajectory(tmp_path / "new", {"a": IMAGES, "b": IMAGES[:, :1]}, LABELS)
    assert path == tmp_path / "new" / "000000.npy"
    loaded = np.load(path, allow_pickle=True).item()
    read = read_trajectory(path)
    assert loaded.keys() == {"images", "labels"}
    for content in (loaded["images"], read.images):
        np.testing.assert_array_equal(content["a"], IMAGES)
        np.testing.assert_array_equal(content["b"], IMAGES[:, :1])
        assert content["a"].dtype == np.float32
    for labels in (loaded["labels"], read.labels):
        np.testing.assert_array_equal(labels, LABELS)
        assert labels.dtype == np.float32
    assert os.listdir(tmp_path / "new") == ["000000.npy"]


def test_uint8_is_divided_by_255(tmp_path):
    pixels = RNG.integers(0, 256, (5, 3, 8, 6), dtype=np.uint8)
    images = read_trajectory(write_trajectory(tmp_path, {"a": pixels}, LABELS)).images["a"]
    np.testing.assert_array_equal(np.rint(images * 255), pixels)
    assert images.max() <= 1


def test_numbers_continue_after_the_highest_one(tmp_path):
    for name in ("000003.npy", "000007.npy", "999.npy", "x000009.npy", "000010.npy.bak"):
        (tmp_path / name).write_bytes(b"mine")
    assert write_trajectory(tmp_path, {"a": IMAGES}, LABELS).name == "000008.npy"
    (tmp_path / "999999.npy").touch()
    assert write_trajectory(tmp_path, {"a": IMAGES}, LABELS).name == "1000000.npy"
    assert (tmp_path / "000003.npy").read_bytes() == b"mine"


def write_many(folder, value, count):
    for _ in range(count):
        write_trajectory(folder, {"a": np.full((2, 1, 2, 2), value, np.float32)}, np.zeros(2))


def test_two_processes_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(tmp_path, v, 30)) for v in (0.25, 0.75)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    values = [read_trajectory(path).images["a"][0, 0, 0, 0] for path in tmp_path.glob("*.npy")]
    assert sorted(values) == [0.25] * 30 + [0.75] * 30


def test_a_name_taken_in_between_is_left_alone(tmp_path, monkeypatch):
    link = os.link

    def link_after_another(source, target):
        if target.name == "000000.npy":
            target.write_bytes(b"another's")
        link(source, target)

    monkeypatch.setattr(os, "link", link_after_another)
    assert write_trajectory(tmp_path, {"a": IMAGES}, LABELS).name == "000001.npy"
    assert (tmp_path / "000000.npy").read_bytes() == b"another's"


def test_a_disk_without_links_is_written_too(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    paths = [write_trajectory(tmp_path, {"a": IMAGES}, LABELS) for _ in range(2)]
    assert [path.name for path in paths] == ["000000.npy", "000001.npy"]
    np.testing.assert_array_equal(read_trajectory(paths[0]).labels, LABELS)
    assert len(os.listdir(tmp_path)) == 2


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trajectory_files.np, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write_trajectory(tmp_path, {"a": IMAGES}, LABELS)
    assert os.listdir(tmp_path) == []


BAD = {
    "channels last": (IMAGES.transpose(0, 2, 3, 1), LABELS, r"looks like \(T, H, W, C\)"),
    "not scaled": (IMAGES * 255, LABELS, r"divide by 255"),
    "negative": (IMAGES - 1, LABELS, r"in \[0, 1\]"),
    "NaN": (np.where(IMAGES > 0.99, np.nan, IMAGES), LABELS, "nan"),
    "no frames": (IMAGES[:0], LABELS[:0], "T > 0"),
    "a label too many": (IMAGES, np.zeros(6, np.float32), "6"),
    "a label of two": (IMAGES, LABELS * 2, "got 2"),
    "a label that is NaN": (IMAGES, LABELS * np.nan, "got nan"),
    "labels of two axes": (IMAGES, LABELS[:, None], r"\(T,\)"),
    "one frame": (IMAGES[0], LABELS[:1], r"\(T, C, H, W\)|1 labels"),
    "integers": (np.zeros((5, 3, 8, 6), np.int64), LABELS, "int64"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_layout_is_refused_when_written_and_when_read(tmp_path, name):
    images, labels, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        write_trajectory(tmp_path, {"a": images}, labels)
    assert os.listdir(tmp_path) == []
    path = save(tmp_path / "000000.npy", {"images": {"a": images}, "labels": labels})
    with pytest.raises(ValueError, match=message) as error:
        read_trajectory(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        {"images": {"a": IMAGES}},
        {"images": IMAGES, "labels": LABELS},
        {"images": {}, "labels": LABELS},
        {"images": {"a": [1.0]}, "labels": LABELS},
        "text",
    ],
)
def test_another_content_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.npy.*[Ee]xpected"):
        read_trajectory(save(tmp_path / "a.npy", content))


def test_frames_are_read_in_parts(tmp_path):
    for name, images in (("c", IMAGES), ("f", np.asfortranarray(IMAGES))):
        path = save(tmp_path / f"{name}.npy", {"images": {"a": images}, "labels": LABELS})
        file = TrajectoryFile(path)
        assert (len(file), file.image_shapes) == (5, {"a": (5, 3, 8, 6)})
        np.testing.assert_array_equal(file.read_images("a", 1, 3), IMAGES[1:3])
        np.testing.assert_array_equal(file.read_images("a", 3), IMAGES[3:])
        with pytest.raises(ValueError, match="no images 'b', it has: a"):
            file.read_images("b")


@pytest.mark.parametrize("header", [b"(" * 9000, b"-" * 9000 + b"1", b"{'descr': [], 'shape': 1}"])
def test_a_hostile_header_is_a_value_error(tmp_path, header):
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (tmp_path / "a.npy").write_bytes(magic + header)
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_trajectory(tmp_path / "a.npy")
