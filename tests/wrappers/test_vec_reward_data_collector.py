from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecTransposeImage

import libero_reward_envs  # noqa: F401 (registers the ids)
from libero_reward_envs.data import load_episodes
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.trajectory_files import read_trajectory
from libero_reward_envs.wrappers import VecRewardDataCollector


class Steps(gym.Env):
    """Shows 100 * env + 10 * episode + step; ends after `length` steps, solved if it is even."""

    observation_space = gym.spaces.Dict({"a": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)})
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, index, length):
        self.index, self.length, self.episode = index, length, -1

    def observe(self):
        value = 100 * self.index + 10 * self.episode + self.t
        return {"a": np.full((36, 36, 3), value, np.uint8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        solved = self.t == self.length and self.length % 2 == 0
        over = self.t == self.length and not solved
        return self.observe(), float(solved), solved, over, {"is_success": solved}


def make(folder, lengths=(4, 3), vec_env=DummyVecEnv, wrap=lambda venv: venv, **arguments):
    venv = vec_env([lambda i=i, n=n: Steps(i, n) for i, n in enumerate(lengths)])
    return VecRewardDataCollector(
        wrap(venv), folder / "positive", folder / "negative", ["a"], **arguments
    )


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_each_env_has_its_buffer_and_the_last_frame_is_the_terminal_one(tmp_path, vec_env):
    venv = make(tmp_path, vec_env=vec_env, storage="npy")
    venv.reset()
    for _ in range(9):
        venv.step(np.zeros((2, 2)))
    venv.close()
    values = {}
    for path in sorted(tmp_path.rglob("*.npy")):
        trajectory = read_trajectory(path)
        values[f"{path.parent.name}/{path.stem}"] = [
            np.rint(trajectory.images["a"][:, 0, 0, 0] * 255).astype(int).tolist(),
            trajectory.labels.tolist(),
        ]
    assert values == {
        "positive/000000": [[1, 2, 3, 4], [0, 0, 0, 1]],
        "positive/000001": [[11, 12, 13, 14], [0, 0, 0, 1]],
        "negative/000000": [[101, 102, 103], [0, 0, 0]],
        "negative/000001": [[111, 112, 113], [0, 0, 0]],
        "negative/000002": [[121, 122, 123], [0, 0, 0]],
    }
    assert venv.counts.unfinished == 1


def test_hdf5_episodes_keep_the_ends_apart(tmp_path):
    venv = make(tmp_path, storage="hdf5")
    venv.reset()
    for step in range(8):
        venv.step(np.full((2, 2), step / 10))
    venv.close()
    first, second = load_episodes(tmp_path / "positive/000000.hdf5")
    assert first.observations["a"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert second.observations["a"][:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]
    assert second.observations["is_success"].tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_allclose(second.actions[:, 0], [0.4, 0.5, 0.6, 0.7], rtol=1e-6)
    assert (second.terminated, second.success) == (True, True)
    failed = load_episodes(tmp_path / "negative/000000.hdf5")[0]
    assert (failed.terminated, failed.success) == (False, False)


def test_limits_count_all_envs_together(tmp_path):
    venv = make(tmp_path, (4, 4, 3), max_positive_trajectories=3, max_negative_trajectories=1)
    venv.reset()
    for _ in range(12):
        venv.step(np.zeros((3, 2)))
    venv.close()
    assert len(list((tmp_path / "positive").iterdir())) == 3
    assert len(list((tmp_path / "negative").iterdir())) == 1
    assert (venv.counts.positive_dropped, venv.counts.negative_dropped) == (3, 3)


def test_nothing_that_the_agent_sees_changes(tmp_path):
    plain: Any = DummyVecEnv([lambda i=i: Steps(i, 4) for i in range(2)])
    venv: Any = make(tmp_path, (4, 4))
    np.testing.assert_array_equal(plain.reset()["a"], venv.reset()["a"])
    for _ in range(9):
        ours, theirs = venv.step(np.zeros((2, 2))), plain.step(np.zeros((2, 2)))
        np.testing.assert_array_equal(ours[0]["a"], theirs[0]["a"])
        for left, right in zip(ours[1:3], theirs[1:3], strict=True):
            np.testing.assert_array_equal(left, right)
        assert [info.keys() for info in ours[3]] == [info.keys() for info in theirs[3]]


def test_transposed_images_give_the_same_files(tmp_path):
    for name, wrap in (("plain", lambda venv: venv), ("chw", VecTransposeImage)):
        venv = make(tmp_path / name, wrap=wrap, storage="npy")
        venv.reset()
        for _ in range(4):
            venv.step(np.zeros((2, 2)))
        venv.close()
    for path in (tmp_path / "plain").rglob("*.npy"):
        other = tmp_path / "chw" / path.relative_to(tmp_path / "plain")
        assert other.read_bytes() == path.read_bytes()


def test_a_step_before_the_reset_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="reset"):
        make(tmp_path).step(np.zeros((2, 2)))


def test_ppo_collects_while_it_learns(tmp_path):
    venv = make(tmp_path)
    PPO("MultiInputPolicy", venv, n_steps=16, batch_size=16, n_epochs=1).learn(64)
    venv.close()
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    assert [row.n_trajectories for row in dataset.statistics()] == [10, 8]


def test_libero_in_a_vector_is_collected(tmp_path):
    def make_libero():
        return gym.make(
            "Libero-v0", task=7, obs_type="pixels", image_size=64, assets="builtin",
            max_episode_steps=3,
        )  # fmt: skip

    key = "agentview_image"
    venv = VecRewardDataCollector(
        DummyVecEnv([make_libero]), tmp_path / "p", tmp_path / "n", [key], storage="npy"
    )
    venv.seed(0)
    venv.reset()
    observations: Any = None
    dones, infos = np.zeros(1, bool), []
    for _ in range(3):
        observations, _, dones, infos = venv.step(np.full((1, 7), 0.5, np.float32))
    venv.close()
    assert dones[0]
    images = read_trajectory(tmp_path / "n/000000.npy").images[key]
    last = infos[0]["terminal_observation"][key].transpose(2, 0, 1)
    np.testing.assert_array_equal(np.rint(images[-1] * 255), last)
    assert not np.array_equal(observations[key][0].transpose(2, 0, 1), last)
