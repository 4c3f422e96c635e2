import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.encoders.base import StagedEncoder
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.extraction import extract_features
from libero_reward_envs.encoders.openvla import (
    OpenVLALanguageEncoder,
    OpenVLAVisionEncoder,
    load_openvla_encoders,
)
from libero_reward_envs.openvla.tiny import make_tiny_openvla
from libero_reward_envs.wrappers import RecordEpisodes, VecEncode
from tests.encoders.test_base import draw_images

AGENTVIEW, WRIST = "agentview_image", "robot0_eye_in_hand_image"


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    """By default what float32 gives in batches of another size."""
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def draw_views(n, seed=0):
    return {AGENTVIEW: draw_images(n, seed, (40, 60)), WRIST: draw_images(n, seed + 1, (32, 32))}


def see(extractor, *views):
    return extractor.extract_vision(views).float().numpy()


def make_vision(extractor, *keys, **kwargs):
    return OpenVLAVisionEncoder(extractor, image_keys=keys or (AGENTVIEW,), **kwargs)


def round_half(features):
    return features.astype(np.float16).astype(np.float32)


def test_features_are_rounded_to_what_a_cache_keeps(extractor):
    images = {AGENTVIEW: draw_images(2)}
    features = make_vision(extractor).encode(images)
    np.testing.assert_array_equal(features, round_half(features))
    coarse = make_vision(extractor, stored_dtype="bfloat16")
    assert coarse.fingerprint != make_vision(extractor).fingerprint
    kept = torch.from_numpy(coarse.encode(images))
    assert torch.equal(kept, kept.bfloat16().float())
    with pytest.raises(ValueError, match="`stored_dtype` must be one of float16, bfloat16"):
        make_vision(extractor, stored_dtype="float32")


def test_the_towers_see_opengls_image_turned_by_180_degrees(extractor):
    """A flip alone, which makes the picture upright, is a mirror image of that."""
    raw = draw_images(3, size=(40, 60))
    rotated = np.stack([np.rot90(image, 2) for image in raw])
    upright, mirrored = raw[:, ::-1], raw[:, :, ::-1]
    expected = round_half(see(extractor, rotated))
    for orientation, images in (("raw", raw), ("upright", upright), ("vla180", rotated)):
        encoder = make_vision(extractor, pool="none", orientation=orientation)
        np.testing.assert_array_equal(encoder.encode({AGENTVIEW: images}), expected)
    encoder = make_vision(extractor, pool="none")
    for images in (raw, rotated, mirrored):
        assert np.abs(encoder.encode({AGENTVIEW: images}) - expected).max() > 0.1


def test_features_of_an_env_do_not_depend_on_how_it_turns_its_images(extractor, make_env):
    features = []
    for orientation in ("upright", "raw", "vla180"):
        env = make_env(
            obs_type="pixels", cameras=("agentview",), image_size=48, orientation=orientation
        )
        observation, _ = env.reset(seed=0)
        encoder = make_vision(extractor, orientation=orientation)
        features.append(encoder.encode({AGENTVIEW: observation[AGENTVIEW][None]}))
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])


def test_each_camera_is_pooled_apart(extractor):
    views, d, n_patches = draw_views(3), extractor.vision_dim, extractor.n_patches
    none = make_vision(extractor, AGENTVIEW, WRIST, pool="none")
    mean = make_vision(extractor, AGENTVIEW, WRIST)
    assert none.shape == (2 * n_patches, d)
    assert mean.shape == (2 * d,)
    patches, pooled = none.encode(views), mean.encode(views)
    assert (patches.shape, pooled.shape) == ((3, 2 * n_patches, d), (3, 2 * d))
    assert pooled.dtype == patches.dtype == np.float32
    # Either is rounded to half precision, one after the mean and one before it.
    np.testing.assert_allclose(pooled[:, :d], patches[:, :n_patches].mean(1), rtol=1e-3, atol=5e-3)
    np.testing.assert_allclose(pooled[:, d:], patches[:, n_patches:].mean(1), rtol=1e-3, atol=5e-3)
    alone = make_vision(extractor, WRIST).encode(views)
    assert_close(pooled[:, d:], alone)
    assert np.abs(pooled[:, :d] - alone).max() > 0.01


