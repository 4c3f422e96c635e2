import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from libero_reward_envs.encoders import cache as cache_module
from libero_reward_envs.encoders.cache import (
    FeatureCache,
    get_features_folder,
    open_feature_cache,
)
from libero_reward_envs.encoders.feature_chunks import FeatureChunk
from libero_reward_envs.encoders.frame_hashes import hash_rows
from tests.encoders.small_encoders import ImageMeanEncoder
from tests.encoders.test_base import draw_images

IMAGES = draw_images(10)
HASHES = hash_rows({"agentview_image": IMAGES}, ["agentview_image"])
FEATURES = ImageMeanEncoder().encode({"agentview_image": IMAGES})


@pytest.fixture
def _small_chunks(monkeypatch):
    monkeypatch.setattr(cache_module, "_ROWS_PER_CHUNK", 4)


def fill(root, dtype="float16", rows=slice(None), encoder=None):
    with FeatureCache(root, encoder or ImageMeanEncoder(), dtype=dtype, writing=True) as cache:
        cache.add(HASHES[rows], FEATURES[rows])
    return cache


def list_chunks(cache):
    return sorted(cache.folder.glob("*.safetensors"))


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
@pytest.mark.usefixtures("_small_chunks")
def test_features_are_read_by_rows_in_any_order(tmp_path, dtype, bits):
    assert len(list_chunks(fill(tmp_path, dtype))) == 3
    cache = FeatureCache(tmp_path, ImageMeanEncoder(), dtype=dtype)
    assert len(cache) == 10
    rows = [9, 0, 1, 2, 5, 5, 3]
    features, is_there = cache.read([HASHES[row] for row in rows] + [b"unknown"])
    assert is_there.tolist() == [True] * 7 + [False]
    np.testing.assert_allclose(features[:-1], FEATURES[rows], rtol=2.0**-bits)
    assert not (features[:-1] == FEATURES[rows]).all()
    stored = torch.from_numpy(FEATURES).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(features[:-1], stored[rows])
    assert not features[-1].any()
    assert features.dtype == np.float32


@pytest.mark.usefixtures("_small_chunks")
def test_only_the_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
    cache = fill(tmp_path)
    read, asked = FeatureChunk.read, []

    def note(chunk, start, stop):
        asked.append((chunk.path.name[:8], start, stop))
        return read(chunk, start, stop)

    monkeypatch.setattr(FeatureChunk, "read", note)
    cache.read([HASHES[row] for row in (6, 2, 3, 6, 4, 2)])
    assert asked == [("00000000", 2, 4), ("00000001", 0, 1), ("00000001", 2, 3)]


def test_what_waits_is_written_at_the_end_and_a_second_writer_adds_to_it(tmp_path):
    with FeatureCache(tmp_path, ImageMeanEncoder(), writing=True) as cache:
        cache.add(HASHES[:6], FEATURES[:6])
        assert HASHES[5] in cache
        assert list_chunks(cache) == []
    fill(tmp_path, rows=slice(6, None))
    cache = FeatureCache(tmp_path, ImageMeanEncoder())
    assert len(list_chunks(cache)) == 2
    assert cache.read(HASHES)[1].all()
    with pytest.raises(RuntimeError, match="open for writing"):
        cache.add(HASHES[:1], FEATURES[:1])


def test_what_comes_slowly_is_written_in_smaller_chunks(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: now[0])
    with FeatureCache(tmp_path, ImageMeanEncoder(), writing=True) as cache:
        for row in range(4):
            cache.add(HASHES[row : row + 1], FEATURES[row : row + 1])
            now[0] += 35
        assert [len(chunk.hashes) for chunk in cache._chunks.values()] == [3]
    assert len(list_chunks(cache)) == 2


@pytest.mark.parametrize(
    "other",
    [
        ImageMeanEncoder(factor=2.0),
        ImageMeanEncoder("wrist_image"),
        ImageMeanEncoder(orientation="raw"),
    ],
)
def test_another_setting_never_finds_an_old_entry(tmp_path, other):
    fill(tmp_path)
    cache = FeatureCache(tmp_path, other)
    assert len(cache) == 0
    assert not cache.read(HASHES)[1].any()


