import importlib.metadata

import gymnasium as gym
import numpy as np
import pytest

from libero_reward_envs.data import EpisodeWriter, load_episodes
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.wrappers.record_episodes import RecordEpisodes

MILK = find_task("libero_object", 7)


class Counter(gym.Env):
    """Observes the number of its step in an array that it uses again; solved at step 3."""

    observation_space = gym.spaces.Box(0, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self):
        self.observation = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation[:] = 0
        return self.observation, {}

    def step(self, action):
        self.observation += 1
        solved = bool(self.observation[0] == 3)
        info = {"is_success": solved, "reward/env": float(solved)}
        return self.observation, 10.0, solved, False, info


def test_an_episode_of_libero_is_recorded_whole(make_env):
    episodes = []
    plain = gym.wrappers.TimeLimit(make_env(task=MILK.name), 5)
    env = RecordEpisodes(plain, episodes.append, {"policy": "mine"})
    rng = np.random.default_rng(0)
    seen, actions = [env.reset(seed=3, options={"init_state_id": 4})[0]], []
    for _ in range(5):
        actions.append(rng.uniform(-1, 1, 7).astype(np.float32))
        seen.append(env.step(actions[-1])[0])
    (episode,) = episodes
    np.testing.assert_array_equal(episode.observations["state"], np.stack(seen))
    np.testing.assert_array_equal(episode.actions, np.stack(actions))
    np.testing.assert_array_equal(episode.rewards, np.zeros(5))
    assert (episode.terminated, episode.success) == (False, False)
    assert (episode.task, episode.instruction) == (MILK.id, MILK.instruction)
    told = {
        "suite": "libero_object",
        "init_state_id": 4,
        "seed": 3,
        "assets": "builtin",
        "control_freq_hz": 20,
        "orientation": "upright",
        "obs_type": "state",
        "policy": "mine",
    }
    assert {name: episode.metadata[name] for name in told} == told
    assert "OSC_POSE" in episode.metadata["action_convention"]
    assert episode.metadata["versions"]["mujoco"] == importlib.metadata.version("mujoco")
    assert {"robosuite", "hf-libero", "libero-reward-envs"} <= episode.metadata["versions"].keys()


def test_recorded_are_the_envs_own_reward_and_copies_of_observations():
    episodes = []
    env = RecordEpisodes(Counter(), episodes.append)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(2))
    np.testing.assert_array_equal(episodes[0].observations["state"][:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(episodes[0].rewards, [0, 0, 1])
    assert episodes[0].terminated
    assert episodes[0].success


def test_an_episode_that_did_not_end_is_discarded():
    episodes = []
    env = RecordEpisodes(Counter(), episodes.append)
    for n_steps in (2, 1, 3):
        env.reset()
        for _ in range(n_steps):
            env.step(np.zeros(2))
    env.reset()
    env.step(np.zeros(2))
    env.close()
    assert [len(episode) for episode in episodes] == [3]


def test_episodes_go_to_a_file(tmp_path):
    path = tmp_path / "episodes.h5"
    with EpisodeWriter(path) as writer:
        env = RecordEpisodes(Counter(), writer)
        for _ in range(2):
            env.reset(seed=1)
            for _ in range(3):
                env.step(np.full(2, 0.5))
    assert [episode.success for episode in load_episodes(path)] == [True, True]


def test_metadata_may_change_between_episodes():
    episodes = []
    env = RecordEpisodes(Counter(), episodes.append)
    for policy in ("a", "b"):
        env.episode_metadata = {"policy": policy}
        env.reset()
        for _ in range(3):
            env.step(np.zeros(2))
    assert [episode.metadata["policy"] for episode in episodes] == ["a", "b"]


def test_actions_outside_of_one_are_refused_at_once():
    with pytest.raises(ValueError, match="RescaleAction"):
        RecordEpisodes(gym.make("Pendulum-v1"), print)