def test_a_row_does_not_depend_on_its_batch(extractor):
    views, encoder = draw_views(5), make_vision(extractor, AGENTVIEW, WRIST)
    assert isinstance(encoder, StagedEncoder)
    whole = encoder.encode(views)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    for row in range(5):
        one = encoder.encode({key: value[row : row + 1] for key, value in views.items()})
        assert_close(one[0], whole[row])
    np.testing.assert_array_equal(encoder.encode_prepared(encoder.prepare(views)), whole)


def test_language_features_are_token_embeddings_of_the_prompt(extractor):
    texts = ["pick up the bowl", "open the top drawer of the cabinet"]
    observations = {"instruction": np.array(texts)}
    tokens, mask = (part.numpy() for part in extractor.extract_language(texts))
    mean = OpenVLALanguageEncoder(extractor)
    filled = OpenVLALanguageEncoder(extractor, pool="none", n_tokens=90)
    assert (mean.shape, filled.shape) == ((extractor.language_dim,), (90, extractor.language_dim))
    for row, features in enumerate(filled.encode(observations)):
        n = int(mask[row].sum())
        np.testing.assert_array_equal(features[:n], round_half(tokens[row][mask[row]]))
        assert np.abs(features[:n]).sum(1).all()
        assert not features[n:].any()
        pooled = mean.encode(observations)[row]
        np.testing.assert_array_equal(pooled, round_half(tokens[row][mask[row]].mean(0)))


def test_one_instruction_is_computed_once(extractor, monkeypatch):
    asked = []
    extract = extractor.extract_language
    monkeypatch.setattr(
        extractor, "extract_language", lambda texts: asked.append(texts) or extract(texts)
    )
    encoder = OpenVLALanguageEncoder(extractor)
    for _ in range(3):
        encoder.encode({"instruction": np.array(["open it", "close it", "open it"])})
    assert asked == [["open it"], ["close it"]]


def test_a_task_description_takes_the_place_of_any_instruction(extractor):
    given = OpenVLALanguageEncoder(extractor, task_description="open it")
    own = OpenVLALanguageEncoder(extractor).encode({"instruction": np.array(["open it"])})
    features = given.encode({"instruction": np.array(["", "close it"])})
    np.testing.assert_array_equal(features, np.repeat(own, 2, axis=0))
    assert given.fingerprint != OpenVLALanguageEncoder(extractor).fingerprint


def test_a_missing_or_too_long_instruction_is_refused(extractor):
    with pytest.raises(ValueError, match="Expected an instruction for 'openvla/language', got non"):
        OpenVLALanguageEncoder(extractor).encode({"instruction": np.array([""])})
    with pytest.raises(ValueError, match="Pass `task_description`"):
        OpenVLALanguageEncoder(extractor, task_description="  ")
    short = OpenVLALanguageEncoder(extractor, pool="none", n_tokens=5)
    with pytest.raises(ValueError, match="Expected at most 5 tokens, got "):
        short.encode({"instruction": np.array(["pick up the bowl"])})


