import subprocess
import sys

import pytest

from libero_reward_envs.cli.collect import CollectArgs, main
from libero_reward_envs.data import load_episodes
from libero_reward_envs.data.trajectory_files import read_trajectory


def test_the_command_collects_and_says_what_is_there(tmp_path, capsys):
    out = tmp_path / "episodes.h5"
    main(CollectArgs("7", out, suite="libero_object", episodes=2, assets="builtin"))
    printed = capsys.readouterr()
    assert "2 episodes, 1 successes and 1 failures" in printed.out
    assert "made by expert, noise" in printed.out
    assert "2/2" in printed.err  # the progress bar
    assert [episode.success for episode in load_episodes(out)] == [True, False]


def test_the_command_records_images_on_request(tmp_path, capsys):
    out = tmp_path / "episodes.h5"
    args = CollectArgs(
        "libero_90/KITCHEN_SCENE6_close_the_microwave",
        out,
        episodes=1,
        obs_type="pixels_state",
        image_size=32,
        assets="builtin",
    )
    main(args)
    (episode,) = load_episodes(out)
    assert episode.observations["agentview_image"].shape == (len(episode) + 1, 32, 32, 3)
    assert episode.observations["agentview_image"].std() > 1
    assert episode.metadata["image_size"] == 32
    assert episode.success


def test_the_command_adds_to_two_folders(tmp_path, capsys):
    args = CollectArgs(
        "libero_90/KITCHEN_SCENE5_close_the_top_drawer_of_the_cabinet",
        positive_dir=tmp_path / "positive",
        negative_dir=tmp_path / "negative",
        episodes=2,
        image_size=16,
        max_episode_steps=70,
        max_negative_trajectories=0,
        max_positive_trajectories=1,
        assets="builtin",
    )
    main(args)
    assert f"Added 1 trajectories to {tmp_path / 'positive'} and 0 to" in capsys.readouterr().out
    trajectory = read_trajectory(tmp_path / "positive" / "000000.npy")
    assert list(trajectory.images) == ["agentview_image"]
    assert trajectory.labels.sum() > 5  # without a word about it, success goes on


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((), "either --out, for one file, or both"),
        (("out", "positive_dir", "negative_dir"), "either --out, for one file, or both"),
        (("positive_dir",), "either --out, for one file, or both"),
        (("out", "negative_dir"), "either --out, for one file, or both"),
    ],
)
def test_a_file_or_two_folders_must_be_named(tmp_path, places, message):
    with pytest.raises(ValueError, match=message):
        main(CollectArgs("0", suite="libero_object", **{name: tmp_path / name for name in places}))
    assert not list(tmp_path.iterdir())


def test_what_is_for_folders_is_refused_with_a_file(tmp_path):
    with pytest.raises(ValueError, match="--storage is for --positive-dir and --negative-dir"):
        main(CollectArgs("0", tmp_path / "out.h5", suite="libero_object", storage="npy"))


def test_an_unknown_task_is_refused_with_the_nearest_ones(tmp_path):
    with pytest.raises(ValueError, match="nearest: 'pick_up_the_milk_and_place_it_in_the_basket'"):
        main(CollectArgs("pick_up_the_milk", tmp_path / "out.h5", suite="libero_object"))
    with pytest.raises(ValueError, match=r"Unknown suite 'libero_objects'\. Choose one of:"):
        main(CollectArgs("0", tmp_path / "out.h5", suite="libero_objects"))
    assert not list(tmp_path.iterdir())


def test_the_arguments_are_known_without_the_simulator():
    code = (
        "import sys\n"
        "import libero_reward_envs.cli.collect\n"
        "heavy = {'torch', 'stable_baselines3', 'h5py', 'libero', 'robosuite', 'mujoco', 'scipy'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
