import pickle

import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.encoders.cache import FeatureCache
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.frame_hashes import hash_rows
from tests.data.episode_makers import make_episode
from tests.encoders.small_encoders import ImageMeanEncoder, WordCountEncoder


class CountingSource:
    """Episodes in memory, and which of their observations were read."""

    def __init__(self, episodes):
        self._inner = EpisodeDataset(episodes)
        self.reads: list = []

    def __len__(self):
        return len(self._inner)

    def read(self, index, observation_keys=None):
        self.reads.append((index, observation_keys and sorted(observation_keys)))
        return self._inner.read(index, observation_keys)

    def summaries(self):
        return self._inner.summaries()


@pytest.fixture
def source():
    return CountingSource([make_episode(seed, 3 + seed) for seed in range(3)])


def expect(episode):
    return ImageMeanEncoder().encode(episode.observations)


def fill(root, episodes, encoder=None):
    encoder = encoder or ImageMeanEncoder()
    with FeatureCache(root, encoder, writing=True) as cache:
        for episode in episodes:
            hashes = hash_rows(episode.observations, encoder.observation_keys)
            cache.add(hashes, encoder.encode(episode.observations))


def test_episodes_have_features_instead_of_images(source):
    mean, words = ImageMeanEncoder(), WordCountEncoder()
    dataset = EpisodeDataset(source)
    encoded = encode_dataset(dataset, [mean, words], batch_size=4)
    assert source.reads == []
    for plain, episode in zip(dataset, encoded, strict=True):
        assert set(episode.observations) == {"state", "mean", "words"}
        np.testing.assert_array_equal(episode.observations["mean"], expect(plain))
        np.testing.assert_array_equal(episode.observations["state"], plain.observations["state"])
        assert episode.observations["words"].tolist() == [[2, 4]] * (len(plain) + 1)
        np.testing.assert_array_equal(episode.actions, plain.actions)
        assert episode.summary() == plain.summary()
    assert max(mean.batches) == 4
    assert encoded.summaries() == dataset.summaries()
    assert len(encoded.filter(lambda summary: len(summary) > 3)[0]) == 4
    assert len(encoded[-1]) == 5


def test_images_stay_if_they_are_kept(source):
    encoded = encode_dataset(EpisodeDataset(source), [ImageMeanEncoder()], keep=["agentview_image"])
    assert set(encoded[0].observations) == {"agentview_image", "mean", "state"}
    assert list(encoded.read(0, ["agentview_image"]).observations) == ["agentview_image"]
    encoded = encode_dataset(EpisodeDataset(source), [ImageMeanEncoder()])
    with pytest.raises(ValueError, match="No observation 'agentview_image'"):
        encoded.read(0, ["agentview_image", "mean"])


def test_only_what_is_asked_for_is_read_and_encoded(source):
    mean, words = ImageMeanEncoder(), WordCountEncoder()
    encoded = encode_dataset(EpisodeDataset(source), [mean, words])
    assert list(encoded.read(1, ["state"]).observations) == ["state"]
    assert list(encoded.read(1, ["words"]).observations) == ["words"]
    assert mean.batches == []
    assert list(encoded.read(1, ["mean", "state"]).observations) == ["mean", "state"]
    assert source.reads[0] == (1, ["state"])
    assert source.reads[-1] == (1, ["agentview_image", "state"])
    transitions = encoded.read(1, ["mean", "episode/return"]).transitions()
    assert transitions.observations["mean"].shape == (4, 3)
    assert transitions.observations["episode/return"].tolist() == [1] * 4


def test_features_come_from_the_cache_and_images_are_read_once(source, tmp_path):
    fill(tmp_path, EpisodeDataset(source))
    mean = ImageMeanEncoder()
    encoded = encode_dataset(EpisodeDataset(source), [mean], tmp_path)
    source.reads.clear()
    plain = make_episode(1, 4)
    episodes = [encoded[1], encoded[1], encoded[1]]
    for episode in episodes:
        np.testing.assert_array_equal(
            episode.observations["mean"], expect(plain).astype(np.float16).astype(np.float32)
        )
        np.testing.assert_array_equal(episode.actions, plain.actions)
        assert set(episode.observations) == {"state", "mean"}
    assert source.reads == [(1, None), (1, ["state"]), (1, ["state"])]
    alone = encoded.read(1, ["mean"])
    assert len(source.reads) == 3
    np.testing.assert_array_equal(alone.observations["mean"], episodes[0].observations["mean"])
    np.testing.assert_array_equal(alone.actions, plain.actions)
    assert alone.summary() == plain.summary()
    assert mean.batches == []


