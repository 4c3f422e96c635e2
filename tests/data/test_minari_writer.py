import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.minari import MinariSource, MinariWriter
from libero_reward_envs.data.minari import writer as minari_writer


def make_episode(n_steps=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": {
            "agentview_image": rng.integers(0, 256, (n_steps + 1, 32, 32, 3), np.uint8),
            "openvla/vision": rng.normal(size=(n_steps + 1, 5)).astype(np.float16),
            "state": rng.normal(size=(n_steps + 1, 3)),
        },
        "actions": rng.uniform(-1, 1, (n_steps, 7)),
        "rewards": rng.normal(size=n_steps),
        "terminated": bool(seed % 2),
        "success": bool(seed % 3),
        "task": "suite/täsk",
        "instruction": "put the mug in",
        "metadata": {"seed": seed, "versions": {"mujoco": "3.3.2"}},
    }
    return Episode(**{**fields, **changes})


def assert_same(first, second):
    assert sorted(first.observations) == sorted(second.observations)
    for key, value in first.observations.items():
        assert value.dtype == second.observations[key].dtype
        np.testing.assert_array_equal(value, second.observations[key])
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    assert first.summary() == second.summary()


def write(path, *seeds):
    with MinariWriter(path) as writer:
        for seed in seeds:
            writer.append(make_episode(2 + seed, seed))


def test_damaged_episodes_are_left_out_and_counted(tmp_path):
    folder = tmp_path / "reach-v0"
    write(folder, *range(9))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        root: Any = file
        del root["episode_1/actions"]
        del root["episode_2/observations/state"]
        root["episode_2/observations/state"] = np.zeros((3, 3))
        root["episode_3"].attrs["total_steps"] = 99
        del root["episode_4/rewards"]
        root["episode_4/rewards"] = h5py.SoftLink("/episode_0/rewards")
        del root["episode_5"]
        root["episode_5"] = h5py.ExternalLink("elsewhere.hdf5", "/")
        del root["episode_6/observations/state"]
        shape = (9, 10**9, 10**3)
        root.create_dataset("episode_6/observations/state", shape, "f8", chunks=(1, 100, 100))
        root["episode_7"].attrs["metadata"] = np.bytes_(b"{")
    source = MinariSource(folder, on_error="skip")
    assert [summary.metadata["seed"] for summary in source.summaries()] == [0, 8]
    links = ("SoftLink", "ExternalLink")
    expected = ("no 'actions'", "shape (3, 3)", "total_steps", *links, "stored", "Expecting")
    assert len(source.skipped) == len(expected)
    for number, (reason, told) in enumerate(zip(source.skipped, expected, strict=True), start=1):
        assert f"main_data.hdf5', episode_{number}: " in reason
        assert told in reason
    raising = MinariSource(folder)
    for number in range(1, 8):
        with pytest.raises(ValueError, match=r"Cannot read .*main_data"):
            raising.read(number)
    assert len(raising.read(8)) == 10


def test_written_episodes_come_back_and_are_added_to(tmp_path):
    folder = tmp_path / "reach-v0"
    write(folder, 0, 1, 2)
    write(folder, *range(3, 12))
    source = MinariSource(folder)
    assert len(source) == 12
    for seed in range(12):
        assert_same(make_episode(2 + seed, seed), source.read(seed))
    assert sorted(path.name for path in folder.rglob("*")) == [
        "data",
        "main_data.hdf5",
        "metadata.json",
    ]


def test_state_alone_is_written_as_a_box(tmp_path):
    episode = make_episode(observations={"state": np.arange(10.0).reshape(5, 2)})
    with MinariWriter(tmp_path / "x", dataset_id="libero/reach-v3") as writer:
        writer.append(episode)
    with h5py.File(tmp_path / "x" / "data" / "main_data.hdf5") as file:
        assert isinstance(file["episode_0/observations"], h5py.Dataset)
    metadata = json.loads((tmp_path / "x" / "data" / "metadata.json").read_text())
    assert (metadata["dataset_id"], metadata["total_steps"]) == ("libero/reach-v3", 4)
    assert_same(MinariSource(tmp_path / "x").read(0), episode)


