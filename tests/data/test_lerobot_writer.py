import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libero_reward_envs.data import Episode
from libero_reward_envs.data.lerobot import LerobotSource, LerobotWriter
from libero_reward_envs.data.lerobot.info import PLAIN_DTYPES
from tests.data.episode_makers import make_episode
from tests.data.lerobot_makers import VERSIONS, assert_same, make_smooth, write

DTYPES = [np.dtype(name) for name in PLAIN_DTYPES]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def finite(dtype):
    options: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}
    return hnp.from_dtype(dtype, **(options if dtype.kind == "f" else {}))


@st.composite
def episode_lists(draw):
    """Episodes of ragged lengths that share keys, shapes and dtypes."""
    keys = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    kinds = {
        key: (
            draw(st.sampled_from(DTYPES)),
            draw(st.lists(st.integers(1, 3), max_size=4).map(tuple)),
        )
        for key in keys
    }
    if draw(st.booleans()):
        kinds["agentview_image"] = (np.dtype(np.uint8), (2, 4, 3))
    n_actions = draw(st.integers(1, 3))
    episodes = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 4))
        observations = {
            key: draw(hnp.arrays(dtype, (length + 1, *shape), elements=finite(dtype)))
            for key, (dtype, shape) in kinds.items()
        }
        unit = st.floats(-1, 1, width=32)
        episodes.append(
            Episode(
                observations,
                draw(hnp.arrays(np.float32, (length, n_actions), elements=unit)),
                draw(hnp.arrays(np.float32, length, elements=unit)),
                terminated=draw(st.booleans()),
                success=draw(st.booleans()),
                task=draw(TEXTS),
                instruction=draw(TEXTS),
                metadata=draw(st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers()), max_size=2)),
            )
        )
    return episodes


@settings(max_examples=20, deadline=None)
@given(episodes=episode_lists(), version=st.sampled_from(VERSIONS))
def test_all_of_an_episode_comes_back(tmp_path_factory, episodes, version):
    dataset = write(tmp_path_factory.mktemp("set"), episodes, version=version, video=False)
    for written, read in zip(episodes, dataset, strict=True):
        assert_same(written, read)
    assert dataset.summaries() == [e.summary() for e in episodes]


@pytest.mark.parametrize("codec", ["h264", "av1"])
@pytest.mark.parametrize("version", VERSIONS)
def test_videos_bring_back_all_but_the_pixels(tmp_path, version, codec):
    episodes = [make_smooth(seed, 2 + 3 * seed) for seed in range(3)]
    dataset = write(tmp_path, episodes, version=version, codec=codec)
    for written, read in zip(episodes, dataset, strict=True):
        assert_same(written, read, lossy=True)
    assert len(list(tmp_path.rglob("*.mp4"))) == (6 if version == "v2.1" else 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_files_are_those_of_the_format(tmp_path, version):
    write(tmp_path, [make_smooth(seed, 2) for seed in range(3)], version=version)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == (version, 20, 3)
    assert (info["total_frames"], info["splits"]) == (6, {"train": "0:3"})
    features = info["features"]
    assert features["observation.images.image"]["dtype"] == "video"
    assert features["observation.images.image2"]["shape"] == [32, 48, 3]
    assert features["observation.state"] == {"dtype": "float32", "shape": [5], "names": None}
    values = {"episode_index": 2, "episode_chunk": 0, "chunk_index": 0, "file_index": 0}
    table = parquet.read_table(tmp_path / info["data_path"].format(**values))
    assert table["index"].to_pylist()[-2:] == [4, 5]
    assert table["task_index"].to_pylist()[-2:] == [2, 2]
    np.testing.assert_allclose(table["timestamp"].to_pylist()[-2:], [0, 0.05])
    video = info["video_path"].format(**values, video_key="observation.images.image2")
    assert (tmp_path / video).exists()
    if version == "v2.1":
        lines = (tmp_path / "meta/episodes.jsonl").read_text().splitlines()
        assert json.loads(lines[2]) == {"episode_index": 2, "tasks": ["do 2"], "length": 2}
        stats = json.loads((tmp_path / "meta/episodes_stats.jsonl").read_text().splitlines()[1])
        assert stats["stats"]["frame_index"]["mean"] == [0.5]
        return
    row = parquet.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[2]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["tasks"]) == (4, 6, ["do 2"])
    start = row["videos/observation.images.image/from_timestamp"]
    assert (start, row["data/file_index"]) == (pytest.approx(0.2), 0)
    tasks = parquet.read_table(tmp_path / "meta/tasks.parquet").to_pylist()
    assert tasks[1] == {"task_index": 1, "task": "do 1"}


def test_statistics_of_several_runs_are_those_of_all_episodes(tmp_path):
    episodes = [make_smooth(seed, 3 + seed) for seed in range(3)]
    for episode in episodes:
        write(tmp_path, [episode])
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    assert stats["action"]["count"] == [len(actions)]
    for name in ("min", "max", "mean", "std"):
        expected = getattr(actions, name)(axis=0)
        np.testing.assert_allclose(stats["action"][name], expected, atol=1e-9)
    assert np.shape(stats["observation.images.image"]["q50"]) == (3, 1, 1)


def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    episode = make_smooth(0, 2)
    rate = make_episode(control_freq_hz=10.0)
    with LerobotWriter(tmp_path) as writer:
        writer.append(episode)
        with pytest.raises(ValueError, match="All episodes of a set are alike"):
            writer.append(episode.select(["state"]))
        with pytest.raises(ValueError, match=r"has 10\.0 steps a second, the set 20"):
            writer.append(dataclasses.replace(episode, metadata=rate.metadata))
        assert len(writer) == 1
    assert len(LerobotSource(tmp_path)) == 1
    others: list[dict[str, Any]] = [{"version": "v2.1"}, {"fps": 10}, {"video": False}]
    for options in others:
        with pytest.raises(ValueError, match="asked for is"):
            LerobotWriter(tmp_path, **options)
    odd = make_smooth(0, 2).observations["agentview_image"][:, 1:]
    with (
        LerobotWriter(tmp_path / "odd") as writer,
        pytest.raises(ValueError, match=r"even height and width.*video=False"),
    ):
        writer.append(dataclasses.replace(episode, observations={"image": odd}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(ValueError, match="holds file and no set"):
        LerobotWriter(tmp_path / "other")
    wrong: list[dict[str, Any]] = [{"version": "v1"}, {"fps": 0}, {"fps": 0.5}, {"codec": "h263"}]
    for options in wrong:
        with pytest.raises(ValueError, match="must be"):
            LerobotWriter(tmp_path / "new", **options)


def test_the_rate_is_that_of_the_first_episode(tmp_path):
    episode = make_episode(control_freq_hz=10.0)
    write(tmp_path / "a", [episode])
    assert json.loads((tmp_path / "a/meta/info.json").read_text())["fps"] == 10
    with (
        LerobotWriter(tmp_path / "b") as writer,
        pytest.raises(ValueError, match=r"whole frames a second.*12\.5 Hz"),
    ):
        writer.append(make_episode(control_freq_hz=12.5))