def test_fingerprints_tell_apart_all_that_decides_features(extractor, tmp_path):
    make_tiny_openvla(tmp_path / "other", seed=1)
    other, language = load_openvla_encoders(tmp_path / "other", image_keys=[AGENTVIEW])
    half, _ = load_openvla_encoders(
        "tiny-random-openvla", image_keys=[AGENTVIEW], dtype="bfloat16", device="cpu"
    )
    found = [
        make_vision(extractor),
        make_vision(extractor, pool="none"),
        make_vision(extractor, orientation="raw"),
        other,
        half,
        language,
        OpenVLALanguageEncoder(extractor),
        OpenVLALanguageEncoder(extractor, pool="none"),
        OpenVLALanguageEncoder(extractor, pool="none", n_tokens=65),
    ]
    assert len({encoder.fingerprint for encoder in found}) == len(found)
    assert make_vision(extractor).fingerprint == found[0].fingerprint
    features = half.encode(draw_views(2))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, make_vision(extractor).encode(draw_views(2)), atol=0.05)


def test_wrong_arguments_and_images_are_refused(extractor):
    for keys in ([], "agentview_image", [AGENTVIEW, AGENTVIEW]):
        with pytest.raises(ValueError, match="`image_keys` must be a list of different"):
            OpenVLAVisionEncoder(extractor, image_keys=keys)
    with pytest.raises(ValueError, match="Unknown orientation 'left'"):
        make_vision(extractor, orientation="left")
    with pytest.raises(ValueError, match="`pool` must be one of mean, none, got 'max'"):
        make_vision(extractor, pool="max")
    with pytest.raises(ValueError, match="`pool`"):
        OpenVLALanguageEncoder(extractor, pool="max")
    with pytest.raises(ValueError, match="uint8, from 0 to 255, got float32"):
        make_vision(extractor).encode({AGENTVIEW: np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(ValueError, match="Channels come last"):
        make_vision(extractor).encode({AGENTVIEW: np.zeros((1, 3, 8, 8), np.uint8)})


def test_no_room_on_the_device_says_what_to_do(extractor, monkeypatch):
    def fail(_):
        raise torch.OutOfMemoryError("2 TiB")

    monkeypatch.setattr(extractor.vision_backbone, "forward", fail)
    with pytest.raises(MemoryError, match="No room on cpu for 3 rows of 2 images at once"):
        make_vision(extractor, AGENTVIEW, WRIST).encode(draw_views(3))


def test_encoders_go_to_other_processes(extractor):
    encoder = make_vision(extractor)
    again = pickle.loads(pickle.dumps(encoder))
    views = draw_views(2)
    np.testing.assert_array_equal(again.encode(views), encoder.encode(views))


def test_recorded_and_online_features_of_an_env_are_the_same(extractor, make_env, tmp_path):
    episodes = []
    env = make_env(obs_type="pixels_state", image_size=48)
    recorded = RecordEpisodes(TimeLimit(env, 3), episodes.append)
    encoders = [make_vision(extractor, AGENTVIEW, WRIST), OpenVLALanguageEncoder(extractor)]
    venv = VecEncode(DummyVecEnv([lambda: recorded]), encoders)
    venv.seed(0)
    seen: list[Any] = [venv.reset()]
    for _ in range(3):
        observation, _, dones, infos = venv.step(venv.action_space.sample()[None])
        if dones[0]:
            last = infos[0]["terminal_observation"]
            observation = {key: value[None] for key, value in last.items()}
        seen.append(observation)
    assert set(seen[0]) == {"openvla/vision", "openvla/language", "state"}
    dataset = EpisodeDataset(episodes)
    extract_features(dataset, encoders, tmp_path)
    for root, error in ((None, 1e-4), (tmp_path, 2.0**-10)):
        episode = encode_dataset(dataset, encoders, root)[0]
        assert set(episode.observations) == set(seen[0])
        for key, value in episode.observations.items():
            online = np.concatenate([observation[key] for observation in seen])
            assert_close(value, online, rtol=error, atol=0.1 * error)
        np.testing.assert_allclose(np.ptp(episode.observations["openvla/language"], 0), 0)
    turned = dataclasses.replace(episodes[0], metadata={"orientation": "raw"})
    with pytest.raises(ValueError, match="Make the encoder with orientation='raw'"):
        encode_dataset(EpisodeDataset([turned]), encoders)[0]
