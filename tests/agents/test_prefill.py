"""Recorded episodes in replay buffers."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from libero_reward_envs.agents import RelabelReplayBuffer, fill_replay_buffer
from libero_reward_envs.data import Episode, EpisodeDataset
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.wrappers import RewardMix

BOX = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (3, 4, 5), np.uint8)
DICT = gym.spaces.Dict({"image": IMAGE, "state": BOX})
ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)


class WayRewardModel:
    observation_keys = ("state",)

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        first, second = transitions.observations["state"], transitions.next_observations["state"]
        return second[:, 1] - first[:, 1] + np.float32(10) * transitions.terminated


class ShareRewardModel:
    observation_keys = ("episode/return", "episode/length")

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        known = transitions.observations
        return known["episode/return"] / known["episode/length"]


def make_episode(number: int, n_steps: int, terminated: bool = True) -> Episode:
    """Its states begin with the number of the episode and the step."""
    rng = np.random.default_rng(number)
    states = np.stack([np.full(n_steps + 1, number), np.arange(n_steps + 1) ** 2], 1)
    images = rng.integers(0, 255, (n_steps + 1, 4, 5, 3), np.uint8)
    return Episode(
        {"state": states.astype(np.float32), "image": images},
        rng.uniform(-1, 1, (n_steps, 2)),
        rng.normal(size=n_steps),
        terminated=terminated,
        success=terminated,
    )


EPISODES = [make_episode(0, 5), make_episode(1, 3, terminated=False), make_episode(2, 1)]


def make_buffers(n_envs: int = 1, size: int = 100) -> list[Any]:
    relabel: dict[str, Any] = {"reward_model": WayRewardModel()}
    return [
        ReplayBuffer(size, BOX, ACTIONS, "cpu", n_envs),
        NStepReplayBuffer(size, BOX, ACTIONS, "cpu", n_envs, n_steps=3),
        DictReplayBuffer(size, DICT, ACTIONS, "cpu", n_envs),
        RelabelReplayBuffer(size, BOX, ACTIONS, "cpu", n_envs, **relabel),
        RelabelReplayBuffer(size, DICT, ACTIONS, "cpu", n_envs, **relabel, n_steps=3),
    ]


def states_of(buffer: ReplayBuffer, side: str = "observations") -> np.ndarray:
    found = getattr(buffer, side)
    return found["state"] if isinstance(found, dict) else found


@pytest.mark.parametrize("kind", range(5))
def test_all_transitions_arrive_as_they_were(kind: int) -> None:
    buffer = make_buffers()[kind]
    assert fill_replay_buffer(buffer, EpisodeDataset(EPISODES)) == buffer.pos == 9
    parts = [episode.transitions() for episode in EPISODES]
    rows = slice(0, 9)
    for name in ("observations", "next_observations"):
        expected = np.concatenate([getattr(part, name)["state"] for part in parts])
        np.testing.assert_array_equal(states_of(buffer, name)[rows, 0], expected)
        if isinstance(getattr(buffer, name), dict) and "image" in getattr(buffer, name):
            images = np.concatenate([getattr(part, name)["image"] for part in parts])
            stored = getattr(buffer, name)["image"][rows, 0]
            np.testing.assert_array_equal(stored, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(
        buffer.actions[rows, 0], np.concatenate([part.actions for part in parts])
    )
    np.testing.assert_array_equal(
        buffer.rewards[rows, 0], np.concatenate([episode.rewards for episode in EPISODES])
    )
    assert buffer.dones[rows, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 1]
    assert buffer.timeouts[rows, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    if isinstance(buffer, RelabelReplayBuffer):
        assert buffer.lengths.tolist() == [5, 3, 1]
        returns = [episode.episode_return for episode in EPISODES]
        np.testing.assert_allclose(buffer.returns, returns)
        assert buffer.terminated[rows, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_rewards_are_the_models_where_the_buffer_has_none() -> None:
    rewards = []
    for options in ({}, {"reward_mix": RewardMix("mix", 0.5, 2.0, 0.1)}):
        buffer = make_buffers()[0]
        fill_replay_buffer(buffer, EPISODES, WayRewardModel(), **options)
        rewards.append(buffer.rewards[:9, 0].copy())
    np.testing.assert_array_equal(rewards[0], [1, 3, 5, 7, 19, 1, 3, 5, 11])
    own = np.concatenate([episode.rewards for episode in EPISODES])
    np.testing.assert_allclose(rewards[1], 0.5 * own + 2 * rewards[0] - 0.1, rtol=1e-6)
    buffer = make_buffers()[0]
    fill_replay_buffer(buffer, EPISODES, ShareRewardModel())
    shares = [np.full(len(e), e.episode_return / len(e)) for e in EPISODES]
    np.testing.assert_allclose(buffer.rewards[:9, 0], np.concatenate(shares), rtol=1e-5)


def test_a_relabelling_buffer_gives_its_models_rewards() -> None:
    for relabel in ("always", "never"):
        model = WayRewardModel()
        buffer = RelabelReplayBuffer(100, BOX, ACTIONS, "cpu", reward_model=model, relabel=relabel)
        fill_replay_buffer(buffer, EPISODES, model)
        samples = buffer.sample(200)
        expected = [1, 3, 5, 7, 19, 1, 3, 5, 11]
        for observation, reward in zip(samples.observations, samples.rewards, strict=True):
            episode, step = int(observation[0]), int(observation[1] ** 0.5)
            assert reward == expected[[0, 5, 8][episode] + step]


@pytest.mark.parametrize("n_envs", [2, 3, 5])
@pytest.mark.parametrize("kind", range(5))
def test_with_several_envs_columns_are_filled_up_with_beginnings(kind: int, n_envs: int) -> None:
    buffer = make_buffers(n_envs)[kind]
    n_added = fill_replay_buffer(buffer, EPISODES)
    n_rows = 5  # the longest column: that of the first episode
    assert (buffer.pos, n_added) == (n_rows, n_rows * n_envs)
    first, second = states_of(buffer), states_of(buffer, "next_observations")
    whole = set()
    for column in range(n_envs):
        begins = 0
        for row in range(n_rows):
            episode, step = int(first[row, column, 0]), row - begins
            assert first[row, column].tolist() == [episode, step**2]
            assert second[row, column].tolist() == [episode, (step + 1) ** 2]
            assert buffer.rewards[row, column] == EPISODES[episode].rewards[step]
            last = step == len(EPISODES[episode]) - 1
            terminated = last and EPISODES[episode].terminated
            cut = row == n_rows - 1 and not last
            bootstraps = buffer.timeouts[row, column] == 1
            assert bootstraps == (cut or (last and not terminated))
            knows = isinstance(buffer, RelabelReplayBuffer)
            assert buffer.dones[row, column] == (last or (cut and not knows))
            if last:
                whole.add(episode)
                begins = row + 1
    assert whole == {0, 1, 2}
    if isinstance(buffer, RelabelReplayBuffer):
        returns = {round(episode.episode_return, 5) for episode in EPISODES}
        assert {round(number, 5) for number in buffer.returns} == returns


def test_episodes_of_an_agent_that_was_in_between_do_not_count() -> None:
    buffer = make_buffers()[3]
    observation = np.zeros((1, 2), np.float32)
    buffer.add(observation, observation, np.zeros((1, 2)), np.ones(1), np.zeros(1), [{}])
    fill_replay_buffer(buffer, EPISODES)
    assert buffer.lengths.tolist() == [5, 3, 1]
    assert buffer.timeouts[0, 0] == 1


def test_observations_that_nobody_wants_are_not_read() -> None:
    class Source:
        def __init__(self) -> None:
            self.keys: set[tuple[str, ...]] = set()

        def __len__(self) -> int:
            return 3

        def read(self, index: int, observation_keys: Any = None) -> Episode:
            self.keys.add(tuple(observation_keys))
            return EPISODES[index].select(observation_keys)

        def summaries(self) -> list[Any]:
            return [episode.summary() for episode in EPISODES]

    source = Source()
    fill_replay_buffer(make_buffers()[0], EpisodeDataset(source), WayRewardModel())
    fill_replay_buffer(make_buffers()[0], EpisodeDataset(source), ShareRewardModel())
    assert source.keys == {("state",)}


def test_more_than_fits_is_warned_of_and_keeps_the_last() -> None:
    buffer = make_buffers(size=6)[3]
    with pytest.warns(UserWarning, match="take 9 rows of 1 transitions, the buffer has 6"):
        assert fill_replay_buffer(buffer, EPISODES) == 9
    assert buffer.lengths.tolist() == [3, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill_replay_buffer(make_buffers(size=9)[3], EPISODES)


def test_what_does_not_fit_is_refused() -> None:
    plain, relabel = make_buffers()[0], make_buffers()[3]
    without = [episode.select(["image"]) for episode in EPISODES]
    other_box = ReplayBuffer(9, gym.spaces.Box(-1, 1, (3,), np.float32), ACTIONS, "cpu")
    other_image = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (3, 5, 4), np.uint8)})
    bytes_only = ReplayBuffer(9, gym.spaces.Box(0, 255, (2,), np.uint8), ACTIONS, "cpu")
    other_actions = ReplayBuffer(9, BOX, gym.spaces.Box(-1, 1, (3,), np.float32), "cpu")
    discrete = ReplayBuffer(9, BOX, gym.spaces.Discrete(3), "cpu")
    cases = [
        (plain, without, {}, r"No observation 'state' in the episode. It has: image"),
        (other_box, EPISODES, {}, r"Expected \(3,\) float32 of 'state' in episode 0, got \(2,\)"),
        (DictReplayBuffer(9, other_image, ACTIONS, "cpu"), EPISODES, {}, r"got \(3, 4, 5\) uint8"),
        (bytes_only, EPISODES, {}, r"\(2,\) uint8 of 'state' .* got \(2,\) float32"),
        (other_actions, EPISODES, {}, "Expected 3 actions, got 2"),
        (discrete, EPISODES, {}, "action space of vectors"),
        (plain, [], {}, "at least one episode"),
        (plain, EPISODES, {"reward_mix": RewardMix()}, "Expected a `reward_model`"),
        (relabel, EPISODES, {"reward_model": WayRewardModel()}, "computes rewards itself"),
        (relabel, EPISODES, {"reward_mix": RewardMix()}, "computes rewards itself"),
    ]
    for buffer, episodes, options, message in cases:
        with pytest.raises(ValueError, match=message):
            fill_replay_buffer(buffer, episodes, **options)
        assert buffer.size() == 0
    with pytest.raises(TypeError, match="replay buffer of Stable-Baselines3, got list"):
        fill_replay_buffer([], EPISODES)  # pyright: ignore[reportArgumentType]  # on purpose