def test_chunks_of_another_cache_are_not_taken_over(tmp_path):
    old = fill(tmp_path)
    with FeatureCache(tmp_path, ImageMeanEncoder(factor=2.0), writing=True) as new:
        pass
    os.rename(list_chunks(old)[0], new.folder / "00000000.safetensors")
    cache = FeatureCache(tmp_path, ImageMeanEncoder(factor=2.0))
    assert len(cache) == 0
    assert "it belongs to another cache" in cache.skipped[0]


def test_the_configuration_says_all_and_must_agree(tmp_path):
    cache = fill(tmp_path, "bfloat16", encoder=ImageMeanEncoder(factor=3.0, orientation="raw"))
    path = cache.folder / "config.json"
    config = json.loads(path.read_text())
    assert config["settings"] == {
        "image_key": "agentview_image",
        "factor": 3.0,
        "orientation": "raw",
    }
    assert (config["encoder"], config["dtype"]) == ("ImageMeanEncoder", "bfloat16")
    path.write_text(json.dumps({**config, "settings": {}}))
    encoder = ImageMeanEncoder(factor=3.0, orientation="raw")
    with pytest.raises(ValueError, match="is not what these features were made with"):
        FeatureCache(tmp_path, encoder, dtype="bfloat16")
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        FeatureCache(tmp_path, encoder, dtype="bfloat16", writing=True)
    path.unlink()  # and the lock of the one that failed is gone
    assert len(fill(tmp_path, "bfloat16", slice(0), encoder)) == 10


