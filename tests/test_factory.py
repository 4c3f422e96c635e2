"""`LiberoRRD-v0` and stacked wrappers, with unmodified Stable-Baselines3 agents."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, load_env_creator
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecEnvWrapper

import libero_reward_envs
from libero_reward_envs.factory import find_pretrained, make_vec_env
from libero_reward_envs.reward_models.base import load_reward_model
from libero_reward_envs.wrappers import LearnedReward

KEYWORDS = {"assets": "builtin", "settle_steps": 2}


def test_the_default_task_has_a_model_and_another_one_says_how_to_train_it() -> None:
    env = gym.make("LiberoRRD-v0", **KEYWORDS)
    assert env.get_wrapper_attr("reward_model").observation_keys == ("state",)
    with pytest.raises(
        ValueError, match=r"(?s)libero-reward train-rrd.*reward_model=.reward."
    ) as error:
        gym.make("LiberoRRD-v0", task="libero_goal/turn_on_the_stove")
    assert "collect --task libero_goal/turn_on_the_stove" in str(error.value)


def test_every_reward_is_the_models_and_the_true_one_survives() -> None:
    env = gym.make("LiberoRRD-v0", **KEYWORDS)
    env.reset(seed=0)
    for _ in range(5):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == info["reward/total"] == info["reward/model"]
        assert info["reward/env"] == 0.0
        assert not terminated
        assert not truncated
    assert env.get_wrapper_attr("reward_mix").n_changed == 5
    env.close()


def test_the_spec_makes_the_same_environment_again() -> None:
    env = gym.make("LiberoRRD-v0", mode="mix", env_weight=10.0, **KEYWORDS)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec is not None
    assert again.spec.max_episode_steps == 280
    assert again.get_wrapper_attr("reward_mix").env_weight == 10.0
    wrappers = 0
    while isinstance(again, gym.Wrapper):
        wrappers += isinstance(again, LearnedReward)
        again = again.env
    assert wrappers == 1


def test_a_missing_or_damaged_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match="nowhere"):
        gym.make("LiberoRRD-v0", reward_model=str(tmp_path / "nowhere"), **KEYWORDS).reset()
    shipped = find_pretrained("rrd", libero_reward_envs.find_task())
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in shipped.iterdir():
        content = path.read_bytes()
        (broken / path.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="broken"):
        gym.make("LiberoRRD-v0", reward_model=str(broken), **KEYWORDS).reset(seed=0)


def test_sac_trains_on_it_with_no_other_line_of_code() -> None:
    agent = SAC("MlpPolicy", "libero_reward_envs:LiberoRRD-v0", learning_starts=100, seed=0)
    agent.learn(150)
    assert agent.num_timesteps == 150
    assert agent.replay_buffer is not None
    rewards = agent.replay_buffer.rewards[:150]  # pyright: ignore[reportAttributeAccessIssue]
    assert (rewards < 0).all()  # the shipped model costs at every step


def test_ppo_trains_on_it_with_no_other_line_of_code() -> None:
    agent = PPO("MlpPolicy", "libero_reward_envs:LiberoRRD-v0", n_steps=64, batch_size=32, seed=0)
    agent.learn(64)
    assert agent.num_timesteps == 64


def test_vector_and_single_rewards_are_one_number() -> None:
    model = load_reward_model(find_pretrained("rrd", libero_reward_envs.find_task()))
    venv = make_vec_env("Libero-v0", 2, seed=4, reward_model=model, **KEYWORDS)  # pyright: ignore
    assert isinstance(venv, VecEnvWrapper)
    venv.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 7)).astype(np.float32)
    in_vector = np.stack([venv.step(action)[1] for action in actions])
    venv.close()
    env = gym.make("LiberoRRD-v0", **KEYWORDS)
    for index in (0, 1):
        env.reset(seed=4 + index)
        alone = np.array([env.step(action[index])[1] for action in actions], np.float32)
        np.testing.assert_array_equal(alone, in_vector[:, index])
    env.close()


def test_the_shipped_model_tells_success_from_failure_at_equal_length() -> None:
    """What its card says of held-out episodes, which were not used to fit it."""
    model = load_reward_model(find_pretrained("rrd", libero_reward_envs.find_task()))
    quality = model.training["holdout"]  # pyright: ignore[reportAttributeAccessIssue]
    assert quality["n_episodes"] >= 20


def test_a_window_is_opened_by_gymnasiums_wrapper() -> None:
    env = gym.make("LiberoRRD-v0", render_mode="rgb_array", **KEYWORDS)
    assert env.render_mode == "rgb_array"
    creator = load_env_creator(str(gym.spec("LiberoRRD-v0").entry_point))
    assert creator.metadata["render_modes"] == ["rgb_array"]  # pyright: ignore
