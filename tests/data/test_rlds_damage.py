"""Damaged and hostile RLDS sets: named, refused, and passed over on demand."""

import json
import os
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.data.rlds import RldsSource
from libero_reward_envs.data.rlds.features import parse_features
from libero_reward_envs.data.rlds.images import decode_images, encode_image
from libero_reward_envs.data.rlds.tf_example import parse_example, serialize_example
from libero_reward_envs.data.rlds.tfrecord import index_shard, iterate_records, write_shard

TFDS = Path(__file__).parent / "rlds/tfds_features"
SHARDS = [f"tfds_features-train.tfrecord-0000{index}-of-00002" for index in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TFDS / "1.2.0", tmp_path / "set")
    return tmp_path / "set"


def change_json(folder: Path, name: str, change: Any) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def change_split(folder: Path, **values: Any) -> None:
    change_json(folder, "dataset_info.json", lambda info: info["splits"][0].update(values))


def change_example(folder: Path, **values: Any) -> None:
    """Give episode 1 other values; the path's "/" is "__" here, None takes one away."""
    shard = folder / SHARDS[0]
    first, second = (parse_example(record) for record in iterate_records(shard))
    for name, value in values.items():
        second[name.replace("__", "/")] = value
    second = {key: value for key, value in second.items() if value is not None}
    write_shard(shard, [serialize_example(first), serialize_example(second)])


def check_episode_1(folder: Path, message: str) -> None:
    """Episode 1 is refused by name, the others are read, and it alone is skipped."""
    source = RldsSource(folder)
    with pytest.raises(ValueError, match=message) as caught:
        source.read(1)
    assert str(caught.value).startswith(f"Cannot read {str(folder / SHARDS[0])!r}, episode 1: ")
    assert len(source.read(0)) == 3
    assert len(source.read(2)) == 5
    patient = RldsSource(folder, on_error="skip")
    assert [len(patient.read(index)) for index in range(len(patient))] == [3, 5]
    assert patient.skipped == [str(caught.value)]
    assert [summary.length for summary in patient.summaries()] == [3, 5]


def test_a_cut_shard_keeps_what_is_whole(folder: Path) -> None:
    shard = folder / SHARDS[0]
    content = shard.read_bytes()
    start = int(index_shard(shard).offsets[1]) - 12
    for size in (start, start + 3, start + 11, start + 12, start + 500, len(content) - 1):
        shard.write_bytes(content[:size])
        check_episode_1(folder, "cut short")


def test_flipped_bits_are_found(folder: Path) -> None:
    shard = folder / SHARDS[0]
    content = shard.read_bytes()
    start = int(index_shard(shard).offsets[1])
    for position in (start - 12, start - 2, start, start + 1500, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 4
        shard.write_bytes(damaged)
        check_episode_1(folder, "checksum")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps__action": None}, "`steps/action`: not in this episode, which has: ep"),
        ({"steps__action": np.zeros(4)}, "`steps/action`: expected 1 rows of 3 numbers, got 4"),
        ({"steps__action": np.zeros(0)}, "without a step"),
        ({"steps__action": [b"x"]}, "`steps/action`: expected numbers, got bytes"),
        ({"steps__action": np.array([np.nan, 0, 0])}, "finite numbers in `actions`, got nan"),
        ({"steps__action": np.zeros(6)}, "expected 2 (rows|values)"),
        ({"steps__reward": np.zeros(3)}, "`steps/reward`: expected 1 rows of 1 numbers, got 3"),
        ({"steps__observation__int8": np.array([1, 2, 200])}, "int8`: expected int8.* 1 to 200"),
        ({"steps__observation__contact": np.array([2])}, "contact`: expected bool.* 2 to 2"),
        ({"steps__observation__mode": np.array([1.0])}, "mode`: expected int64.*got float32"),
        ({"steps__observation__jpeg": np.zeros(1)}, "jpeg`: expected bytes, got float32"),
        ({"steps__observation__jpeg": []}, "jpeg`: expected 1 values, got 0"),
        ({"steps__observation__jpeg": [b"GIF89a" + bytes(90)]}, "jpeg`: .*JPEG or PNG, got GIF"),
        ({"steps__observation__as_bytes": [bytes(47)]}, "as_bytes`: expected 48 bytes.*got 47"),
        ({"steps__observation__as_zlib": [b"?" * 20]}, "as_zlib`: damaged zlib data"),
        ({"steps__observation__as_zlib": [zlib.compress(bytes(10**6))]}, "expected 10 bytes"),
        ({"steps__language_instruction": [b"\xff"]}, "language_instruction`: .*utf-8"),
        (
            {"steps__observation__sequence__ragged_row_lengths_0": np.array([4, 4])},
            "expected 1 sequences, got 2",
        ),
        (
            {"steps__observation__sequence__ragged_row_lengths_0": np.array([2**40])},
            "sequence`: expected 1 rows of 1099511627776 numbers, got 4",
        ),
    ],
)
def test_values_that_do_not_fit_are_named(folder: Path, values: dict, message: str) -> None:
    change_example(folder, **values)
    check_episode_1(folder, message)