def test_another_model_is_not_served_and_what_is_missing_is_encoded(source, tmp_path):
    episodes = list(EpisodeDataset(source))
    fill(tmp_path, episodes[:2])
    tenfold = ImageMeanEncoder(factor=10.0)
    with pytest.warns(UserWarning, match="Not all frames have features 'mean'"):
        episode = encode_dataset(EpisodeDataset(source), [tenfold], tmp_path)[0]
    np.testing.assert_array_equal(
        episode.observations["mean"], tenfold.encode(episodes[0].observations)
    )
    mean = ImageMeanEncoder()
    encoded = encode_dataset(EpisodeDataset(source), [mean], tmp_path)
    with pytest.warns(UserWarning, match="Not all frames"):
        episode = encoded[2]
    np.testing.assert_array_equal(episode.observations["mean"], expect(episodes[2]))
    assert mean.batches == [6]


def test_pictures_that_changed_are_encoded_anew(source, tmp_path):
    """Actions, rewards and lengths stay: only a hash of the pictures can tell."""
    episodes = list(EpisodeDataset(source))
    fill(tmp_path, episodes)
    before = episodes[0].observations
    turned = {**before, "agentview_image": before["agentview_image"][:, :2] // 2}
    changed = Episode(turned, episodes[0].actions, episodes[0].rewards, True, True)
    encoded = encode_dataset(EpisodeDataset([changed]), [ImageMeanEncoder()], tmp_path)
    with pytest.warns(UserWarning, match="Not all frames"):
        np.testing.assert_array_equal(encoded[0].observations["mean"], expect(changed))


def test_a_chunk_that_is_damaged_while_it_is_used_is_encoded_anew(source, tmp_path):
    fill(tmp_path, EpisodeDataset(source))
    encoded = encode_dataset(EpisodeDataset(source), [ImageMeanEncoder()], tmp_path)
    expected = encoded[0].observations["mean"]
    (chunk,) = tmp_path.glob("*/*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="Not all frames"):
        found = encoded[0].observations["mean"]
    np.testing.assert_allclose(found, expected, rtol=2.0**-11)


def test_an_episode_that_does_not_fit_is_refused(source):
    episodes = EpisodeDataset(source)
    with pytest.raises(ValueError, match="No observation 'wrist_image'"):
        encode_dataset(episodes, [ImageMeanEncoder("wrist_image")]).read(0, ["mean"])
    with pytest.raises(ValueError, match=r"reads 'wrist_image', which is not among .*: agentview"):
        encode_dataset(episodes, [ImageMeanEncoder("wrist_image")])[0]
    with pytest.raises(ValueError, match="adds the observation 'state', which is there already"):
        encode_dataset(episodes, [ImageMeanEncoder(key="state")])[0]
    with pytest.raises(ValueError, match="'mean', which is there already"):
        encode_dataset(episodes, [ImageMeanEncoder(), ImageMeanEncoder()])
    raw = [make_episode(0, 3, orientation="raw")]
    turned = encode_dataset(EpisodeDataset(raw), [ImageMeanEncoder(orientation="upright")])
    with pytest.raises(ValueError, match="'upright' for 'mean', got 'raw' of episode 0"):
        turned.read(0)
    assert encode_dataset(EpisodeDataset(raw), [ImageMeanEncoder(orientation="raw")])[0]


def test_an_episode_without_instruction_is_refused_by_who_needs_it(source):
    nameless = Episode({"state": np.zeros((2, 1))}, np.zeros((1, 7)), np.zeros(1), False, False)
    with pytest.raises(ValueError, match="Expected an instruction, got none"):
        encode_dataset(EpisodeDataset([nameless]), [WordCountEncoder()])[0]


def test_a_view_of_a_file_goes_to_other_processes(tmp_path):
    with EpisodeWriter(tmp_path / "episodes.h5") as writer:
        for seed in range(2):
            writer.append(make_episode(seed))
    dataset = load_episodes(tmp_path / "episodes.h5")
    fill(tmp_path / "features", dataset)
    encoded = encode_dataset(dataset, [ImageMeanEncoder()], tmp_path / "features")
    before = encoded[0].observations["mean"]
    again = pickle.loads(pickle.dumps(encoded))
    np.testing.assert_array_equal(again[0].observations["mean"], before)
