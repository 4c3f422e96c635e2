"""Rewards learned from, and labels taken of, a dataset that is replayed as an environment."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.agents import RelabelReplayBuffer
from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.envs.offline_env import OfflineEnv
from libero_reward_envs.factory import make_vec_env
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import (
    LearnedReward,
    RecordEpisodes,
    RewardDataCollector,
    VecLearnedReward,
)


def make_episode(number, n_steps=4, success=None, labels=None):
    """An episode whose numbers tell which it is; every second one is a success."""
    rng = np.random.default_rng(number)
    success = number % 2 == 0 if success is None else success
    observations = {
        "state": rng.normal(size=(n_steps + 1, 3)).astype(np.float32),
        "a": rng.integers(0, 256, (n_steps + 1, 40, 36, 3), dtype=np.uint8),
    }
    if labels is not None:
        observations["is_success"] = np.array([0, *labels], np.float32)
    rewards = np.zeros(n_steps)
    rewards[-1] = success
    return Episode(observations, rng.uniform(-1, 1, (n_steps, 7)), rewards, success, success)


def make_dataset(n=4):
    return EpisodeDataset([make_episode(number, 3 + number) for number in range(n)])


def play(env, n_episodes):
    """Play episodes with actions of its own."""
    for _ in range(n_episodes):
        env.reset()
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated


def test_rrd_trains_on_what_is_replayed() -> None:
    dataset = make_dataset(6)
    model = RRDRewardModel({"state": (3,)}, 7)
    before = model.get_weights()
    env = LearnedReward(OfflineEnv(dataset), model, online=True)
    env.action_space.seed(0)
    play(env, 6)
    offline = EpisodeStore.from_dataset(dataset, ["state"])
    training = env.get_wrapper_attr("online_training")
    assert training.store.compute_digest() == offline.compute_digest()
    assert training.n_steps > 0
    assert any(not np.array_equal(before[name], new) for name, new in model.get_weights().items())
    # The same through a time limit and a recorder, which see the recorded actions too.
    recorded: list[Episode] = []
    env = RecordEpisodes(gym.wrappers.TimeLimit(OfflineEnv(dataset), 100), recorded.append)
    play(LearnedReward(env, RRDRewardModel({"state": (3,)}, 7)), 6)
    assert EpisodeStore.from_dataset(recorded, ["state", "a"]).compute_digest() == (
        EpisodeStore.from_dataset(dataset, ["state", "a"]).compute_digest()
    )
    assert [episode.success for episode in recorded] == [episode.success for episode in dataset]


def test_learned_rewards_are_those_of_the_recorded_transitions() -> None:
    (episode,) = make_dataset(1)
    model = RRDRewardModel({"state": (3,)}, 7, seed=3)
    env = LearnedReward(OfflineEnv(EpisodeDataset([episode])), model)
    env.reset()
    rewards = [env.step(np.ones(7))[1] for _ in range(len(episode))]
    np.testing.assert_allclose(rewards, model.compute_reward(episode.transitions()), atol=1e-6)


def test_a_vector_trains_on_what_is_replayed() -> None:
    parts = [make_dataset(6)[:3], make_dataset(6)[3:]]
    venv = DummyVecEnv([lambda part=part: OfflineEnv(part) for part in parts])  # pyright: ignore
    model = RRDRewardModel({"state": (3,)}, 7)
    learning = VecLearnedReward(venv, model, online=True)
    learning.reset()
    for _ in range(3 + 4 + 5):
        learning.step(np.zeros((2, 7), np.float32))
    assert learning.online_training is not None
    store = learning.online_training.store
    offline = EpisodeStore.from_dataset(make_dataset(6), ["state"])
    assert store.lengths.tolist() == [3, 6, 4, 5]  # 7 + 5 steps of the second part are not over
    for index, number in enumerate([0, 3, 1, 2]):
        got, expected = store.episode(index), offline.episode(number)
        for field in ("actions", "terminated"):
            np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
        for field in ("observations", "next_observations"):
            np.testing.assert_array_equal(
                getattr(got, field)["state"], getattr(expected, field)["state"]
            )


def test_make_vec_env_makes_it_with_a_learned_reward(tmp_path) -> None:
    with EpisodeWriter(tmp_path / "episodes.h5") as writer:
        for episode in make_dataset():
            writer.append(episode)
    model = RRDRewardModel({"state": (3,)}, 7)  # of the two observations it reads one
    path = str(tmp_path / "episodes.h5")
    venv = make_vec_env(
        "LiberoOffline-v0", 2, seed=0, reward_model=model, dataset=path, order="shuffled",
        subprocesses=False,
    )  # fmt: skip
    venv.reset()
    *_, infos = venv.step(np.zeros((2, 7), np.float32))
    assert all("reward/model" in info and "dataset_action" in info for info in infos)
    venv.close()


@pytest.mark.parametrize("storage", ["npy", "hdf5"])
def test_a_collector_writes_the_labels_of_the_dataset(tmp_path, storage) -> None:
    labels = [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    episodes = [
        make_episode(number, labels=row, success=bool(max(row)))
        for number, row in enumerate(labels)
    ]
    folders = tmp_path / "positive", tmp_path / "negative"
    env = RewardDataCollector(
        OfflineEnv(EpisodeDataset(episodes)), *folders, ["a"], storage=storage
    )
    play(env, 4)
    env.close()
    assert (env.counts.positive_saved, env.counts.negative_saved) == (2, 2)
    dataset = RewardDataset(*folders, image_keys="a")
    assert sorted(source.labels.tolist() for source in dataset.sources) == sorted(labels)
    for index in range(len(dataset)):
        trajectory, step = dataset.locate(index)
        row = dataset.sources[trajectory].labels.tolist()
        frames = [
            episode.observations["a"][step + 1].transpose(2, 0, 1)
            for episode, its_labels in zip(episodes, labels, strict=True)
            if its_labels == row
        ]
        assert any(np.array_equal(dataset[index][0]["a"].numpy(), frame) for frame in frames)


def test_a_replay_buffer_holds_the_recorded_actions() -> None:
    (episode,) = make_dataset(1)
    env = OfflineEnv(EpisodeDataset([episode]), observation_keys=["state"])
    buffer = RelabelReplayBuffer(
        8, env.observation_space, env.action_space, "cpu",
        reward_model=RRDRewardModel({"state": (3,)}, 7),
    )  # fmt: skip
    observation, _ = env.reset()
    for _ in range(len(episode)):
        action = env.action_space.sample()
        following, reward, terminated, truncated, info = env.step(action)
        done = np.array([terminated or truncated])
        buffer.add(
            observation[None], following[None], action[None], np.array([reward]), done, [info]
        )
        observation = following
    np.testing.assert_array_equal(buffer.actions[: len(episode), 0], episode.actions)
