"""A dataset as an environment, and what is trained on it."""

import pickle
import tracemalloc
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter
from libero_reward_envs.envs.offline_env import OfflineEnv


def make_episode(number, n_steps=4, success: Any = None, images=True, labels=None, **kwargs):
    """An episode whose numbers tell which it is and which step."""
    rng = np.random.default_rng(number)
    success = number % 2 == 0 if success is None else success
    observations: dict[str, np.ndarray] = {
        "state": rng.normal(size=(n_steps + 1, 3)).astype(np.float32)
    }
    observations["state"][:, 0] = 100 * number + np.arange(n_steps + 1, dtype=np.float32)
    if images:
        observations["a"] = rng.integers(0, 256, (n_steps + 1, 40, 36, 3), dtype=np.uint8)
    if labels is not None:
        observations["is_success"] = np.array([0, *labels], np.float32)
    rewards = np.zeros(n_steps)
    rewards[-1] = success
    return Episode(
        observations, rng.uniform(-1, 1, (n_steps, 7)),
        **{"rewards": rewards, "terminated": bool(success), "success": success,
           "task": f"suite/{number % 2}", "instruction": f"do {number % 2}", **kwargs},
    )  # fmt: skip


def make_dataset(n=4, **kwargs):
    return EpisodeDataset([make_episode(number, 3 + number, **kwargs) for number in range(n)])


def play(env, n_episodes=1, seed: int | None = 0):
    """The numbers of the episodes, in the order in which they come."""
    numbers = []
    for index in range(n_episodes):
        _, info = env.reset(seed=seed if index == 0 else None)
        numbers.append(info["episode"])
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
    return numbers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["sequential", "shuffled", "by_task"])
@pytest.mark.parametrize("keys", [None, ["state"]])
def test_conformance_checkers_pass(tmp_path, order, keys) -> None:
    with EpisodeWriter(tmp_path / "episodes.h5") as writer:
        for episode in make_dataset():
            writer.append(episode)
    arguments = {"dataset": str(tmp_path / "episodes.h5"), "order": order, "observation_keys": keys}
    env = gym.make("LiberoOffline-v0", **arguments)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env)
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again.unwrapped, OfflineEnv)
    assert again.observation_space == env.observation_space
    assert play(again, 5) == play(env, 5)


def test_every_step_is_the_recorded_one_whatever_the_action() -> None:
    dataset = make_dataset()
    env = OfflineEnv(dataset)
    for number, episode in enumerate(dataset):
        observation, info = env.reset()
        assert (info["episode"], info["step"], info["is_success"]) == (number, 0, False)
        for t in range(len(episode)):
            for key, values in episode.observations.items():
                np.testing.assert_array_equal(observation[key], values[t])
                assert observation[key].dtype == values.dtype
            observation, reward, terminated, truncated, info = env.step(np.full(7, 0.1))
            assert reward == info["reward/env"] == episode.rewards[t]
            np.testing.assert_array_equal(info["dataset_action"], episode.actions[t])
            last = t == len(episode) - 1
            assert (terminated, truncated) == (
                last and episode.terminated,
                last and not episode.terminated,
            )
            assert info["is_success"] is info["success_once"] is (last and episode.success)
            assert (info["task"], info["instruction"]) == (episode.task, episode.instruction)
            assert (info["episode"], info["step"]) == (number, t + 1)
        np.testing.assert_array_equal(observation["state"], episode.observations["state"][-1])
        with pytest.raises(RuntimeError, match="over after its"):
            env.step(np.zeros(7))


def test_what_it_gives_away_is_not_the_dataset() -> None:
    dataset = make_dataset(1)
    before = dataset[0].observations["state"].copy()
    env = OfflineEnv(dataset)
    env.reset()[0]["state"][:] = 7
    observation, *_, info = env.step(np.zeros(7))
    observation["state"][:] = 7
    info["dataset_action"][:] = 7
    np.testing.assert_array_equal(dataset[0].observations["state"], before)
    assert np.abs(dataset[0].actions).max() <= 1


