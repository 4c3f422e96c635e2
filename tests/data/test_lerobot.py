import itertools
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.lerobot import LerobotSource, LerobotWriter, is_lerobot
from libero_reward_envs.data.provenance import read_provenance
from tests.data.episode_makers import make_episode

SETS = Path(__file__).parent / "lerobot"  # made by the lerobot package, see make_sets.py there
LENGTHS = (4, 2, 5)
IMAGE = "observation.images.image"


def open_set(name, **options: Any):
    said: dict[str, Any] = {} if "video" in name else {"assume_success": True}
    return LerobotSource(SETS / name, **{**said, **options})


def load_expected(name):
    with np.load(SETS / f"expected_{name}.npz") as file:
        columns = dict(file)
    starts = np.cumsum((0, *LENGTHS))
    return [
        {key: value[start:stop] for key, value in columns.items()}
        for start, stop in itertools.pairwise(starts)
    ]


@pytest.mark.parametrize("name", ["v21_image", "v21_video", "v30_image", "v30_video"])
def test_sets_of_lerobot_are_read_as_lerobot_reads_them(name):
    assert is_lerobot(SETS / name)
    source = open_set(name)
    dataset = EpisodeDataset(source)
    assert source.observation_keys == ("agentview_image", "state")
    for number, (episode, expected) in enumerate(zip(dataset, load_expected(name), strict=True)):
        for key, feature in (("agentview_image", IMAGE), ("state", "observation.state")):
            observed = episode.observations[key]
            np.testing.assert_array_equal(observed[:-1], expected[feature])
            np.testing.assert_array_equal(observed[-1], expected[feature][-1])
        np.testing.assert_array_equal(episode.actions, expected["action"])
        assert episode.instruction == ("close the drawer" if number == 1 else "open the drawer")
        if "video" in name:
            np.testing.assert_array_equal(episode.rewards, expected["next.reward"][:, 0])
            assert episode.success == episode.terminated == (number != 1)
        else:
            assert episode.success
            assert not episode.rewards.any()
        assert dataset.summaries()[number] == episode.summary()


def test_images_in_videos_are_nearly_those_that_were_written():
    for version in ("v21", "v30"):
        videos, images = (EpisodeDataset(open_set(f"{version}_{k}")) for k in ("video", "image"))
        for video, image in zip(videos, images, strict=True):
            frames = [e.observations["agentview_image"].astype(int) for e in (video, image)]
            assert 0 < np.abs(frames[0] - frames[1]).max() < 8


def test_provenance_says_what_the_set_says_and_nothing_else():
    video, image = (open_set(name).read(0) for name in ("v30_video", "v21_image"))
    found = read_provenance(video.metadata)
    assert found is not None
    assert (found.source_format, found.image_size) == ("lerobot", (64, 64))
    assert (found.control_freq_hz, found.final_observation) == (10.0, "repeated")
    assert (found.reward_source, found.success_source) == ("env", "env")
    unknown = (found.orientation, found.action_convention, found.gripper_closed_at)
    assert (*unknown, found.no_ops_filtered, found.action_range) == (None,) * 5
    assumed = read_provenance(image.metadata)
    assert assumed is not None
    assert (assumed.reward_source, assumed.success_source) == ("none", "demonstration")


def test_whether_episodes_succeeded_must_be_in_the_set_or_be_said():
    with pytest.raises(ValueError, match=r"`next\.success` in .*v21_image.*`assume_success`"):
        LerobotSource(SETS / "v21_image")
    with pytest.raises(ValueError, match="assume_success"):  # not a damage to be skipped
        LerobotSource(SETS / "v21_image", on_error="skip")
    failed = LerobotSource(SETS / "v21_image", assume_success=False).read(0)
    assert not failed.success
    assert read_provenance(failed.metadata).success_source is None  # pyright: ignore[reportOptionalMemberAccess] - the test fails then
    told = LerobotSource(SETS / "v30_video", assume_success=True)
    assert [told.read(i).success for i in range(3)] == [True, False, True]


def test_the_map_says_what_a_feature_is():
    source = open_set("v30_video", key_map={IMAGE: "front", "next.reward": "progress"})
    episode = source.read(0, ["front", "progress"])
    assert list(episode.observations) == ["front", "progress"]
    assert episode.observations["progress"].shape == (5, 1)
    assert not episode.rewards.any()
    assert open_set("v30_video", key_map={IMAGE: None}).observation_keys == ("state",)
    with pytest.raises(ValueError, match="Expected an action and observations"):
        open_set("v30_video", key_map={"action": "motion"})
    with pytest.raises(ValueError, match=r"'next\.reward' would both be 'state'.*key_map"):
        open_set("v30_video", key_map={"next.reward": "state"})
    with pytest.raises(ValueError, match=r"names 'depth'\. The set has: observation\.images"):
        open_set("v30_video", key_map={"depth": "depth"})


