"""What the tests of fitting classifiers share."""

import pytest
import torch

from libero_reward_envs.data.frames import RewardDataset, split_trajectories
from libero_reward_envs.reward_models.resnet10 import ResNet10
from tests.reward_models.classifier_makers import write_folders


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = write_folders(tmp_path_factory.mktemp("frames"))
    dataset = RewardDataset(folder / "positive", folder / "negative", image_keys="camera")
    return split_trajectories(dataset, 0.4, seed=0)


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    """A trunk of random weights: it tells bright from dark well enough."""
    path = tmp_path_factory.mktemp("weights") / "resnet10_pretrained.pt"
    torch.save(ResNet10(generator=torch.Generator().manual_seed(11)).state_dict(), path)
    return path