def test_spaces_are_those_of_the_data() -> None:
    env = OfflineEnv(make_dataset(labels=None))
    assert env.observation_space["a"] == gym.spaces.Box(0, 255, (40, 36, 3), np.uint8)  # pyright: ignore
    assert env.action_space == gym.spaces.Box(-1, 1, (7,), np.float32)
    alone = OfflineEnv(make_dataset(), observation_keys=["state"])
    assert alone.observation_space == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert alone.reset()[0].shape == (3,)
    image = OfflineEnv(make_dataset(), observation_keys=["a"])
    assert isinstance(image.observation_space, gym.spaces.Dict)
    kinds = {
        "f8": np.zeros((3, 2)), "bool": np.zeros((3, 2), bool), "i8": np.zeros((3, 2), np.int64),
        "scalar": np.zeros(3, np.float32),
    }  # fmt: skip
    env = OfflineEnv(EpisodeDataset([Episode(kinds, np.zeros((2, 1)), np.zeros(2), False, False)]))
    check_env(env, skip_render_check=True)
    for key, values in kinds.items():
        assert env.reset()[0][key].dtype == values.dtype


def test_orders() -> None:
    sequential = OfflineEnv(make_dataset(3, images=False))
    assert play(sequential, 7) == [0, 1, 2, 0, 1, 2, 0]
    shuffled = OfflineEnv(make_dataset(9, images=False), order="shuffled")
    numbers = play(shuffled, 27)
    passes = [numbers[i : i + 9] for i in (0, 9, 18)]
    assert all(sorted(one) == list(range(9)) for one in passes)
    assert passes[0] != passes[1]
    # Task 0 has one episode, task 1 nine of them: each comes as often.
    episodes = [make_episode(0, images=False)]
    episodes += [make_episode(number, images=False) for number in range(1, 18, 2)]
    by_task = OfflineEnv(EpisodeDataset(episodes), order="by_task")
    numbers = play(by_task, 36)
    assert Counter(numbers) == {0: 18, **dict.fromkeys(range(1, 10), 2)}
    assert all(numbers[i : i + 2].count(0) == 1 for i in range(0, 36, 2))


@pytest.mark.parametrize("order", ["shuffled", "by_task"])
def test_the_seed_decides_the_order_and_begins_it_anew(order) -> None:
    env = OfflineEnv(make_dataset(9, images=False), order=order)
    first, other = play(env, 20, seed=1), play(env, 20, seed=2)
    assert play(env, 20, seed=1) == first != other
    twin = OfflineEnv(make_dataset(9, images=False), order=order)
    assert play(twin, 20, seed=1) == first
    saved = pickle.dumps(twin)
    follows = play(twin, 20, seed=None)  # the order goes on
    assert follows != first
    assert play(pickle.loads(saved), 20, seed=None) == follows


def test_an_episode_can_be_asked_for_and_the_order_goes_on_after_it() -> None:
    env = OfflineEnv(make_dataset(3))
    env.reset()
    assert env.reset(options={"episode": 2})[1]["episode"] == 2
    assert env.reset(options={"episode": np.int64(2)})[1]["episode"] == 2
    assert env.reset()[1]["episode"] == 1
    for wrong in (3, -1, "1", 0.5):
        with pytest.raises(ValueError, match=r"`episode` must be in 0\.\.2"):
            env.reset(options={"episode": wrong})
    with pytest.raises(ValueError, match="Unknown reset options"):
        env.reset(options={"init_state_id": 1})


@pytest.mark.parametrize(
    ("arguments", "expected", "once"),
    [
        ({"labels": [0, 1, 0.5, 0.4]}, [0, 1, 1, 0], True),
        # Its labels leave out the success: they stay as they are, and the end tells of it.
        ({"labels": [0, 0, 0, 0]}, [0, 0, 0, 0], True),
        ({"rewards": np.array([0, 1, 1, 0])}, [0, 1, 1, 0], True),
        ({"rewards": np.array([-3, -2, 1, 0])}, [0, 0, 0, 1], True),
        ({"rewards": np.zeros(4)}, [0, 0, 0, 1], True),
        ({"rewards": np.ones(4), "success": False}, [0, 0, 0, 0], False),
    ],
)
def test_success_of_each_step(arguments, expected, once) -> None:
    env = OfflineEnv(EpisodeDataset([make_episode(0, **{"success": True, **arguments})]))
    assert "is_success" not in env.reset()[0]
    infos = [env.step(np.zeros(7))[4] for _ in range(4)]
    assert [info["is_success"] for info in infos] == [bool(label) for label in expected]
    assert infos[-1]["success_once"] is once


