import pytest

from libero_reward_envs.openvla.feature_extractor import OpenVLAFeatureExtractor


@pytest.fixture(scope="session")
def extractor(_private_cache) -> OpenVLAFeatureExtractor:
    """The parts of the tiny model, with random weights, that features need."""
    return OpenVLAFeatureExtractor.from_pretrained("tiny-random-openvla")