@pytest.mark.usefixtures("_small_chunks")
def test_a_chunk_that_is_cut_off_is_named_left_out_and_removed_by_a_writer(tmp_path):
    damaged = list_chunks(fill(tmp_path))[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    cache = FeatureCache(tmp_path, ImageMeanEncoder())
    assert len(cache) == 6
    assert len(cache.skipped) == 1
    assert str(damaged) in cache.skipped[0]
    assert cache.read(HASHES)[1].tolist() == [True] * 4 + [False] * 4 + [True] * 2
    with FeatureCache(tmp_path, ImageMeanEncoder(), writing=True) as cache:
        assert not damaged.exists()
        cache.add(HASHES[4:8], FEATURES[4:8])
    assert FeatureCache(tmp_path, ImageMeanEncoder()).read(HASHES)[1].all()


@pytest.mark.parametrize("how", ["hash", "feature"])
@pytest.mark.usefixtures("_small_chunks")
def test_one_changed_bit_is_found(tmp_path, how):
    first = list_chunks(fill(tmp_path))[0]
    content = bytearray(first.read_bytes())
    stored = FEATURES[2].astype(np.float16).tobytes()
    content[content.index(HASHES[2] if how == "hash" else stored)] ^= 1
    first.write_bytes(content)
    cache = FeatureCache(tmp_path, ImageMeanEncoder())
    assert not cache.skipped
    missing = [2] if how == "hash" else [0, 1, 2, 3]  # no frame has the changed hash
    assert np.flatnonzero(~cache.read(HASHES)[1]).tolist() == missing
    assert len(cache.skipped) == (how == "feature")
    cache = FeatureCache(tmp_path, ImageMeanEncoder())
    cache.check()
    assert len(cache) == 6
    assert f"Cannot read {str(first)!r}: a checksum differs." in cache.skipped


def test_hostile_chunks_are_left_out(tmp_path):
    path = list_chunks(fill(tmp_path))[0]
    tensors, good = load_file(path), path.read_bytes()
    header = int.from_bytes(good[:8], "little")
    metadata = json.loads(good[8 : 8 + header])["__metadata__"]
    hostile = [
        {**tensors, "features": tensors["features"].float()},
        {**tensors, "features": tensors["features"][:, :2].contiguous()},
        {**tensors, "features": tensors["features"][:5].contiguous()},
        {**tensors, "hashes": tensors["hashes"][:, :8].contiguous()},
        {**tensors, "hashes": torch.tensor(1, dtype=torch.uint8)},
        {**tensors, "more": torch.zeros(1)},
        {"features": tensors["features"]},
    ]
    for parts in hostile:
        save_file(parts, path, metadata)
        assert len(FeatureCache(tmp_path, ImageMeanEncoder()).skipped) == 1
    for content in (
        b"",
        b"\xff" * 64,  # a header of 2^64 bytes
        good[:8] + b" " * header + good[8 + header :],
        good.replace(b'"shape":[10,3]', b'"shape":[99,3]'),
    ):
        assert content != good
        path.write_bytes(content)
        assert len(FeatureCache(tmp_path, ImageMeanEncoder()).skipped) == 1
    (path.parent / "0x.safetensors").write_bytes(b"someone else's")
    path.write_bytes(good)
    assert not FeatureCache(tmp_path, ImageMeanEncoder()).skipped


def test_features_too_large_for_float16_are_refused_and_fit_into_bfloat16(tmp_path):
    large = np.full((1, 3), 7e4, np.float32)
    with FeatureCache(tmp_path, ImageMeanEncoder(), writing=True) as cache:
        cache.add(HASHES[:1], large)
        with pytest.raises(
            ValueError, match=r"70000 do not fit into float16\. Keep them in bfloat"
        ):
            cache.flush()
    with FeatureCache(tmp_path, ImageMeanEncoder(), dtype="bfloat16", writing=True) as cache:
        cache.add(HASHES[:1], large)
    np.testing.assert_allclose(cache.read(HASHES[:1])[0], large, rtol=2.0**-8)


def _write_from_another_process(root, queue):
    try:
        FeatureCache(root, ImageMeanEncoder(), writing=True)
    except RuntimeError as error:
        queue.put(str(error))


def test_two_writers_are_kept_apart(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with FeatureCache(tmp_path, ImageMeanEncoder(), writing=True):
        process = context.Process(target=_write_from_another_process, args=(tmp_path, queue))
        process.start()
        assert "Another writer has" in queue.get(timeout=60)
        process.join()
        with FeatureCache(tmp_path, ImageMeanEncoder(factor=2.0), writing=True):
            pass
    fill(tmp_path)


def test_what_a_killed_writer_left_is_taken_away(tmp_path):
    left = fill(tmp_path).folder / ".00000001.safetensors.77.tmp"
    left.write_bytes(b"part of a chunk")
    assert len(FeatureCache(tmp_path, ImageMeanEncoder())) == 10
    assert left.exists()
    fill(tmp_path, rows=slice(0))
    assert not left.exists()


def test_a_cache_for_reading_goes_to_other_processes(tmp_path):
    fill(tmp_path)
    cache = pickle.loads(pickle.dumps(FeatureCache(tmp_path, ImageMeanEncoder())))
    assert cache.read(HASHES)[1].all()
    with (
        FeatureCache(tmp_path, ImageMeanEncoder(), writing=True) as cache,
        pytest.raises(TypeError, match="cannot be pickled"),
    ):
        pickle.dumps(cache)


def test_the_type_that_was_written_is_found(tmp_path):
    assert len(open_feature_cache(tmp_path, ImageMeanEncoder())) == 0
    fill(tmp_path, "bfloat16")
    assert open_feature_cache(tmp_path, ImageMeanEncoder()).dtype == "bfloat16"
    with pytest.raises(ValueError, match="`dtype` must be one of float16, bfloat16"):
        FeatureCache(tmp_path, ImageMeanEncoder(), dtype="float32")


def test_features_lie_beside_their_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get_features_folder("episodes.h5") == tmp_path / "episodes.h5.features"
    assert get_features_folder(".") == tmp_path.parent / f"{tmp_path.name}.features"