def test_labels_are_read_though_they_are_no_observation() -> None:
    dataset = EpisodeDataset([make_episode(0, labels=[0, 1, 0, 0])])
    env = OfflineEnv(dataset, observation_keys=["state"])
    assert isinstance(env.observation_space, gym.spaces.Box)
    env.reset()
    assert [env.step(np.zeros(7))[4]["is_success"] for _ in range(4)] == [False, True, False, False]
    asked = OfflineEnv(dataset, observation_keys=["state", "is_success"])
    assert set(asked.observation_space) == {"state", "is_success"}  # pyright: ignore


def test_what_does_not_fit_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        OfflineEnv(EpisodeDataset([]))
    with pytest.raises(ValueError, match="Unknown order 'random'"):
        OfflineEnv(make_dataset(), order="random")
    with pytest.raises(ValueError, match="No observation 'b' in"):
        OfflineEnv(make_dataset(), observation_keys=["b"])
    labels = {"is_success": np.zeros(3)}, np.zeros((2, 7)), np.zeros(2)
    with pytest.raises(ValueError, match="No observation but the labels 'is_success' in episode 0"):
        OfflineEnv(EpisodeDataset([Episode(*labels, terminated=False, success=False)]))
    with pytest.raises(ValueError, match="No observation 'episode/return' in episode 0"):
        OfflineEnv(make_dataset(), observation_keys=["state", "episode/return"])
    with pytest.raises(ValueError, match="list of names"):
        OfflineEnv(make_dataset(), observation_keys="state")
    with pytest.raises(ValueError, match="for a path"):
        OfflineEnv(make_dataset(), load_kwargs={"on_error": "skip"})
    with pytest.raises(FileNotFoundError):
        OfflineEnv(tmp_path / "none.h5")
    env = OfflineEnv(make_dataset())
    with pytest.raises(RuntimeError, match=r"`reset\(\)` before"):
        env.step(np.zeros(7))
    env.reset()
    with pytest.raises(ValueError, match=r"an action of shape \(7,\), got \(6,\)"):
        env.step(np.zeros(6))
    with pytest.raises(ValueError, match="finite action"):
        env.step(np.full(7, np.nan))


def test_episodes_that_differ_are_refused_when_they_come() -> None:
    arrays = {"state": np.zeros((3, 4), np.float32)}, np.zeros((2, 7)), np.zeros(2)
    other = Episode(*arrays, terminated=False, success=False)
    env = OfflineEnv(EpisodeDataset([make_episode(0, images=False), other]))
    env.reset()
    with pytest.raises(ValueError, match=r"'state' of \(3,\) float32 .* got \(4,\) .* episode 1"):
        env.reset()
    short = make_episode(1, images=False)
    fewer = Episode(short.observations, short.actions[:, :6], short.rewards, False, False)
    env = OfflineEnv(EpisodeDataset([short, fewer]))
    with pytest.raises(ValueError, match=r"actions of shape \(7,\) .* got \(6,\) in episode 1"):
        env.reset(options={"episode": 1})


class _MadeWhenRead:
    """Ten episodes that exist only while somebody holds them."""

    def __len__(self):
        return 10

    def read(self, index, observation_keys=None):
        return make_episode(index, 400)

    def summaries(self):
        raise AssertionError("not needed to play one after the other")


def test_one_episode_at_a_time_is_in_memory() -> None:
    n_bytes = sum(value.nbytes for value in make_episode(0, 400).observations.values())
    env = OfflineEnv(EpisodeDataset(_MadeWhenRead()))
    tracemalloc.start()
    play(env, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.9 * n_bytes
