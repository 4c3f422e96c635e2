import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.lerobot import LerobotSource, LerobotWriter
from libero_reward_envs.data.lerobot.info import read_info
from tests.data.episode_makers import make_episode

SETS = Path(__file__).parent / "lerobot"
IMAGE = "observation.images.image"
V21_TABLE = "data/chunk-000/episode_000001.parquet"
V21_VIDEO = f"videos/chunk-000/{IMAGE}/episode_000001.mp4"
V30_TABLE = "data/chunk-000/file-000.parquet"
V30_VIDEO = f"videos/{IMAGE}/chunk-000/file-000.mp4"
V30_EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def v21(tmp_path):
    return shutil.copytree(SETS / "v21_video", tmp_path / "v21")


@pytest.fixture
def v30(tmp_path):
    return shutil.copytree(SETS / "v30_video", tmp_path / "v30")


def change_info(folder, **changes):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, **changes}))


def change_table(path, change):
    parquet.write_table(pa.table(change(parquet.read_table(path))), path)


def columns_of(table):
    return dict(zip(table.column_names, table.columns, strict=True))


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("file", [V21_TABLE, V21_VIDEO])
@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_damaged_episode_is_named_or_left_out(v21, file, how):
    {"cut": cut, "empty": lambda path: cut(path, 0), "gone": Path.unlink}[how](v21 / file)
    with pytest.raises(ValueError, match=rf"Episode 1 of '.*v21'.*{Path(file).name}"):
        LerobotSource(v21).read(1)
    assert len(LerobotSource(v21).read(2)) == 5  # the others are as ever
    source = LerobotSource(v21, on_error="skip")
    assert [len(episode) for episode in EpisodeDataset(source)] == [4, 5]
    assert [episode.metadata["episode_index"] for episode in EpisodeDataset(source)] == [0, 2]
    assert len(source.skipped) == 1
    assert "Episode 1 of" in source.skipped[0]
    assert file in source.skipped[0]
    assert len(source.summaries()) == 2


@pytest.mark.parametrize("file", [V30_TABLE, V30_VIDEO, V30_EPISODES, "meta/info.json"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_shared_files_cut_short_are_named(v30, file, share):
    cut(v30 / file, share)
    with pytest.raises(ValueError, match=rf"Cannot read '.*{file}'"):
        LerobotSource(v30).read(0)
    if file != "meta/info.json":
        source = LerobotSource(v30, on_error="skip")
        assert len(source) == 0
        assert source.skipped


def test_lines_that_are_damaged_are_named_or_left_out(v21):
    path = v21 / "meta/episodes.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]))
    with pytest.raises(ValueError, match=r"episodes\.jsonl', line 2"):
        LerobotSource(v21)
    source = LerobotSource(v21, on_error="skip")
    assert (len(source), len(source.skipped)) == (2, 2)  # the line, and that one is missing
    for bad in (
        {"episode_index": 1, "length": 10**12},
        {"episode_index": 1, "length": 0},
        {"episode_index": 0, "length": 2},
        {"episode_index": "1", "length": 2},
        {"episode_index": 1, "length": 2, "tasks": [3]},
        {"length": 2},
        [],
    ):
        path.write_text("\n".join([lines[0], json.dumps(bad), lines[2]]))
        assert len(LerobotSource(v21, on_error="skip")) == 2
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="line 1"):
        LerobotSource(v21)


def test_a_line_that_is_being_written_is_passed_over(v21):
    with open(v21 / "meta/episodes.jsonl", "a") as file:
        file.write('{"episode_index": 3, "ta')
    assert len(LerobotSource(v21)) == 3


@pytest.mark.parametrize(
    "template",
    [
        "/etc/passwd",
        "../v21/data/chunk-000/episode_{episode_index:06d}.parquet",
        "data/../../v21/data/chunk-000/episode_{episode_index:06d}.parquet",
        "data/{episode_index.__class__}.parquet",
        "data/{episode_index!r}.parquet",
        "data/{episode_index:0999999999d}.parquet",
        "data/{password}.parquet",
        "",
    ],
)
def test_paths_that_leave_the_folder_are_refused(v21, template):
    change_info(v21, data_path=template)
    with pytest.raises(ValueError, match=r"refused|leads out"):
        LerobotSource(v21).read(0)
    source = LerobotSource(v21, on_error="skip")
    assert (len(source), len(source.skipped)) == (0, 3)
    shutil.copy(SETS / "v21_video/meta/info.json", v21 / "meta/info.json")
    change_info(v21, video_path=template)
    with pytest.raises(ValueError, match=r"refused|leads out"):
        LerobotSource(v21).read(0)


def test_a_feature_whose_name_is_a_path_does_not_lead_out(v21):
    info = json.loads((v21 / "meta/info.json").read_text())
    features = {name: info["features"][name] for name in info["features"] if name != IMAGE}
    change_info(v21, features={"../../x": info["features"][IMAGE], **features})
    with pytest.raises(ValueError, match="leads out"):
        LerobotSource(v21, key_map={"../../x": "front"}).read(0)


def test_links_that_leave_the_folder_are_refused(v21, tmp_path):
    shutil.move(v21 / V21_TABLE, tmp_path / "elsewhere.parquet")
    (v21 / V21_TABLE).symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ValueError, match=r"leads out of the set, to .*elsewhere"):
        LerobotSource(v21).read(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 10**15}, "3 episodes are listed, .* promises 1000000000000000"),
        ({"total_episodes": -1}, "`total_episodes`"),
        ({"total_frames": 10**40}, "`total_frames`"),
        ({"fps": 0}, "`fps`"),
        ({"fps": "20"}, "`fps`"),
        ({"codebase_version": "v1.6"}, "expected `codebase_version` v2.0, v2.1 or v3.0"),
        ({"codebase_version": "v4.0"}, "expected `codebase_version`"),
        ({"data_path": 3}, "`data_path`"),
        ({"features": []}, "`features`"),
        ({"features": {"a": {"dtype": "float32"}}}, "no 'shape'"),
        ({"features": {"a": {"dtype": "float32", "shape": [10**9, 10**9]}}}, "is refused"),
        ({"features": {"a": {"dtype": "image", "shape": [10**6, 10**6, 3]}}}, "expected images"),
        ({"features": {"a": {"dtype": "float32", "shape": [-1]}}}, "shape of 'a'"),
        ({"features": {}}, "Expected an action and observations"),
    ],
)
def test_absurd_totals_and_shapes_are_refused(v21, v30, changes, message):
    for folder in (v21, v30):
        change_info(folder, **changes)
        with pytest.raises(ValueError, match=rf"(?s){message}"):
            LerobotSource(folder)


