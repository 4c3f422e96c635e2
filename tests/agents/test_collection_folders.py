import hashlib
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.agents.collection_folders import collect_trajectories
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.trajectory_files import read_trajectory

MILK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
CLOSE = "libero_90/KITCHEN_SCENE5_close_the_top_drawer_of_the_cabinet"  # soon solved
KEY = "agentview_image"


def collect(folder: Path, n_episodes: int, **keywords):
    keywords = {"image_size": 16, "max_episode_steps": 60, "steps_after_success": 4, **keywords}
    return collect_trajectories(
        CLOSE, n_episodes, folder / "positive", folder / "negative", [KEY],
        assets="builtin", failures=["stop_short"], progress=False, **keywords,
    )  # fmt: skip


def hash_files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def collected(tmp_path_factory, builtin_assets):
    """Two runs with one seed: folder, hashes after the first, counts of both."""
    folder = tmp_path_factory.mktemp("folders")
    limits = {"max_positive_trajectories": 5, "max_negative_trajectories": 5}
    first = collect(folder, 2, **limits)
    hashes = hash_files(folder)
    second = collect(folder, 2, **limits)
    return folder, hashes, first, second


def test_a_second_run_loses_nothing(collected):
    folder, before, first, second = collected
    assert (first.positive_saved, first.negative_saved) == (1, 1)
    assert (second.positive_saved, second.negative_saved) == (1, 1)
    after = hash_files(folder)
    assert before.items() <= after.items()
    assert sorted(after) == [
        "negative/000000.npy", "negative/000001.npy", "positive/000000.npy", "positive/000001.npy",
    ]  # fmt: skip


def test_a_second_run_with_the_same_seed_makes_no_twins(collected):
    folder = collected[0]
    one, other = (read_trajectory(folder / "positive" / f"00000{i}.npy") for i in range(2))
    n = min(len(one.labels), len(other.labels))
    assert not np.array_equal(one.images[KEY][:n], other.images[KEY][:n])


def test_success_goes_on_and_each_frame_has_its_own_label(collected):
    folder = collected[0]
    positive = read_trajectory(folder / "positive" / "000000.npy")
    assert positive.images[KEY].shape == (len(positive.labels), 3, 16, 16)
    first = int(positive.labels.argmax())
    assert len(positive.labels) == min(first + 1 + 4, 60)
    assert positive.labels[first:].sum() >= 2
    negative = read_trajectory(folder / "negative" / "000000.npy")
    assert len(negative.labels) == 60
    assert negative.labels.max() == 0


def test_a_classifier_learns_from_the_folders(collected):
    folder = collected[0]
    dataset = RewardDataset(folder / "positive", folder / "negative", image_keys=KEY)
    assert [row.n_trajectories for row in dataset.statistics()] == [2, 2]


def test_hdf5_holds_the_episodes_of_the_other_form(tmp_path):
    collect(tmp_path, 2, storage="hdf5")
    arguments = {"assets": "builtin", "failures": ["stop_short"], "progress": False}
    arguments |= {"obs_type": "pixels_state", "cameras": ["agentview"], "image_size": 16}
    episodes = collect_episodes(
        CLOSE, 2, tmp_path / "episodes.hdf5", steps_after_success=4, max_episode_steps=60,
        **arguments,
    )  # fmt: skip
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys=KEY)
    mixed = RewardDataset.from_episodes(tmp_path / "episodes.hdf5", image_keys=KEY)
    by_class = np.argsort(mixed.classes, kind="stable")
    for source, number in zip(dataset.sources, by_class, strict=True):
        np.testing.assert_array_equal(source.labels, mixed.sources[number].labels)
        np.testing.assert_array_equal(source.labels, episodes[int(number)].rewards)
    np.testing.assert_array_equal(
        dataset[0][0][KEY].numpy().transpose(1, 2, 0),
        episodes[int(by_class[0])].observations[KEY][1],
    )
    assert {source.orientation for source in (*dataset.sources, *mixed.sources)} == {"upright"}


def test_limits_stop_a_class_and_not_the_other(tmp_path):
    counts = collect(tmp_path, 4, max_positive_trajectories=0, max_negative_trajectories=1)
    assert (counts.positive_saved, counts.negative_saved) == (0, 1)
    assert not (tmp_path / "positive").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_keys": ["agentview"]}, r"such as 'agentview_image'.* got 'agentview'"),
        ({"image_keys": []}, "`image_keys` as a list"),
        ({"storage": "zip"}, "Unknown storage 'zip'"),
        ({"n_episodes": 0}, "`n_episodes` must be at least 1"),
        ({"steps_after_success": -1}, "`steps_after_success` must be at least 0, got -1"),
        ({"expert_noise": -0.1}, r"`expert_noise` must be at least 0, got -0\.1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, keywords, message):
    arguments = {"n_episodes": 1, "image_keys": [KEY], "assets": "builtin", **keywords}
    with pytest.raises(ValueError, match=message):
        collect_trajectories(
            MILK, positive_dir=tmp_path / "positive", negative_dir=tmp_path / "n", **arguments
        )
    assert not list(tmp_path.iterdir())
