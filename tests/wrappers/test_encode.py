import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.wrappers import Encode
from tests.encoders.small_encoders import ImageMeanEncoder, WordCountEncoder
from tests.wrappers.picture_env import PictureEnv


def mean_of(image):
    return ImageMeanEncoder().encode({"agentview_image": image[None]})[0]


def test_observations_have_features_and_no_images():
    inner = PictureEnv()
    before = dict(inner.spaces)
    env = Encode(inner, [ImageMeanEncoder(), WordCountEncoder()])
    assert dict(inner.spaces) == before
    observation, info = env.reset(seed=0)
    assert info == {"instruction": "go go"}
    assert set(observation) == {"mean", "words", "state"}
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation["mean"], mean_of(inner.shown["agentview_image"]))
    assert observation["words"].tolist() == [2, 5]
    for _ in range(2):
        observation, *_ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(observation["mean"], mean_of(inner.shown["agentview_image"]))
        np.testing.assert_array_equal(observation["state"], inner.shown["state"])
    assert env.reset()[0]["words"].tolist() == [3, 8]


def test_images_stay_if_they_are_kept():
    env = Encode(PictureEnv(), [ImageMeanEncoder()], keep=["wrist_image"])
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"mean", "wrist_image", "state"}
    assert observation in env.observation_space


def test_the_checkers_of_gymnasium_and_sb3_pass():
    env = Encode(PictureEnv(tells=False), [ImageMeanEncoder()])  # else infos differ by episode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is wrapped, and features have no bounds
        check_env(env, skip_render_check=True)
    check_env_for_sb3(env)


def test_an_image_without_a_name_stands_under_state():
    class Pixels(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = inner.spaces["agentview_image"]

        def observation(self, observation):
            return observation["agentview_image"]

    inner = PictureEnv()
    env = Encode(Pixels(inner), [ImageMeanEncoder("state")])
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"mean"}
    np.testing.assert_array_equal(observation["mean"], mean_of(inner.shown["agentview_image"]))


def test_an_encoder_whose_inputs_are_not_there_is_refused():
    with pytest.raises(ValueError, match="reads 'front_image', which is not among"):
        Encode(PictureEnv(), [ImageMeanEncoder("front_image")])
    with pytest.raises(ValueError, match="adds the observation 'state', which is there already"):
        Encode(PictureEnv(), [ImageMeanEncoder(key="state")])
    with pytest.raises(ValueError, match=r"`keep` must be a list of observations, got \['front'\]"):
        Encode(PictureEnv(), [ImageMeanEncoder()], keep=["front"])
    with pytest.raises(ValueError, match="got 'state'"):
        Encode(PictureEnv(), [ImageMeanEncoder()], keep="state")
    with pytest.raises(ValueError, match="Expected a Dict or Box observation space"):
        Encode(gym.make("FrozenLake-v1"), [ImageMeanEncoder()])
    env = Encode(PictureEnv(tells=False), [WordCountEncoder()])
    with pytest.raises(ValueError, match="Expected an instruction, got none"):
        env.reset(seed=0)


def test_another_orientation_is_refused():
    encoder = ImageMeanEncoder(orientation="upright")
    Encode(PictureEnv(orientation="upright"), [encoder])
    with pytest.raises(ValueError, match="'upright' for 'mean', got 'raw' of the env"):
        Encode(PictureEnv(orientation="raw"), [encoder])
    with pytest.raises(ValueError, match="got 'raw' of the env"):
        Encode(LiberoEnv(obs_type="pixels", orientation="raw"), [encoder])


def test_two_wrappers_stand_around_each_other():
    env = Encode(PictureEnv(), [ImageMeanEncoder()], keep=["agentview_image"])
    env = Encode(env, [ImageMeanEncoder(factor=10.0, key="tenfold")])
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"mean", "tenfold", "state"}
    np.testing.assert_allclose(observation["tenfold"], 10 * observation["mean"], rtol=1e-6)