def test_rows_that_are_another_episodes_are_refused(v30):
    def shift(table):
        columns = columns_of(table)
        columns["dataset_from_index"] = pa.array([0, 3, 6])
        return columns

    change_table(v30 / V30_EPISODES, shift)
    with pytest.raises(ValueError, match=r"rows 3 to 5 should be steps of episode 1"):
        LerobotSource(v30).read(1)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("length", [4, 2, 10**9], "episode 2 has 1000000000 steps"),
        ("length", [4, 2, 9], r"rows 6 to 15 are asked for, it has 11"),
        ("length", [4.0, 2.0, 5.0], "'length' is float"),
        ("length", [4, None, 5], "column 'length': expected numbers and no gaps"),
        ("episode_index", [0, 1, 1], "episode 1 is there twice"),
        ("data/file_index", [0, 0, 7], r"file-007\.parquet': it is not there"),
        (f"videos/{IMAGE}/from_timestamp", [0.0, 0.4, 50.0], r"mp4': it ends at"),
        (f"videos/{IMAGE}/from_timestamp", [0.0, 0.4, np.inf], "absurd numbers"),
        (f"videos/{IMAGE}/from_timestamp", [0.0, 0.4, 0.64], r"mp4': no frame at 0\.640"),
    ],
)
def test_absurd_places_are_refused(v30, name, values, message):
    change_table(v30 / V30_EPISODES, lambda table: {**columns_of(table), name: pa.array(values)})
    with pytest.raises(ValueError, match=message):
        LerobotSource(v30).read(2)
    source = LerobotSource(v30, on_error="skip")
    if len(source) == 3:  # what lies between two frames shows when it is read
        assert "0.64" in message.replace("\\", "")
    else:
        assert source.skipped


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("observation.state", pa.array([[0.0, 1.0]] * 3 + [[0.0]] + [[0.0, 1.0]] * 7), "lengths"),
        ("observation.state", pa.array([[0.0, 1.0, 2.0]] * 11), r"expected shape \(4, 2\)"),
        ("observation.state", pa.array([[0.0, None]] * 11), "no gaps"),
        ("observation.state", pa.array([[0.0, np.nan]] * 11), "finite numbers"),
        ("observation.state", pa.array(["a"] * 11), "expected numbers"),
        ("action", pa.array([{"x": 1.0}] * 11), "expected numbers"),
        ("action", pa.array([[0.0, 2.0]] * 11), r"expected actions in \[-1, 1\]"),
        ("action", None, "no column 'action'"),
    ],
)
def test_columns_of_other_shapes_and_types_are_refused(v30, name, column, message):
    def change(table):
        columns = {**columns_of(table), name: column}
        return {key: value for key, value in columns.items() if value is not None}

    change_table(v30 / V30_TABLE, change)
    with pytest.raises(ValueError, match=rf"Episode 0 of .*{message}"):
        LerobotSource(v30).read(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 7}, "it is of episode 0 of 7 steps"),
        ({"success": 1}, "expected bool for 'success'"),
        ({"metadata": []}, "expected dict for 'metadata'"),
        ({"final_file": "../x.parquet"}, "leads out"),
        ({"final_row": 5}, "rows 5 to 6 are asked for"),
        ({"final_row": None}, "expected int"),
    ],
)
def test_damaged_records_are_refused(tmp_path, changes, message):
    with LerobotWriter(tmp_path, video=False) as writer:
        writer.append(make_episode())
    path = tmp_path / "meta/libero_reward_envs.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}) + "\n")
    with pytest.raises(ValueError, match=message):
        LerobotSource(tmp_path).read(0)
    source = LerobotSource(tmp_path, on_error="skip")
    assert (len(source), len(source.skipped)) == (0, 1)


def test_versions_of_the_same_layout_are_read(v21, v30):
    change_info(v21, codebase_version="v2.0")
    change_info(v30, codebase_version="v3.1")
    assert [read_info(folder).version for folder in (v21, v30)] == ["v2.0", "v3.1"]
    assert [len(LerobotSource(folder).read(2)) for folder in (v21, v30)] == [5, 5]