def test_lengths_that_differ_inside_an_episode_are_refused(folder: Path) -> None:
    shard = folder / SHARDS[1]
    (example,) = (parse_example(record) for record in iterate_records(shard))
    name = "steps/observation/sequence/ragged_row_lengths_0"
    write_shard(shard, [serialize_example({**example, name: np.array([4, 3, 5, 4, 4])})])
    with pytest.raises(ValueError, match=r"episode 2: .*whose length differs between steps"):
        RldsSource(folder).read(2)


def test_pictures_are_no_larger_than_their_bytes_allow(folder: Path) -> None:
    def claim(width: int, height: int) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        content = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return b"\x89PNG\r\n\x1a\n" + content + bytes(200)

    tracemalloc.start()
    with pytest.raises(ValueError, match="1 pictures of 60000 x 50000 in too few bytes"):
        decode_images([claim(60000, 50000)], (None, None, 3), np.dtype(np.uint8))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    change_example(folder, steps__observation__jpeg=[claim(9, 9)])
    check_episode_1(folder, r"jpeg`: .*\(H, W\) = \(24, 32\).*got \(9, 9\)")


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_cut_pictures_are_refused(format: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    content = encode_image(image, format)
    for size in range(0, len(content) - 30, 40):
        with pytest.raises(ValueError, match=r"damaged|JPEG|got b"):
            decode_images([content[:size]], (16, 16, 3), np.dtype(np.uint8))


def test_a_missing_shard_is_named_and_its_episodes_counted(folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    message = f"Cannot read {str(folder / SHARDS[0])!r}, episode 0 to 1: the file is missing."
    source = RldsSource(folder)
    with pytest.raises(ValueError, match="episode 0: the file is missing"):
        source.read(0)
    assert len(source.read(2)) == 5
    patient = RldsSource(folder, on_error="skip")
    assert (len(patient), patient.skipped) == (1, [message])


def test_more_episodes_than_declared_are_noticed(folder: Path) -> None:
    change_split(folder, shardLengths=["1", "1"])
    with pytest.raises(ValueError, match="1 episodes are declared, more are there"):
        RldsSource(folder).read(0)
    patient = RldsSource(folder, on_error="skip")
    assert [len(patient.read(index)) for index in range(2)] == [3, 5]
    (reason,) = patient.skipped
    assert "dataset_info.json and this file do not belong together" in reason


def test_numbers_of_episodes_that_do_not_fit_are_not_counted_to(folder: Path) -> None:
    change_split(folder, shardLengths=[str(2**39), "1"])
    with pytest.raises(ValueError, match=f"{2**39} episodes do not fit into"):
        RldsSource(folder).read(0)
    patient = RldsSource(folder, on_error="skip")
    assert len(patient) == 1
    assert len(patient.skipped) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filepathTemplate": "../{DATASET}-{SHARD_X_OF_Y}"}, "in the folder itself, got '../tf"),
        ({"filepathTemplate": "/etc/passwd"}, "in the folder itself, got '/etc/passwd'"),
        ({"filepathTemplate": ".."}, "in the folder itself, got '..'"),
        ({"filepathTemplate": "a\0b"}, "in the folder itself"),
        ({"shardLengths": ["-1"]}, "numbers of episodes in `shardLengths`, got '-1'"),
        ({"shardLengths": [str(2**40)]}, "numbers of episodes in `shardLengths`"),
        ({"shardLengths": [None]}, "numbers of episodes in `shardLengths`, got 'None'"),
        ({"shardLengths": []}, "expected `shardLengths` of split 'train'"),
        ({"name": "test"}, "no split 'train' in dataset_info.json, it has: 'test'"),
    ],
)
def test_what_the_info_file_may_not_say(folder: Path, values: dict, message: str) -> None:
    change_split(folder, **values)
    with pytest.raises(ValueError, match=message) as caught:
        RldsSource(folder)
    assert str(folder) in str(caught.value)


