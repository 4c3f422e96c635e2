import json
import pickle
from typing import Any

import h5py
import numpy as np
import pytest

from libero_reward_envs.data.demonstrations import DemonstrationSource, is_demonstrations
from libero_reward_envs.data.demonstrations import episode as demonstration_episode
from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.provenance import Provenance, read_provenance
from tests.data.demonstration_makers import (
    LIBERO_NAME,
    make_arrays,
    write_demos,
    write_libero,
)


@pytest.fixture
def libero(tmp_path):
    demos = {number: make_arrays(3 + number, number) for number in range(12)}
    path = write_libero(tmp_path / "libero_10" / f"{LIBERO_NAME}_demo.hdf5", demos)
    return path, demos


def test_liberos_file_is_read_exactly(libero):
    path, demos = libero
    assert is_demonstrations(path)
    source = DemonstrationSource(path)
    assert len(source) == 12  # demo_10 does not come before demo_2
    for number, arrays in demos.items():
        episode = source.read(number)
        np.testing.assert_array_equal(episode.actions, arrays["actions"].astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, arrays["rewards"])
        images = episode.observations["agentview_image"]
        np.testing.assert_array_equal(images[:-1], arrays["obs/agentview_rgb"])
        np.testing.assert_array_equal(images[-1], arrays["obs/agentview_rgb"][-1])
        hand = episode.observations["robot0_eye_in_hand_image"]
        np.testing.assert_array_equal(hand[:-1], arrays["obs/eye_in_hand_rgb"])
        joints = episode.observations["joint_states"]
        assert joints.dtype == np.float64
        np.testing.assert_array_equal(joints[:-1], arrays["obs/joint_states"])
        assert (episode.success, episode.terminated) == (True, True)
        assert episode.metadata["init_state"] == arrays["states"][0].tolist()


def test_libero_says_task_and_conventions(libero):
    episode = DemonstrationSource(libero[0]).read(0)
    assert episode.task == f"libero_10/{LIBERO_NAME}"
    assert episode.instruction == "turn on the stove and put the moka pot on it"
    assert episode.metadata["episode"] == "demo_0"
    assert read_provenance(episode.metadata) == Provenance(
        "libero",
        image_size=(8, 8),
        orientation="raw",
        control_freq_hz=20.0,
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        no_ops_filtered=False,
        reward_source="last_step",
        success_source="demonstration",
        final_observation="repeated",
    )


def test_summaries_are_those_of_the_episodes(libero):
    source = DemonstrationSource(libero[0])
    assert source.summaries() == [source.read(index).summary() for index in range(12)]


def test_attributes_tell_of_a_renamed_file_and_another_convention(tmp_path):
    path = write_libero(
        tmp_path / "some" / "mine.hdf5",
        {0: make_arrays(3, 0)},
        macros_image_convention="opencv",
        bddl_file_name="bddl/libero_object/pick_up_the_milk.bddl",
        env_args=json.dumps({"env_kwargs": {"control_freq": 10, "controller_configs": {}}}),
    )
    episode = DemonstrationSource(path).read(0)
    assert (episode.task, episode.instruction) == (
        "libero_object/pick_up_the_milk",
        "pick up the milk",
    )
    provenance = read_provenance(episode.metadata)
    assert provenance is not None
    assert (provenance.orientation, provenance.control_freq_hz) == ("upright", 10.0)


def test_regenerated_file_without_attributes_and_with_gaps(tmp_path):
    demos = {number: make_arrays(4, number) for number in (0, 3, 11)}
    name = "put_the_bowl_on_the_plate"
    path = write_demos(tmp_path / "libero_goal_no_noops" / f"{name}_demo.hdf5", demos)
    source = DemonstrationSource(path)
    assert [source.read(index).metadata["episode"] for index in range(3)] == [
        "demo_0",
        "demo_3",
        "demo_11",
    ]
    episode = source.read(1)
    assert (episode.task, episode.instruction) == (f"libero_goal/{name}", name.replace("_", " "))
    provenance = read_provenance(episode.metadata)
    assert provenance is not None
    assert (provenance.no_ops_filtered, provenance.orientation) == (True, "raw")
    elsewhere = write_demos(tmp_path / "elsewhere" / "x_demo.hdf5", demos)
    provenance = read_provenance(DemonstrationSource(elsewhere).read(0).metadata)
    assert provenance is not None
    assert provenance.no_ops_filtered is None


def test_folder_is_one_dataset_in_the_order_of_names(tmp_path):
    folder = tmp_path / "libero_spatial"
    for name in ("b_task", "a_task"):
        write_libero(folder / f"{name}_demo.hdf5", {0: make_arrays(2, 0), 1: make_arrays(3, 1)},
                     bddl_file_name=f"x/libero_spatial/{name}.bddl")  # fmt: skip
    (folder / "._b_task_demo.hdf5").write_bytes(b"left by another system")
    (folder / "README.md").write_text("")
    assert is_demonstrations(folder)
    source = DemonstrationSource(folder)
    assert [summary.task for summary in source.summaries()] == [
        f"libero_spatial/{name}_task" for name in "aabb"
    ]
    assert [len(source.read(index)) for index in range(4)] == [2, 3, 2, 3]


