"""Sets written by `RldsWriter`: read back whole, whatever interrupts the writing."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from libero_reward_envs.data import Episode, EpisodeDataset
from libero_reward_envs.data.provenance import Provenance, read_provenance
from libero_reward_envs.data.rlds import RldsSource, RldsWriter, is_rlds
from libero_reward_envs.data.rlds.features import build_features, parse_features
from libero_reward_envs.data.rlds.images import encode_image
from libero_reward_envs.data.rlds.tf_example import parse_example
from libero_reward_envs.data.rlds.tfrecord import index_shard, iterate_records
from tests.data.rlds_episodes import assert_same, make_episode, write

PROPERTY = settings(deadline=None, max_examples=40, database=None)
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
TFDS = Path(__file__).parent / "rlds/tfds_features"


@st.composite
def episodes(draw: st.DrawFn) -> list[Episode]:
    names = st.lists(st.text("ab/é", min_size=1, max_size=5), min_size=1, max_size=3, unique=True)
    paths = [name for name in draw(names) if all(name.split("/"))] or ["state"]
    paths = [a for a in paths if not any(b.startswith(f"{a}/") for b in paths)]
    kinds = {
        path: (draw(st.sampled_from(DTYPES)), draw(npst.array_shapes(min_dims=0))) for path in paths
    }
    found = []
    for n_steps in draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)):
        drawn: dict[str, Any] = {
            "actions": npst.arrays(np.float32, (n_steps, 3), elements=st.floats(-1, 1, width=32)),
            "rewards": npst.arrays(np.float32, n_steps, elements=st.floats(-9, 9, width=32)),
            "terminated": st.booleans(),
            "success": st.booleans(),
            "task": st.text(max_size=5),
            "instruction": st.text(st.characters(codec="utf-8"), max_size=9),
            "metadata": st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text()),
        }
        observations = {}
        for path, (dtype, shape) in kinds.items():
            elements = npst.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
            observations[path] = draw(npst.arrays(dtype, (n_steps + 1, *shape), elements=elements))
        values = {name: draw(strategy) for name, strategy in drawn.items()}
        values["metadata"].pop("provenance", None)
        found.append(Episode(observations, **values))
    return found


@PROPERTY
@given(episodes())
def test_episodes_survive(tmp_path_factory: pytest.TempPathFactory, given: list[Episode]) -> None:
    folder = tmp_path_factory.mktemp("sets") / "set"
    source = write(folder, *given, shard_bytes=2000)
    assert len(source) == len(given)
    for got, expected in zip(EpisodeDataset(source), given, strict=True):
        assert_same(got, expected)
    assert source.summaries() == [episode.summary() for episode in EpisodeDataset(source)]
    assert RldsSource(folder, on_error="skip").skipped == []
    (features,) = folder.rglob("features.json")
    tree = json.loads(features.read_text())
    assert build_features(parse_features(tree).values()) == tree


def test_jpeg_is_what_tensorflow_makes_of_images() -> None:
    """The picture of `rlds/tfds_features` that TensorFlow encoded, encoded again by us."""
    image = make_smooth_image()
    stored = [
        bytes(picture)
        for shard in TFDS.rglob("*.tfrecord-*")
        for record in iterate_records(shard)
        for picture in parse_example(record)["steps/observation/jpeg"]
    ]
    ours = encode_image(image, "jpeg")
    # All but the density in the header, which neither decoder looks at.
    assert any(ours[20:] == picture[20:] for picture in stored)


def make_smooth_image() -> np.ndarray:
    rng = np.random.default_rng(0)  # as the script draws the first step's
    smooth = np.clip(np.add.outer(np.arange(24) * 4, np.arange(32) * 5), 0, 255)
    return np.stack([smooth, 255 - smooth, rng.integers(0, 255, (24, 32))], -1).astype(np.uint8)


def test_jpeg_images_are_close_and_the_rest_is_exact(tmp_path: Path) -> None:
    image = make_smooth_image()[None].repeat(5, axis=0)
    image[..., 2] = image[..., 0]
    expected = make_episode(observations={"camera": image, "state": np.arange(5.0)})
    got = write(tmp_path / "set", expected, image_format="jpeg").read(0)
    difference = np.abs(got.observations["camera"].astype(int) - image)
    assert 0 < difference.max() <= 25
    np.testing.assert_array_equal(got.observations["state"], np.arange(5.0))
    np.testing.assert_array_equal(got.actions, expected.actions)


def test_the_files_are_those_of_tensorflow_datasets(tmp_path: Path) -> None:
    write(tmp_path / "My set", *map(make_episode, range(3)), shard_bytes=1)
    folder = tmp_path / "My set/1.0.0"
    names = [f"my_set-train.tfrecord-0000{index}-of-00003" for index in range(3)]
    assert sorted(os.listdir(folder)) == ["dataset_info.json", "features.json", *names]
    info = json.loads((folder / "dataset_info.json").read_text())
    (split,) = info["splits"]
    assert (info["name"], info["version"], info["fileFormat"]) == ("my_set", "1.0.0", "tfrecord")
    assert split["shardLengths"] == ["1", "1", "1"]
    n_bytes = sum(int(index_shard(folder / name).lengths.sum()) for name in names)
    assert split["numBytes"] == str(n_bytes)
    assert is_rlds(tmp_path / "My set")
    assert os.listdir(tmp_path / "My set") == ["1.0.0"]


def test_tensorflow_datasets_reads_the_set(tmp_path: Path) -> None:
    """Runs where tensorflow-datasets is installed beside this package."""
    pytest.importorskip("tensorflow_datasets")
    sys.path.insert(0, str(TFDS.parent))
    try:
        from make_tfds_set import read  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    source = write(tmp_path / "set", *map(make_episode, range(3)), image_format="jpeg")
    found = read(tmp_path / "set/1.0.0")
    for number, episode in enumerate(EpisodeDataset(source)):
        for key, array in episode.observations.items():
            steps = found[f"{number}/steps/observation/{key}"]
            np.testing.assert_array_equal(steps, array[:-1])
            final = found[f"{number}/episode_metadata/final_observation/{key}"]
            np.testing.assert_array_equal(final, array[-1])
        np.testing.assert_array_equal(found[f"{number}/steps/action"], episode.actions)
        assert found[f"{number}/steps/is_last"].tolist() == [False] * 3 + [True]
        assert found[f"{number}/steps/is_terminal"][-1] == episode.terminated


def test_names_are_turned_into_those_of_openvla_and_back(tmp_path: Path) -> None:
    key_map = {"agentview_image": "image"}
    expected = make_episode()
    source = write(tmp_path / "libero_10", expected, key_map=key_map)
    assert_same(source.read(0), expected)  # a set of this name is read with LIBERO's names
    assert RldsSource(tmp_path / "libero_10", key_map={}).observation_keys == ("image", "state")
    published = write(tmp_path / "other", expected, keep_final_observation=False).read(0)
    state = published.observations["state"]
    np.testing.assert_array_equal(state[:-1], expected.observations["state"][:-1])
    np.testing.assert_array_equal(state[-1], state[-2])
    provenance = read_provenance(published.metadata)
    assert provenance == Provenance("test", (12, 16), final_observation="repeated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": {"state": np.zeros((5, 5))}}, "Expected image .12, 16, 3. .*nothing"),
        ({"actions": np.zeros((4, 6))}, r"tensor \(7,\) float32 none for `steps/action`.*\(6,\)"),
        ({"observations": {"": np.zeros(5)}}, "'' cannot be written"),
        ({"observations": {"a": np.zeros(5), "a/b": np.zeros(5)}}, "what is below it"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, changes, message) -> None:
    with RldsWriter(tmp_path / "set", image_format="png") as writer:
        writer.append(make_episode(0))
        with pytest.raises(ValueError, match=message):
            writer.append(make_episode(1, **changes))
        writer.append(make_episode(2))
    source = RldsSource(tmp_path / "set")
    for index, seed in enumerate((0, 2)):
        assert_same(source.read(index), make_episode(seed))


@pytest.mark.parametrize(
    "keywords", [{"version": "1.0"}, {"name": "a b"}, {"image_format": "gif"}, {"name": "1"}]
)
def test_arguments_are_checked(tmp_path: Path, keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RldsWriter(tmp_path / "set", **keywords)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with RldsWriter(tmp_path) as writer:
        with pytest.raises(RuntimeError, match="Another writer has"):
            RldsWriter(tmp_path)
        assert len(writer) == 0
    assert os.listdir(tmp_path) == []
    with pytest.raises(RuntimeError, match="is closed"):
        writer.append(make_episode())
    writer.close()


def test_a_finished_set_is_gone_on_with_and_stays_until_the_end(tmp_path: Path) -> None:
    before = write(tmp_path / "set", make_episode(0), make_episode(1), name="first")
    with RldsWriter(tmp_path / "set", image_format="png") as writer:
        assert len(writer) == 2
        writer.append(make_episode(2))
        assert len(writer) == 3
        assert_same(before.read(1), make_episode(1))
        assert len(RldsSource(tmp_path / "set")) == 2
    source = RldsSource(tmp_path / "set")
    for seed in range(3):
        assert_same(source.read(seed), make_episode(seed))
    names = {path.name for path in tmp_path.glob("set/*/first-train*")}
    assert names == {f"first-train.tfrecord-0000{index}-of-00002" for index in (0, 1)}
    with pytest.raises(ValueError, match="Expected `name` 'first' as before, got 'second'"):
        RldsWriter(tmp_path / "set", "second")
    with pytest.raises(ValueError, match=r"png for `steps/observation/agent.* got .*jpeg"):
        write(tmp_path / "set", make_episode(3), image_format="jpeg")