def test_what_does_not_fit_the_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'libero/goal-v0', got 'reach'"):
        MinariWriter(tmp_path / "reach")
    folder = tmp_path / "reach-v0"
    with MinariWriter(folder) as writer:
        writer.append(make_episode())
        with pytest.raises(
            ValueError, match=r"'actions': float32 of \(2,\), before float32 of \(7"
        ):
            writer.append(make_episode(actions=np.zeros((4, 2))))
        images = {**make_episode().observations, "state": np.zeros((5, 4))}
        with pytest.raises(ValueError, match="'state': float64 of"):
            writer.append(make_episode(observations=images))
        with pytest.raises(ValueError, match="the actions have none"):
            writer.append(make_episode(actions=np.zeros((4, 0))))
        with pytest.raises(ValueError, match="by these names"):
            writer.append(make_episode(observations={"../x": np.zeros((5, 1))}))
        with pytest.raises(RuntimeError, match="Another writer"):
            MinariWriter(folder)
    with pytest.raises(RuntimeError, match="closed"):
        writer.append(make_episode())
    assert len(MinariSource(folder)) == 1


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from test_minari_writer import MinariWriter, make_episode
writer = MinariWriter({folder!r})
for seed in (1, 2):
    writer.append(make_episode(2 + seed, seed))
(writer._pending / "00000009-x.hdf5.tmp").write_bytes(b"half")
os._exit(9)
"""


def test_killed_run_leaves_its_episodes_to_the_next(tmp_path):
    folder = tmp_path / "reach-v0"
    write(folder, 0)
    before = (folder / "data" / "metadata.json").read_bytes()
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(MinariSource(folder)) == 1  # as it was, until the next writer
    assert (folder / "data" / "metadata.json").read_bytes() == before
    with MinariWriter(folder) as writer:
        assert len(writer) == 3
        writer.append(make_episode(5, 3))
    source = MinariSource(folder)
    for seed in range(4):
        assert_same(source.read(seed), make_episode(2 + seed, seed))


def test_kill_between_the_two_files_is_mended(tmp_path, monkeypatch):
    folder = tmp_path / "reach-v0"
    write(folder, 0)
    writer = MinariWriter(folder)
    writer.append(make_episode(3, 1))

    def fail(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(minari_writer, "write_atomically", fail)
        with pytest.raises(OSError, match="killed"):
            writer.close()
    assert len(MinariSource(folder)) == 1
    with MinariWriter(folder) as writer:
        assert len(writer) == 2
    source = MinariSource(folder)
    assert len(source) == 2
    assert_same(source.read(1), make_episode(3, 1))
    assert not (folder / ".pending").exists()


def test_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "reach-v0"
    write(folder, 0)
    before = (folder / "data" / "main_data.hdf5").read_bytes()
    writer = MinariWriter(folder)
    writer.append(make_episode(3, 1))

    def fail(*_):
        raise OSError(28, "No space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            writer.append(make_episode(4, 2))
        assert len(writer) == 2
        with pytest.raises(OSError, match="No space"):
            writer.close()
    assert (folder / "data" / "main_data.hdf5").read_bytes() == before
    write(folder)
    assert len(MinariSource(folder)) == 2


dtypes = st.sampled_from(["u1", "f2", "f4", "f8", "i8", "i2", "?"])
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
names = st.lists(st.text("abc_é", min_size=1, max_size=3), min_size=1, max_size=2).map("/".join)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(data=st.data())
def test_any_episodes_come_back(tmp_path_factory, data):
    draw = data.draw
    layout = {"x": (draw(shapes), draw(dtypes))}
    for name in draw(st.lists(names, max_size=2)):
        if not any((a + "/").startswith(b + "/") for a in layout for b in (name,)) and not any(
            (name + "/").startswith(a + "/") for a in layout
        ):
            layout[name] = (draw(shapes), draw(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    episodes = []
    for length in draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)):
        observations = {
            name: rng.integers(0, 2, (length + 1, *shape)).astype(dtype)
            for name, (shape, dtype) in layout.items()
        }
        arrays = observations, rng.uniform(-1, 1, (length, 2)), rng.normal(size=length)
        flags = draw(st.booleans()), draw(st.booleans())
        texts = draw(st.text("aé\n ", max_size=5)), draw(st.text("aé", max_size=5))
        metadata = draw(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
        episodes.append(Episode(*arrays, *flags, *texts, metadata=metadata))
    folder = tmp_path_factory.mktemp("set") / "any-v0"
    with MinariWriter(folder) as writer:
        for episode in episodes:
            writer.append(episode)
    source = MinariSource(folder)
    assert len(source) == len(episodes)
    for index, episode in enumerate(episodes):
        assert_same(episode, source.read(index))
        assert source.summaries()[index] == episode.summary()