def test_actions_of_another_range_are_rescaled_when_it_is_said(tmp_path):
    folder = shutil.copytree(SETS / "v30_video", tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["my_action"] = info["features"].pop("observation.state")
    del info["features"]["action"]
    (folder / "meta/info.json").write_text(json.dumps(info))
    table = folder / "data/chunk-000/file-000.parquet"
    import pyarrow.parquet as parquet

    columns = parquet.read_table(table)
    names = ["my_action" if n == "observation.state" else n for n in columns.column_names]
    parquet.write_table(columns.rename_columns(names), table)
    key_map = {"my_action": "action"}
    with pytest.raises(ValueError, match=r"Episode 0 of .*expected actions in \[-1, 1\].*action_r"):
        LerobotSource(folder, key_map=key_map).read(0)
    episode = LerobotSource(folder, key_map=key_map, action_range=(-4, 4)).read(0)
    stored = load_expected("v30_video")[0]["observation.state"]
    np.testing.assert_allclose(episode.actions, stored / 4, atol=1e-6)
    assert read_provenance(episode.metadata).action_range == (-4, 4)  # pyright: ignore[reportOptionalMemberAccess] - the test fails then
    with pytest.raises(ValueError, match="`action_range` must be"):
        LerobotSource(folder, key_map=key_map, action_range=(1, -1))


@pytest.mark.parametrize("name", ["v21_image", "v21_video", "v30_image", "v30_video"])
def test_single_steps_are_read_without_the_others(name):
    source = open_set(name)
    whole = [source.read(index) for index in range(len(source))]
    places = [(i, t) for i, episode in enumerate(whole) for t in range(len(episode))]
    for place in np.random.default_rng(0).permutation(places):
        index, step = place.tolist()
        found = source.read_steps(index, step, step + 1).observations
        for key, value in whole[index].observations.items():
            np.testing.assert_array_equal(found[key], value[step : step + 2])
    assert list(source.read_steps(2, 1, 4, ["state"]).observations) == ["state"]
    assert source.read_steps(2, 1, 4).observations["state"].shape == (4, 2)
    with pytest.raises(ValueError, match="steps within 0 to 5, got 4 to 6"):
        source.read_steps(2, 4, 6)
    with pytest.raises(ValueError, match=r"No observation 'depth'.*agentview_image, state"):
        source.read(0, ["depth"])
    with pytest.raises(IndexError):
        source.read(3)


def test_only_what_is_asked_for_is_decoded(tmp_path):
    folder = shutil.copytree(SETS / "v30_video", tmp_path / "set")
    shutil.rmtree(folder / "videos")
    source = LerobotSource(folder)
    expected = load_expected("v30_video")[1]["observation.state"]
    np.testing.assert_array_equal(source.read(1, ["state"]).observations["state"][:-1], expected)
    assert [summary.success for summary in source.summaries()] == [True, False, True]
    with pytest.raises(ValueError, match=r"Episode 1 of .*file-000\.mp4'.*not there"):
        source.read(1)


def read_in_process(source, results):
    results.put(source.read(2).observations["agentview_image"])


@pytest.mark.parametrize(
    ("name", "method"), [("v21_image", "fork"), ("v30_video", "fork"), ("v30_video", "spawn")]
)
def test_sources_are_used_in_other_processes(name, method):
    source = open_set(name)
    expected = source.read(2).observations["agentview_image"]  # files are open from here on
    context = multiprocessing.get_context(method)
    results: Any = context.SimpleQueue()
    process = context.Process(target=read_in_process, args=(source, results))
    process.start()
    np.testing.assert_array_equal(results.get(), expected)
    process.join()
    np.testing.assert_array_equal(source.read(2).observations["agentview_image"], expected)


def test_a_source_takes_a_few_bytes_an_episode(tmp_path):
    episode = make_episode()
    sizes = []
    for n_episodes in (2, 12):
        folder = tmp_path / str(n_episodes)
        with LerobotWriter(folder, video=False) as writer:
            for _ in range(n_episodes):
                writer.append(episode)
        source = LerobotSource(folder)
        source.read(1)
        sizes.append(len(pickle.dumps(source)))
    assert (sizes[1] - sizes[0]) / 10 < 100


def test_other_folders_are_no_sets(tmp_path):
    assert not is_lerobot(tmp_path)
    assert not is_lerobot(tmp_path / "none")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"name": "other"}')
    assert not is_lerobot(tmp_path)
    assert not is_lerobot(tmp_path / "meta/info.json")
    with pytest.raises(FileNotFoundError):
        LerobotSource(tmp_path / "none")


def test_files_may_be_links_into_the_cache_of_downloads(tmp_path):
    snapshot = tmp_path / "snapshots/1234"
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted((SETS / "v30_video").rglob("*"))):
        if file.is_dir():
            continue
        target = snapshot / file.relative_to(SETS / "v30_video")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        target.symlink_to(blobs / str(number))
    assert len(LerobotSource(snapshot).read(2)) == 5
