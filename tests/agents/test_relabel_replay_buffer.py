"""Rewards that are computed when transitions are sampled."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch

from libero_reward_envs.agents import RelabelReplayBuffer

ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)


class EffortRewardModel:
    """-|a|^2"""

    def __init__(self, key="state"):
        self.observation_keys = (key,)

    def compute_reward(self, transitions):
        return -np.square(transitions.actions).sum(1)


class WayRewardModel:
    """Reads all of a transition; its scale stands for weights that change."""

    def __init__(self, key="state", scale=1.0):
        self.observation_keys = (key,)
        self.scale = np.float32(scale)
        self.n_rows = 0

    def compute_reward(self, transitions):
        self.n_rows += len(transitions.actions)
        key = self.observation_keys[0]
        way = transitions.next_observations[key][:, 1] - transitions.observations[key][:, 1]
        end = np.float32(10) * transitions.terminated
        return self.scale * (way + end + transitions.actions[:, 0])


class ShareRewardModel:
    observation_keys = ("episode/return", "episode/length")

    def compute_reward(self, transitions):
        known = transitions.observations
        assert known.keys() == transitions.next_observations.keys() == set(self.observation_keys)
        return known["episode/return"] / known["episode/length"]


def expected_reward(step, scale=1.0):
    end = 10 * (step.done and not step.truncated)
    return scale * (step.next_observation[1] - step.observation[1] + end + step.action[0])


def make(replay_spaces, reward_model, size=60, n_envs=1, observations="box", **options):
    space = replay_spaces[observations]
    return RelabelReplayBuffer(
        size, space, ACTIONS, "cpu", n_envs, reward_model=reward_model, **options
    )


def key_of(observations):
    return "state" if observations == "box" else "position"


def sampled_steps(buffer, play, n):
    samples = buffer.sample(n)
    return samples, [play.steps[c][i] for c, i in play.find(samples.observations)]


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observations", ["box", "dict"])
@pytest.mark.parametrize("handle_timeouts", [True, False])
def test_sampled_rewards_are_the_models(
    replay_spaces, random_play, observations, n_envs, handle_timeouts
):
    key = key_of(observations)
    model = WayRewardModel(key)
    buffer = make(
        replay_spaces,
        model,
        n_envs=n_envs,
        observations=observations,
        handle_timeout_termination=handle_timeouts,
    )
    play = random_play(buffer, 0, observations=observations)
    play.play(80)
    samples, steps = sampled_steps(buffer, play, 300)
    np.testing.assert_allclose(samples.rewards[:, 0], [expected_reward(s) for s in steps], 1e-5)
    ends = [s.done and not (s.truncated and handle_timeouts) for s in steps]
    assert samples.dones[:, 0].tolist() == ends
    buffer.reward_model = EffortRewardModel(key)
    samples, steps = sampled_steps(buffer, play, 300)
    np.testing.assert_allclose(
        samples.rewards[:, 0], [-np.square(s.action).sum() for s in steps], 1e-5
    )
    stored = [step.reward for step in play.steps[0][-buffer.buffer_size :]]
    assert sorted(buffer.rewards[:, 0]) == sorted(stored)  # the env's own survive
    assert buffer.reward_mix.n_rewards == 600
    buffer.reward_mix.check_used()


def test_the_mix_is_that_of_the_wrappers(replay_spaces, random_play):
    rule = {"mode": "mix", "env_weight": 0.3, "model_weight": 0.7, "step_cost": 0.1}
    buffer = make(replay_spaces, WayRewardModel(), **rule)
    play = random_play(buffer, 0)
    play.play(40)
    samples, steps = sampled_steps(buffer, play, 100)
    expected = [0.3 * s.reward + 0.7 * expected_reward(s) - 0.1 for s in steps]
    np.testing.assert_allclose(samples.rewards[:, 0], expected, 1e-5, 1e-6)


def test_always_uses_the_weights_of_the_moment(replay_spaces, random_play):
    model = WayRewardModel()
    buffer = make(replay_spaces, model)
    play = random_play(buffer, 0)
    play.play(30)
    assert model.n_rows == 0
    for scale in (1.0, 3.0):
        model.scale = np.float32(scale)
        samples, steps = sampled_steps(buffer, play, 50)
        expected = [expected_reward(s, scale) for s in steps]
        np.testing.assert_allclose(samples.rewards[:, 0], expected, 1e-5)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_never_keeps_the_reward_of_when_it_was_added(replay_spaces, random_play, n_steps):
    model = WayRewardModel()
    buffer = make(replay_spaces, model, relabel="never", n_steps=n_steps, gamma=0.0)
    play = random_play(buffer, 0)
    play.play(30)
    model.scale = np.float32(2)
    play.play(70)  # the ring holds 60: all of them with the new weights
    n_rows = model.n_rows
    model.scale = np.float32(5)
    samples, steps = sampled_steps(buffer, play, 100)
    np.testing.assert_allclose(samples.rewards[:, 0], [expected_reward(s, 2) for s in steps], 1e-5)
    assert model.n_rows == n_rows == 100


def test_old_rewards_are_computed_anew_and_kept(replay_spaces, random_play):
    model = WayRewardModel()
    buffer = make(replay_spaces, model, relabel="if_older_than", max_age=2)
    play = random_play(buffer, 0)
    play.play(40)

    def scales():
        samples, steps = sampled_steps(buffer, play, 500)  # 500 of 40: each of them
        return {
            round(float(reward) / expected_reward(step), 3)
            for reward, step in zip(samples.rewards[:, 0], steps, strict=True)
        }

    assert scales() == {1.0}
    n_rows = model.n_rows
    model.scale, buffer.model_version = np.float32(2), 2
    assert scales() == {1.0}  # two steps old are not older than two
    assert model.n_rows == n_rows
    play.play(10)
    assert scales() == {1.0, 2.0}  # those just added have the reward of now
    model.scale, buffer.model_version = np.float32(3), 3
    assert scales() == {2.0, 3.0}
    n_rows = model.n_rows
    assert scales() == {2.0, 3.0}
    assert model.n_rows == n_rows
    play.play(60)  # overwrites all, in the same rows
    assert scales() == {3.0}
    buffer.reward_model = WayRewardModel(scale=7)
    assert scales() == {7.0}


@pytest.mark.parametrize("handle_timeouts", [True, False])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observations", ["box", "dict"])
@pytest.mark.parametrize("n_added", [7, 33, 95])
def test_n_steps_are_relabelled_one_by_one_and_then_summed(
    replay_spaces, random_play, observations, n_envs, n_added, handle_timeouts
):
    gamma, n_steps = 0.9, 4
    buffer = make(
        replay_spaces,
        WayRewardModel(key_of(observations)),
        size=30 * n_envs,
        n_envs=n_envs,
        observations=observations,
        n_steps=n_steps,
        gamma=gamma,
        handle_timeout_termination=handle_timeouts,
    )
    play = random_play(buffer, n_added, observations=observations, resets=0.05)
    play.play(n_added)
    samples = buffer.sample(300)
    following = samples.next_observations
    following = following["position"] if observations == "dict" else following
    lengths = set()
    for row, (column, index) in enumerate(play.find(samples.observations)):
        total, power = 0.0, 0
        while True:
            step = play.steps[column][index + power]
            total += gamma**power * expected_reward(step)
            newest = index + power + 1 == n_added
            if power == n_steps - 1 or step.done or step.broken or newest:
                break
            power += 1
        lengths.add(power + 1)
        assert samples.rewards[row, 0] == pytest.approx(total, rel=1e-4, abs=1e-5)
        assert samples.discounts[row, 0] == pytest.approx(gamma ** (power + 1))
        assert samples.dones[row, 0] == (step.done and not (step.truncated and handle_timeouts))
        np.testing.assert_array_equal(following[row], step.next_observation)
    assert lengths == {1, 2, 3, 4}


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("relabel", ["always", "if_older_than"])
def test_what_only_a_finished_episode_knows_is_offered(
    replay_spaces, random_play, n_envs, n_steps, relabel
):
    age = 5 if relabel == "if_older_than" else None
    buffer = make(
        replay_spaces,
        ShareRewardModel(),
        60,
        n_envs,
        n_steps=n_steps,
        gamma=1.0,
        relabel=relabel,
        max_age=age,
    )
    with pytest.raises(RuntimeError, match="Set `learning_starts` beyond"):
        buffer.sample(1)
    play = random_play(buffer, 0, longest=6)
    play.play(100)
    expected = {}
    for column, first, last in play.episodes():
        steps = play.steps[column][first : last + 1]
        share = sum(float(step.reward) for step in steps) / len(steps)
        for index in range(first, last + 1):
            expected[column, index] = share * min(n_steps, last + 1 - index)
    samples = buffer.sample(20_000)
    found = play.find(samples.observations)
    assert set(found) == set(expected)
    np.testing.assert_allclose(samples.rewards[:, 0], [expected[at] for at in found], 1e-4, 1e-6)
    counts = np.array([found.count(at) for at in list(expected)[:5]])
    assert (np.abs(counts / 20_000 * len(expected) - 1) < 0.3).all()  # uniform over transitions
    gathered = buffer.gather(np.array([0]), np.array([[0]]))
    assert gathered.observations["episode/length"].tolist() == [buffer.lengths[0]]


@pytest.mark.parametrize("relabel", ["always", "if_older_than", "never"])
def test_a_state_restores_rewards_and_counters(replay_spaces, random_play, relabel):
    age = 3 if relabel == "if_older_than" else None
    model = WayRewardModel()
    buffers = [make(replay_spaces, model, relabel=relabel, max_age=age) for _ in range(2)]
    random_play(buffers[0], 0).play(80)
    buffers[0].model_version = 4
    buffers[0].sample(30)
    buffers[1].set_state(*buffers[0].get_state())
    copies = [*buffers, pickle.loads(pickle.dumps(buffers[1]))]
    samples = []
    for buffer in copies:
        model.scale = buffer.reward_model.scale = np.float32(2)
        np.random.seed(0)  # noqa: NPY002
        samples.append(buffer.sample(50).rewards)
        assert (buffer.model_version, buffer.reward_mix.n_rewards) == (4, 80)
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])
    arrays, values = buffers[0].get_state()
    with pytest.raises(ValueError, match="Expected model_version"):
        buffers[1].set_state(arrays, {k: v for k, v in values.items() if k != "model_version"})