def test_names_of_shards_follow_the_template(folder: Path) -> None:
    change_split(folder, filepathTemplate="{SPLIT}.{FILEFORMAT}.{SHARD_INDEX}.{NUM_SHARDS}")
    for index, name in enumerate(SHARDS):
        (folder / name).rename(folder / f"train.tfrecord.0000{index}.00002")
    assert len(RldsSource(folder).summaries()) == 3
    change_json(folder, "dataset_info.json", lambda info: info.update(fileFormat="array_record"))
    with pytest.raises(ValueError, match="the files are 'array_record', only 'tfrecord' is read"):
        RldsSource(folder)


def test_links_out_of_the_folder_are_refused_but_for_the_cache_of_the_hub(folder: Path) -> None:
    outside = folder.parent / "elsewhere"
    (folder / SHARDS[1]).rename(outside)
    (folder / SHARDS[1]).symlink_to(outside)
    with pytest.raises(ValueError, match=r"is a link to .*elsewhere', outside the folder"):
        RldsSource(folder)
    repository = folder.parent / "hub/datasets--a--b"
    snapshot = repository / "snapshots/0123/libero/1.0.0"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for index, path in enumerate(sorted(TFDS.glob("1.2.0/*"))):
        shutil.copyfile(path, repository / f"blobs/{index}")
        (snapshot / path.name).symlink_to(f"../../../../blobs/{index}")
    assert len(RldsSource(snapshot.parent).summaries()) == 3
    os.replace(repository / "blobs", folder.parent / "moved")
    (repository / "blobs").symlink_to(folder.parent / "moved")
    with pytest.raises(ValueError, match="outside the folder"):
        RldsSource(snapshot)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", '"text"', "{", "[" * 100_000, '{"splits": 1}', '{"name": "x"}']
)
def test_json_that_is_something_else_is_refused(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match="Cannot read"):
        RldsSource(folder)


def test_feature_trees_that_are_none_are_refused() -> None:
    tensor = {"tensor": {"dtype": "float32", "shape": {"dimensions": ["3"]}}}
    steps: dict[str, Any] = {"sequence": {"feature": {"featuresDict": {"features": {"a": tensor}}}}}
    assert parse_features({"featuresDict": {"features": {"steps": steps}}})["steps/a"].shape == (3,)
    with pytest.raises(ValueError, match="a set of TensorFlow Datasets, but not RLDS"):
        parse_features({"featuresDict": {"features": {"image": tensor}}})
    for size in ("-2", "1e9", str(2**40), None, [], {}):
        tensor["tensor"]["shape"] = {"dimensions": [size]}
        with pytest.raises(ValueError, match="`steps/a` has the size"):
            parse_features({"featuresDict": {"features": {"steps": steps}}})
    deep: dict[str, Any] = {"text": {}}
    for _ in range(100):
        deep = {"featuresDict": {"features": {"a": deep}}}
    with pytest.raises(ValueError, match="no feature tree at"):
        parse_features(deep)