def test_only_the_observations_named_are_read(libero, monkeypatch):
    path, _ = libero
    read = []
    original = demonstration_episode.read_rows
    monkeypatch.setattr(
        demonstration_episode,
        "read_rows",
        lambda rows, *others: (read.append(rows.name), original(rows, *others))[1],
    )
    episode = EpisodeDataset(DemonstrationSource(path)).read(1, ["joint_states"])
    assert list(episode.observations) == ["joint_states"]
    assert read == ["/data/demo_1/obs/joint_states"]
    with pytest.raises(ValueError, match=r"no .'agentview_rgb'. in /data/demo_1/obs, it has: ag"):
        EpisodeDataset(DemonstrationSource(path)).read(1, ["agentview_rgb"])


def test_key_map_renames_and_refuses_two_of_a_name(libero):
    path, _ = libero
    source = DemonstrationSource(path, key_map={"ee_pos": "robot0_eef_pos"})
    assert {"agentview_rgb", "robot0_eef_pos"} <= source.read(0).observations.keys()
    with pytest.raises(ValueError, match="two observations of /data/demo_0 are called 'ee_ori'"):
        DemonstrationSource(path, key_map={"ee_pos": "ee_ori"}).read(0)


def test_source_survives_pickling_before_and_after_use(libero):
    source = DemonstrationSource(libero[0])
    for _ in range(2):
        copied = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copied.read(3).actions, source.read(3).actions)


def test_damaged_episodes_are_left_out_and_counted(libero):
    path, _ = libero
    with h5py.File(path, "a") as file:
        data: Any = file["data"]
        del data["demo_1/actions"]
        del data["demo_2/obs/agentview_rgb"]
        data["demo_2/obs/agentview_rgb"] = np.zeros((4, 8, 8, 3), np.uint8)  # ragged
        data["demo_3"].attrs["num_samples"] = 99
        data["demo_4/actions"][0, 0] = np.nan
        data["demo_5/actions"][0, 0] = 3
        del data["demo_6/rewards"]
        data["demo_6/rewards"] = h5py.ExternalLink("elsewhere.hdf5", "/rewards")
        del data["demo_7/obs/ee_pos"]
        data["demo_7/obs/ee_pos"] = h5py.SoftLink("/data/demo_0/obs/ee_pos")
        del data["demo_8/obs/ee_ori"]
        data["demo_8/obs/ee_ori"] = np.array([b"text"] * 11)
        del data["demo_9"]
        data["demo_9"] = h5py.SoftLink("/data/demo_0")
        del data["demo_10/obs/ee_ori"]
        shape = (13, 10**9, 10**3)
        data.create_dataset("demo_10/obs/ee_ori", shape, np.float64, chunks=(1, 100, 100))
    source = DemonstrationSource(path, on_error="skip")
    assert len(source) == 2
    kept = [summary.metadata["episode"] for summary in source.summaries()]
    assert kept == ["demo_0", "demo_11"]
    expected = {
        "demo_1": "no 'actions'",
        "demo_2": "agentview_rgb, got shape",
        "demo_3": "num_samples",
        "demo_4": "finite",
        "demo_5": "`action_range=",
        "demo_6": "ExternalLink",
        "demo_7": "SoftLink",
        "demo_8": "not numbers",
        "demo_9": "SoftLink",
        "demo_10": "bytes are stored",
    }
    assert len(source.skipped) == len(expected)
    for reason, (name, told) in zip(source.skipped, expected.items(), strict=True):
        assert str(path) in reason
        assert f"{name}: " in reason
        assert told in reason
    raising = DemonstrationSource(path)
    assert len(raising) == 12
    for index in range(1, 11):
        with pytest.raises(ValueError, match=f"Cannot read.*demo_{index}|'demo_{index}'"):
            raising.read(index)
    assert raising.read(11).success


def test_damaged_file_of_a_folder_is_left_out_and_named(tmp_path):
    folder = tmp_path / "libero_goal"
    for name in "abc":
        write_libero(folder / f"{name}_demo.hdf5", {0: make_arrays(3, 0)})
    whole = (folder / "b_demo.hdf5").read_bytes()
    (folder / "b_demo.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b_demo\.hdf5"):
        len(DemonstrationSource(folder))
    source = DemonstrationSource(folder, on_error="skip")
    assert len(source) == 2
    assert len(source.skipped) == 1
    assert "b_demo.hdf5" in source.skipped[0]


def test_other_files_are_not_taken_for_demonstrations(tmp_path):
    own = tmp_path / "own.hdf5"
    with EpisodeWriter(own) as writer:
        writer.append(
            Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.ones(1), True, True)
        )
    text = tmp_path / "text.hdf5"
    text.write_text("no HDF5")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_group("data")
    for name in ("own.hdf5", "text.hdf5", "empty.hdf5", "absent.hdf5"):
        assert not is_demonstrations(tmp_path / name)
    assert not is_demonstrations(tmp_path)
    with pytest.raises(ValueError, match="own format"):
        len(DemonstrationSource(own))
    with pytest.raises(FileNotFoundError, match=r"absent\.hdf5"):
        DemonstrationSource(tmp_path / "absent.hdf5")


def test_index_is_small_and_files_are_closed(libero):
    path, _ = libero
    source = DemonstrationSource(path)
    source.read(0)
    source.summaries()
    with h5py.File(path, "a"):  # HDF5 refuses to write what is open for reading
        pass
    assert len(pickle.dumps(source)) < 4000
