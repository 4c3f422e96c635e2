"""Agents by name: what is loaded, what it asks of the env, what is refused."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from libero_reward_envs.agents.evaluated_agents import check_agent, load_agent
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.evaluation.protocols import find_protocol
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA

OPENVLA = find_protocol("openvla")
SUITE = "libero_object"


class Still(gym.Env[Any, Any]):
    """Has the spaces of another env."""

    action_space = gym.spaces.Box(-1, 1, (7,), np.float32)

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def test_an_sb3_agent_acts_on_what_it_was_trained_on(tmp_path: Path) -> None:
    env = LiberoEnv(SUITE, 0)
    model = SAC("MlpPolicy", Still(env.observation_space), seed=0, buffer_size=10, device="cpu")
    model.save(tmp_path / "agent.zip")
    for named in (tmp_path, tmp_path / "agent.zip"):
        agent = load_agent(str(named), SUITE, OPENVLA)
        assert agent.env_arguments == {"obs_type": "state"}
        assert agent.description["kind"] == "SAC"
        check_agent(agent, env, env.task)
    states = [env.observation_space.sample() * 0 + 0.1 * k for k in range(3)]
    actions = agent.agent.act([0, 2, 5], states)
    expected = [model.predict(state, deterministic=True)[0] for state in states]
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    other = LiberoEnv("libero_goal", 0)
    with pytest.raises(ValueError, match=r"as the agent was trained on.*libero_goal"):
        check_agent(agent, other, other.task)


def test_an_sb3_agent_that_sees_pictures_gets_them(tmp_path: Path) -> None:
    env = LiberoEnv(SUITE, 0, obs_type="pixels", cameras=["agentview"], image_size=40)
    PPO(
        "MultiInputPolicy", Still(env.observation_space), n_steps=2, batch_size=2, device="cpu"
    ).save(tmp_path / "agent.zip")
    (tmp_path / "config.yaml").write_text("env:\n  orientation: raw\n")
    agent = load_agent(str(tmp_path), SUITE, OPENVLA)
    assert agent.env_arguments == {
        "obs_type": "pixels",
        "cameras": ["agentview"],
        "image_size": 40,
        "orientation": "raw",
    }
    check_agent(agent, env, env.task)
    images = {"agentview_image": np.zeros((40, 40, 3), np.uint8)}
    assert agent.agent.act([0, 1], [images, images]).shape == (2, 7)


def test_openvla_takes_the_suites_statistics_or_says_whose() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        agent = load_agent(TINY_OPENVLA, "libero_goal", OPENVLA, device="cpu")
    assert agent.description["unnorm_key"] == "libero_goal"
    assert agent.description["jpeg"] is True
    assert agent.env_arguments["cameras"] == ["agentview"]
    chosen = load_agent(TINY_OPENVLA, "libero_goal", OPENVLA, device="cpu", unnorm_key="libero_10")
    assert chosen.description["unnorm_key"] == "libero_10"


def test_what_is_no_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean 'expert'"):
        load_agent("expart", SUITE, OPENVLA)
    with pytest.raises(FileNotFoundError, match=r"No agent .*none\.zip"):
        load_agent(str(tmp_path / "none.zip"), SUITE, OPENVLA)
    with pytest.raises(ValueError, match=r"no options of OpenVLA.*dtype"):
        load_agent("expert", SUITE, OPENVLA, dtype="float32")
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="no agent of Stable-Baselines3"):
        load_agent(str(tmp_path / "bad.zip"), SUITE, OPENVLA)
    space = gym.spaces.Dict({"features": gym.spaces.Box(0, 1, (4,), np.float32)})
    SAC("MultiInputPolicy", Still(space), buffer_size=10, device="cpu").save(tmp_path / "f.zip")
    with pytest.raises(ValueError, match="sees LIBERO's state or pictures"):
        load_agent(str(tmp_path / "f.zip"), SUITE, OPENVLA)


def test_a_task_without_an_expert_is_refused() -> None:
    env = LiberoEnv("libero_90", 1)
    agent = load_agent("expert", "libero_90", OPENVLA)
    with pytest.raises(ValueError, match="There is no scripted expert"):
        check_agent(agent, env, env.task)
