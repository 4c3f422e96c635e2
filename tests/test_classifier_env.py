"""`LiberoClassifier-v0`, with a classifier that is small and not trained."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import libero_reward_envs
from libero_reward_envs.envs import tasks
from libero_reward_envs.factory import choose_images, make_vec_env
from libero_reward_envs.reward_models.base import load_reward_model
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_files import load_classifier
from libero_reward_envs.reward_models.classifier_pt import write_checkpoint_pt

libero_reward_envs.register_envs()

SIZE = 36  # the smallest that Stable-Baselines3's convolutional network takes
KEYWORDS = {"assets": "builtin", "settle_steps": 2}


def make_network(keys=("agentview_image",), size=SIZE):
    return BinaryRewardClassifier(
        keys, [3, size, size], 32, 2, use_pretrain=False, freeze_encoder=False
    )


@pytest.fixture(scope="module")
def network():
    return make_network().eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    model = ClassifierRewardModel.from_classifier(network, reward_type="continuous")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def env(folder):
    env = gym.make("LiberoClassifier-v0", reward_model=folder, **KEYWORDS)
    yield env
    env.close()


def test_images_are_those_of_the_classifier_and_rewards_its_own(env, folder):
    assert list(env.observation_space) == ["agentview_image"]
    assert env.observation_space["agentview_image"].shape == (SIZE, SIZE, 3)
    env.reset(seed=0)
    model = load_classifier(folder)
    for _ in range(3):
        observation, reward, _, _, info = env.step(env.action_space.sample())
        images = {key: image[None] for key, image in observation.items()}
        assert reward == pytest.approx(float(model.compute_probability(images)[0]), abs=1e-6)
        assert 0 < reward < 1
        assert info["reward/env"] == 0.0
        assert info["is_success"] is False


def test_both_conformance_checkers_pass(env):
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env, warn=False)


def test_a_pt_checkpoint_serves_too(network, tmp_path):
    path = tmp_path / "reward_model.pt"
    write_checkpoint_pt(path, network, epoch=3, train_loss=0.1, train_acc=0.9)
    kind = {"reward_model": str(path), "reward_type": "continuous"}
    env = gym.make("LiberoClassifier-v0", **kind, **KEYWORDS)
    env.reset(seed=0)
    observation, reward, *_ = env.step(env.action_space.sample())
    images = {key: image[None] for key, image in observation.items()}
    model = load_reward_model(path)
    assert isinstance(model, ClassifierRewardModel)
    assert reward == pytest.approx(float(model.compute_probability(images)[0]), abs=1e-6)
    env.close()
    with pytest.raises(FileNotFoundError):
        gym.make("LiberoClassifier-v0", reward_model=str(tmp_path / "nowhere.pt"))


def test_modes_and_arguments_of_the_env_are_passed_on_and_stay_json(folder):
    keywords = {
        "task": 1,
        "reward_model": folder,
        "mode": "success",
        "success_window": [3, 4],
        "obs_type": "pixels_state",
        "cameras": ["robot0_eye_in_hand", "agentview"],
    }
    env = gym.make("LiberoClassifier-v0", **keywords)
    space: Any = env.observation_space
    assert set(space) == {"state", "agentview_image", "robot0_eye_in_hand_image"}
    mix = env.get_wrapper_attr("reward_mix")
    assert (mix.mode, mix.success_window) == ("success", (3, 4))
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"] == keywords
    again = gym.make(EnvSpec.from_json(text))
    assert again.get_wrapper_attr("reward_mix").settings == mix.settings


def test_orientation_is_that_of_the_training_data():
    config = {"image_keys": ["agentview_image"], "image_size": [3, 64, 64]}
    config["training"] = {"orientation": "vla180"}
    assert choose_images(config, {})["orientation"] == "vla180"
    with pytest.raises(ValueError, match="trained with orientation='vla180', got 'raw'"):
        choose_images(config, {"orientation": "raw"})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_size": 128}, f"trained with image_size={SIZE}, got 128"),
        ({"cameras": ["robot0_eye_in_hand"]}, "cameras=.*agentview.*got .*eye_in_hand"),
        ({"obs_type": "state"}, "trained with obs_type='pixels', got 'state'"),
        ({"reward_type": "float"}, "reward_type"),
    ],
)
def test_what_contradicts_the_classifier_is_refused(folder, keywords, message):
    with pytest.raises(ValueError, match=message):
        gym.make("LiberoClassifier-v0", reward_model=folder, **keywords).reset()


def test_a_classifier_is_needed_and_must_be_one_of_libero_images(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)train-classifier.*reward_model='classifier'"):
        gym.make("LiberoClassifier-v0")
    model = ClassifierRewardModel.from_classifier(make_network(["base_camera"]).eval())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"of one size .* 36 x 36 pixels of 'base_camera'"):
        gym.make("LiberoClassifier-v0", reward_model=str(tmp_path))
    from libero_reward_envs.factory import PRETRAINED_FOLDER

    rrd = next((PRETRAINED_FOLDER / "rrd").glob("*/*/config.json")).parent
    with pytest.raises(ValueError, match=r"Expected a success classifier .* got a RRDRewardModel"):
        gym.make("LiberoClassifier-v0", reward_model=str(rrd))


def test_ppo_learns_from_pixels_with_no_code_of_its_own(folder):
    env = gym.make("LiberoClassifier-v0", reward_model=folder, max_episode_steps=6, **KEYWORDS)
    agent = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    agent.learn(8)
    rewards = agent.rollout_buffer.rewards
    assert np.all((rewards > 0) & (rewards < 1))
    env.close()


def test_a_vector_of_envs_is_scored_together(folder):
    venv = make_vec_env(
        "Libero-v0",
        2,
        reward_model=folder,
        reward_kwargs={"mode": "difference"},
        subprocesses=False,
        obs_type="pixels",
        cameras=["agentview"],
        image_size=SIZE,
        **KEYWORDS,
    )
    first: Any = venv.reset()
    model = load_classifier(folder)
    before = model.compute_probability(first)
    results: Any = venv.step(np.zeros((2, 7), np.float32))
    observations, rewards, *_ = results
    np.testing.assert_allclose(rewards, model.compute_probability(observations) - before, atol=1e-6)
    venv.close()


def test_success_is_left_time_to_be_seen(folder):
    kind = {"reward_model": folder, "mode": "success", **KEYWORDS}
    assert gym.make("LiberoClassifier-v0", **kind).unwrapped.terminate_on_success is False  # pyright: ignore
    at_once = gym.make("LiberoClassifier-v0", success_window=[1, 1], **kind)
    assert at_once.unwrapped.terminate_on_success is True  # pyright: ignore
    with pytest.raises(ValueError, match="the env would end before success is seen"):
        gym.make("LiberoClassifier-v0", terminate_on_success=True, **kind)


def test_the_end_that_is_paid_is_seen(folder, monkeypatch):
    monkeypatch.setitem(tasks.STEP_LIMITS, "libero_object", 3)
    env = gym.make("LiberoClassifier-v0", reward_model=folder, mode="terminal", **KEYWORDS)
    env.reset(seed=0)
    rewards, truncated = [], False
    for _ in range(env.unwrapped.task.max_episode_steps):  # pyright: ignore
        _, reward, _, truncated, _ = env.step(env.action_space.sample())
        rewards.append(reward)
    assert truncated
    assert rewards[:2] == [0.0, 0.0]
    assert rewards[-1] > 0
    env.close()


def test_a_vector_takes_a_model_with_an_id_that_has_none(folder):
    with pytest.raises(ValueError, match=r"has a learned reward of its own.*'Libero-v0'"):
        make_vec_env("LiberoClassifier-v0", 2, reward_model=folder)
