"""Several environments at once, under Gymnasium and under Stable-Baselines3."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import libero_reward_envs  # noqa: F401
from libero_reward_envs.factory import make_vec_env


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gym_make_vec(mode: str) -> None:
    envs = gym.make_vec(
        "Libero-v0", num_envs=2, vectorization_mode=mode, assets="builtin", max_episode_steps=4
    )
    observations, infos = envs.reset(seed=1)
    assert observations.shape == (2, 95)
    assert infos["init_state_id"][0] != infos["init_state_id"][1]
    truncations = []
    for _ in range(5):
        observations, _, _, truncated, _ = envs.step(envs.action_space.sample())
        truncations.append(truncated.tolist())
    assert truncations[3] == [True, True]
    assert np.isfinite(observations).all()
    envs.close()


@pytest.mark.parametrize("subprocesses", [False, True])
def test_sb3_vector_environments(subprocesses: bool) -> None:
    venv = make_vec_env(
        "Libero-v0",
        2,
        seed=3,
        subprocesses=subprocesses,
        assets="builtin",
        max_episode_steps=3,
        settle_steps=2,
    )
    assert isinstance(venv, SubprocVecEnv if subprocesses else DummyVecEnv)
    first = venv.reset()
    venv.seed(3)
    np.testing.assert_array_equal(first, venv.reset())
    steps = [venv.step(np.zeros((2, 7), np.float32)) for _ in range(3)]
    _, _, dones, infos = steps[-1]
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"].shape == (95,)
    assert infos[0]["episode"]["r"] == 0.0
    venv.close()


@pytest.mark.parametrize("subprocesses", [False, True])
def test_images_come_out_of_workers_unchanged(subprocesses: bool) -> None:
    keywords = {
        "assets": "builtin",
        "obs_type": "pixels",
        "image_size": 48,
        "cameras": ["agentview"],
        "settle_steps": 0,
    }
    venv = make_vec_env("Libero-v0", 2, seed=5, subprocesses=subprocesses, **keywords)
    images = venv.reset()["agentview_image"]  # pyright: ignore
    venv.close()
    env = gym.make("Libero-v0", **keywords)
    for index in (0, 1):
        alone, _ = env.reset(seed=5 + index)
        np.testing.assert_array_equal(images[index], alone["agentview_image"])
    env.close()


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="n_envs"):
        make_vec_env("Libero-v0", 0)


def test_a_forked_worker_says_so_instead_of_hanging_after_its_parent_drew() -> None:
    """In a process of its own: a worker that hangs would hang the tests."""
    code = (
        "import gymnasium as gym, libero_reward_envs\n"
        "keywords = dict(assets='builtin', obs_type='pixels', image_size=16, settle_steps=0)\n"
        "gym.make('Libero-v0', **keywords).reset(seed=0)\n"
        "envs = gym.make_vec('Libero-v0', 1, 'async', {'context': 'fork'}, **keywords)\n"
        "envs.reset(seed=0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "GL does not survive a fork" in done.stderr
