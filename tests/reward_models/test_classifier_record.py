import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeWriter
from libero_reward_envs.data.frames import RewardDataset, split_trajectories
from libero_reward_envs.reward_models.classifier_record import describe_data
from tests.reward_models.classifier_makers import SIZE


@pytest.mark.parametrize(("last", "found"), [("vla180", "vla180"), ("raw", None), (None, None)])
def test_the_orientation_is_stored_where_all_episodes_say_the_same(sides, tmp_path, last, found):
    with EpisodeWriter(tmp_path / "episodes.hdf5") as writer:
        for number in range(4):
            images = np.zeros((5, SIZE, SIZE, 3), np.uint8)
            rewards = np.array([0, 0, 0, number % 2])
            told = {"orientation": "vla180" if number < 3 else last}
            writer.append(
                Episode({"a": images}, np.zeros((4, 7)), rewards, False, True, metadata=told)
            )
    dataset = RewardDataset.from_episodes(tmp_path / "episodes.hdf5", image_keys="a")
    assert describe_data(*split_trajectories(dataset, 0.5)).get("orientation") == found
    assert "orientation" not in describe_data(*sides)  # these files cannot say it
