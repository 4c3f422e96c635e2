import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libero_reward_envs.data.demonstrations import DemonstrationSource
from libero_reward_envs.data.provenance import Provenance, read_provenance
from tests.data.demonstration_makers import (
    make_robomimic_arrays,
    write_robomimic,
)


@pytest.mark.parametrize("next_obs", [True, False])
def test_robomimic_is_read_exactly(tmp_path, next_obs):
    demos = {number: make_robomimic_arrays(4, number, next_obs=next_obs) for number in range(3)}
    path = write_robomimic(tmp_path / "image.hdf5", demos)
    source = DemonstrationSource(path)
    for number, arrays in demos.items():
        episode = source.read(number)
        for key in ("robot0_eef_pos", "agentview_image"):
            value = episode.observations[key]
            np.testing.assert_array_equal(value[:-1], arrays[f"obs/{key}"])
            last = arrays[f"{'next_obs' if next_obs else 'obs'}/{key}"][-1]
            np.testing.assert_array_equal(value[-1], last)
        assert (episode.task, episode.instruction) == ("Lift", "")
        assert read_provenance(episode.metadata) == Provenance(
            "robomimic",
            image_size=(6, 6),
            orientation="upright",
            control_freq_hz=20.0,
            action_convention="delta",
            action_range=(-1.0, 1.0),
            reward_source="env",
            success_source="reward",
            final_observation="recorded" if next_obs else "repeated",
        )


def test_filter_key_chooses_episodes(tmp_path):
    demos = {number: make_robomimic_arrays(3, number) for number in range(4)}
    path = write_robomimic(tmp_path / "image.hdf5", demos)
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.array(["demo_3", "demo_1"], "S")
        file["mask/broken"] = np.array(["demo_9"], "S")
    source = DemonstrationSource(path, filter_key="train")
    assert [summary.metadata["episode"] for summary in source.summaries()] == ["demo_1", "demo_3"]
    with pytest.raises(ValueError, match=r"demo_9.*not in /data"):
        len(DemonstrationSource(path, filter_key="broken"))
    with pytest.raises(ValueError, match="no 'valid' in /mask"):
        len(DemonstrationSource(path, filter_key="valid"))


def test_success_is_not_guessed(tmp_path):
    arrays = {**make_robomimic_arrays(3, 0), "rewards": np.zeros(3)}
    path = write_robomimic(tmp_path / "mixed.hdf5", {0: arrays, 1: make_robomimic_arrays(3, 1)})
    for on_error in ("raise", "skip"):  # a missing argument is not damage
        with pytest.raises(ValueError, match=r"no step has reward 1.*demo_0.*`assume_success`"):
            DemonstrationSource(path, on_error=on_error).summaries()
    failure, success = DemonstrationSource(path, assume_success=False).summaries()
    assert (failure.success, failure.terminated) == (False, False)  # its `dones` is a time-out
    assert (success.success, success.terminated) == (True, True)
    assert DemonstrationSource(path, assume_success=True).summaries()[0].success


def test_rewards_may_be_missing_where_success_is_given(tmp_path):
    arrays = make_robomimic_arrays(3, 0)
    del arrays["rewards"]
    path = write_robomimic(tmp_path / "plain.hdf5", {0: arrays})
    with pytest.raises(ValueError, match=r"plain\.hdf5.*no 'rewards' in /data/demo_0"):
        DemonstrationSource(path).read(0)
    episode = DemonstrationSource(path, assume_success=True).read(0)
    assert episode.rewards.tolist() == [0, 0, 1]
    provenance = read_provenance(episode.metadata)
    assert provenance is not None
    assert provenance.reward_source == "last_step"


def test_actions_are_rescaled_only_as_told(tmp_path):
    arrays = make_robomimic_arrays(2, 0)
    arrays["actions"] = np.array([[0.0, 5.0], [10.0, 2.5]])
    path = write_robomimic(tmp_path / "large.hdf5", {0: arrays})
    with pytest.raises(ValueError, match=r"demo_0.*`action_range="):
        DemonstrationSource(path).read(0)
    episode = DemonstrationSource(path, action_range=(0, 10)).read(0)
    np.testing.assert_array_equal(episode.actions, [[-1, 0], [1, -0.5]])
    provenance = read_provenance(episode.metadata)
    assert provenance is not None
    assert provenance.action_range == (0, 10)
    by_dimension = DemonstrationSource(path, action_range=([0, 0], [10, 5])).read(0)
    np.testing.assert_array_equal(by_dimension.actions, [[-1, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"demo_0.*`action_range="):
        DemonstrationSource(path, action_range=(0, 9)).read(0)
    with pytest.raises(ValueError, match="low below high"):
        DemonstrationSource(path, action_range=(1, 1))


def test_states_without_observations_tell_what_to_do(tmp_path):
    arrays = {
        name: array for name, array in make_robomimic_arrays(3, 0).items() if "obs" not in name
    }
    path = write_robomimic(tmp_path / "demo.hdf5", {0: arrays})
    with pytest.raises(ValueError, match=r"no 'obs' in /data/demo_0.*dataset_states_to_obs"):
        DemonstrationSource(path).read(0)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_any_robomimic_file_comes_back(tmp_path, data):
    draw = data.draw
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    numbers = draw(st.sets(st.integers(0, 2000), min_size=len(lengths), max_size=len(lengths)))
    dtype = draw(st.sampled_from(["u1", "<f4", ">f8", "?", "<i2", "<f2"]))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    compression = draw(st.sampled_from([None, "gzip", "lzf"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    path = tmp_path / "any.hdf5"
    demos = {}
    with h5py.File(path, "w") as file:
        for number, length in zip(sorted(numbers), lengths, strict=True):
            whole = rng.integers(0, 2, (length + 1, *shape)).astype(dtype)
            actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
            demos[number] = whole, actions
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"] = actions
            demo["rewards"] = np.ones(length)
            chunks = True if compression is None else (1, *shape)
            keywords = {"chunks": chunks, "compression": compression}
            demo.create_dataset("obs/a/b", data=whole[:-1], **keywords)
            demo.create_dataset("next_obs/a/b", data=whole[1:], **keywords)
    source = DemonstrationSource(path)
    assert len(source) == len(demos)
    for index, number in enumerate(sorted(demos)):
        episode = source.read(index)
        whole, actions = demos[number]
        value = episode.observations["a/b"]
        assert value.dtype == whole.dtype.newbyteorder("=")
        np.testing.assert_array_equal(value, whole)
        np.testing.assert_array_equal(episode.actions, actions)
        assert episode.success
        assert not episode.terminated  # no `dones`
