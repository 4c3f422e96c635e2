import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.encoders.cache import FeatureCache
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.extraction import extract_features
from tests.data.episode_makers import make_episode
from tests.encoders.small_encoders import ImageMeanEncoder, StagedMeanEncoder, WordCountEncoder

LENGTHS = (3, 9, 1, 6)
N_FRAMES = sum(LENGTHS) + len(LENGTHS)


@pytest.fixture
def dataset():
    return EpisodeDataset([make_episode(seed, n) for seed, n in enumerate(LENGTHS)])


def check_features(dataset, root, factor=1.0):
    encoder = ImageMeanEncoder(factor=factor)
    for plain, episode in zip(dataset, encode_dataset(dataset, [encoder], root), strict=True):
        expected = ImageMeanEncoder(factor=factor).encode(plain.observations)
        np.testing.assert_allclose(episode.observations["mean"], expected, rtol=2.0**-11)
    assert encoder.batches == []


@pytest.mark.parametrize("kind", [ImageMeanEncoder, StagedMeanEncoder])
def test_every_frame_is_encoded_once_in_full_batches(dataset, tmp_path, kind):
    mean, words, counts = kind(), WordCountEncoder(), []
    done = extract_features(dataset, [mean, words], tmp_path, batch_size=8, on_frames=counts.append)
    assert (done.n_frames, done.n_encoded) == (N_FRAMES, {"mean": N_FRAMES, "words": 4})
    assert mean.batches == [8, 8, 7]
    assert words.batches == [4]
    assert counts == sorted(counts)
    assert counts[-1] == N_FRAMES
    if kind is ImageMeanEncoder:
        check_features(dataset, tmp_path)
    again = kind()
    done = extract_features(dataset, [again, WordCountEncoder()], tmp_path, batch_size=8)
    assert (done.n_frames, done.n_encoded) == (N_FRAMES, {"mean": 0, "words": 0})
    assert again.batches == []


def test_what_was_added_to_the_data_is_encoded_and_the_rest_is_not(dataset, tmp_path):
    extract_features(dataset[:2], [ImageMeanEncoder()], tmp_path)
    done = extract_features(dataset, [ImageMeanEncoder()], tmp_path)
    assert done.n_encoded == {"mean": 2 + 7}
    check_features(dataset, tmp_path)
    done = extract_features(dataset, [ImageMeanEncoder(factor=2.0)], tmp_path)
    assert done.n_encoded == {"mean": N_FRAMES}
    check_features(dataset, tmp_path, factor=2.0)


def test_damaged_chunks_are_named_and_made_anew(dataset, tmp_path):
    folder = extract_features(dataset, [ImageMeanEncoder()], tmp_path).folders["mean"]
    (chunk,) = folder.glob("*.safetensors")
    content = bytearray(chunk.read_bytes())
    content[-3] ^= 1
    chunk.write_bytes(content)
    done = extract_features(dataset, [ImageMeanEncoder()], tmp_path)
    assert done.n_encoded == {"mean": N_FRAMES}
    assert len(done.damaged) == 1
    assert str(chunk) in done.damaged[0]
    check_features(dataset, tmp_path)


def test_what_was_encoded_before_an_error_is_kept(dataset, tmp_path):
    class Failing(ImageMeanEncoder):
        def encode(self, observations):
            if len(self.batches) == 2:
                raise MemoryError("no room")
            return super().encode(observations)

    with pytest.raises(MemoryError, match="no room"):
        extract_features(dataset, [Failing()], tmp_path, batch_size=4)
    assert len(FeatureCache(tmp_path, Failing())) == 8
    FeatureCache(tmp_path, Failing(), writing=True).close()  # it is not locked any more


def test_images_of_several_sizes_are_not_put_into_one_batch(tmp_path):
    large = make_episode(1, 4)
    small = make_episode(0, 4)
    half = {**small.observations, "agentview_image": small.observations["agentview_image"][:, :2]}
    episodes = [large, type(small)(half, small.actions, small.rewards, True, True)]
    mean = ImageMeanEncoder()
    extract_features(EpisodeDataset(episodes), [mean], tmp_path, batch_size=8)
    assert mean.batches == [5, 5]
    check_features(EpisodeDataset(episodes), tmp_path)


def test_what_does_not_fit_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="No observation 'wrist_image'"):
        extract_features(dataset, [ImageMeanEncoder("wrist_image")], tmp_path)
    with pytest.raises(ValueError, match="`batch_size` and `n_threads` must be at least 1"):
        extract_features(dataset, [ImageMeanEncoder()], tmp_path, batch_size=0)
    raw = EpisodeDataset([make_episode(0, 3, orientation="raw")])
    with pytest.raises(ValueError, match="'upright' for 'mean', got 'raw' of episode 0"):
        extract_features(raw, [ImageMeanEncoder(orientation="upright")], tmp_path)
    with (
        FeatureCache(tmp_path, ImageMeanEncoder(), writing=True),
        pytest.raises(RuntimeError, match="Another writer"),
    ):
        extract_features(dataset, [ImageMeanEncoder()], tmp_path)
