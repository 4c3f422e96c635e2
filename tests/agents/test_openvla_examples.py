import numpy as np
import pytest

from libero_reward_envs.agents.openvla_examples import OpenVLAExamples, find_cameras
from libero_reward_envs.agents.openvla_resampling import join_steps
from libero_reward_envs.data.episodes import EpisodeDataset
from tests.agents.openvla_makers import CAMERAS, make_dataset, make_episode


def test_the_gripper_becomes_1_open_and_0_closed() -> None:
    dataset = make_dataset(2)
    examples = OpenVLAExamples(dataset)
    assert examples.gripper == "libero"
    recorded = dataset.read(1).actions
    assert set(recorded[:, -1]) == {-1.0, 1.0}
    np.testing.assert_array_equal(examples.actions[1][:, -1], (recorded[:, -1] < 0).astype(float))
    np.testing.assert_array_equal(examples.actions[1][:, :-1], recorded[:, :-1])
    assert examples.compute_statistics().mask.tolist() == [True] * 6 + [False]


def test_other_robots_have_all_numbers_normalised() -> None:
    dataset = make_dataset(2, action_dim=14, task="aloha/cube", gripper_closed_at=None)
    examples = OpenVLAExamples(dataset, action_dim=14)
    assert examples.gripper == "none"
    assert examples.compute_statistics().mask.all()
    with pytest.raises(ValueError, match="Set `action_dim` to 14"):
        OpenVLAExamples(dataset, action_dim=7)


def test_grippers_that_close_the_other_way_are_refused() -> None:
    with pytest.raises(ValueError, match="close at 1"):
        OpenVLAExamples(make_dataset(1, gripper_closed_at=-1.0))


def test_idle_steps_are_left_out_with_their_pictures() -> None:
    episode = make_episode(0, 6)
    episode.actions[2:4, :6] = 0
    episode.actions[2:4, -1] = episode.actions[1, -1]
    examples = OpenVLAExamples(EpisodeDataset([episode]), filter_no_ops=True)
    assert examples.steps[0].tolist() == [0, 1, 4, 5]
    (images,) = examples.read_images(0)
    np.testing.assert_array_equal(images, episode.observations[CAMERAS[0]][[0, 1, 4, 5]])
    assert len(OpenVLAExamples(EpisodeDataset([episode]))) == 6


def test_cameras_by_their_short_names() -> None:
    observations = make_episode().observations
    assert find_cameras(["primary", "wrist"], observations) == CAMERAS
    assert find_cameras(["robot0_eye_in_hand"], observations) == CAMERAS[1:]
    with pytest.raises(ValueError, match=r"No camera 'overhead'.*agentview_image"):
        find_cameras(["overhead"], observations)
    with pytest.raises(ValueError, match="Did you mean 'agentview_image'"):
        find_cameras(["agentvew_image"], observations)
    with pytest.raises(ValueError, match="different cameras"):
        find_cameras(["primary", "agentview"], observations)


def test_another_control_frequency_is_refused_unless_resampling_is_asked_for() -> None:
    dataset = make_dataset(1, n_steps=7)
    assert OpenVLAExamples(dataset).control_freq_hz == 20
    with pytest.raises(ValueError, match=r"episodes of 10 Hz, got 20 Hz.*`resample`"):
        OpenVLAExamples(dataset, control_freq_hz=10)
    with pytest.raises(ValueError, match="cannot become 15 Hz"):
        OpenVLAExamples(dataset, control_freq_hz=15, resample=True)
    thinned = OpenVLAExamples(dataset, control_freq_hz=10, resample=True)
    assert thinned.steps[0].tolist() == [0, 2, 4]
    recorded = dataset.read(0).actions
    np.testing.assert_allclose(thinned.actions[0][0, :6], recorded[:2, :6].sum(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="does not say"):
        OpenVLAExamples(make_dataset(1, control_freq_hz=None), control_freq_hz=10)


def test_poses_are_those_of_a_group_s_end() -> None:
    _, joined = join_steps(np.arange(12.0).reshape(4, 3), 2, is_delta=False)
    assert joined.tolist() == [[3, 4, 5], [9, 10, 11]]


def test_what_the_data_do_not_say_must_be_told() -> None:
    unturned = make_dataset(1, orientation=None)
    with pytest.raises(ValueError, match="Set `orientation`"):
        OpenVLAExamples(unturned)
    assert OpenVLAExamples(unturned, orientation="raw").orientations == ["raw"]
    with pytest.raises(ValueError, match="says 'upright'"):
        OpenVLAExamples(make_dataset(1), orientation="raw")
    silent = make_dataset(1, instruction=" ")
    with pytest.raises(ValueError, match="Set `instruction`"):
        OpenVLAExamples(silent)
    assert OpenVLAExamples(silent, instruction="wave").instructions == ["wave"]


def test_episodes_of_several_robots_are_refused() -> None:
    mixed = EpisodeDataset([make_episode(0), make_episode(1, action_dim=5)])
    with pytest.raises(ValueError, match="numbers as in episode 0, got 5"):
        OpenVLAExamples(mixed)
