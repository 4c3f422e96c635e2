"""Each mode of `RewardMix` by hand, by the golden file, and alike wherever it is applied."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from libero_reward_envs.agents import RelabelReplayBuffer, fill_replay_buffer
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import LearnedReward, VecLearnedReward
from libero_reward_envs.wrappers.episode_rewards import EpisodeRewards
from libero_reward_envs.wrappers.reward_mix import REWARD_MODES, RewardMix

GOLDEN = Path(__file__).parents[1] / "data/reward_metrics/potential_shaping.npz"


class TrackEnv(gym.Env):
    """Shows the numbers of a track one after the other; the last one is the end, and pays 1."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, track, terminates=True):
        self.track = np.asarray(track, np.float32)
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.track[:1].copy(), {}

    def step(self, action):
        self.t += 1
        is_last = self.t == len(self.track) - 1
        observation = self.track[self.t : self.t + 1].copy()
        info = {"is_success": is_last}
        ends = is_last and self.terminates
        return observation, float(is_last), ends, is_last and not ends, info


class ShownScore:
    """Scores an observation by the number in it."""

    observation_keys = ("state",)

    def compute_reward(self, transitions):
        return transitions.next_observations["state"][:, 0].copy()


class Probability(ShownScore):
    """A classifier in all that the rule asks of one."""

    reward_type, threshold = "continuous", 0.8

    def with_reward_type(self, reward_type):
        return BinaryScore() if reward_type == "binary" else self


class BinaryScore(ShownScore):
    def compute_reward(self, transitions):
        return (super().compute_reward(transitions) > 0.8).astype(np.float32)


def play(env, n_steps=None):
    """Return the rewards and infos of an episode, or of `n_steps` over several."""
    env.reset(seed=0)
    rewards, infos = [], []
    while True:
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        rewards.append(reward)
        infos.append(info)
        if n_steps is not None and len(rewards) == n_steps:
            return np.array(rewards), infos
        if terminated or truncated:
            if n_steps is None:
                return np.array(rewards), infos
            env.reset()


def rewards_of(track, terminates=True, model=None, n_steps=None, **arguments):
    env = LearnedReward(TrackEnv(track, terminates), model or ShownScore(), **arguments)
    return play(env, n_steps)[0]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_potential_is_the_golden_shaping(end):
    golden = np.load(GOLDEN, allow_pickle=False)
    gamma = float(golden["gamma"])
    shaped = rewards_of(golden["potential"], end == "terminated", mode="potential", gamma=gamma)
    np.testing.assert_allclose(shaped, golden[f"shaped_{end}"], atol=1e-6)
    only = rewards_of(
        golden["potential"], end == "terminated", mode="potential", gamma=gamma, env_weight=0.0
    )
    total = (gamma ** np.arange(len(only)) * only).sum()
    assert total == pytest.approx(float(golden[f"expected_{end}"]), abs=1e-6)


@pytest.mark.parametrize("terminates", [True, False])
def test_difference_is_the_golden_progress_and_telescopes(terminates):
    golden = np.load(GOLDEN, allow_pickle=False)
    potential = golden["potential"]
    rewards = rewards_of(potential, terminates, mode="difference")
    np.testing.assert_allclose(rewards, golden["progress_difference_reward"], atol=1e-6)
    assert rewards.sum() == pytest.approx(potential[-1] - potential[0], abs=1e-5)


def test_a_new_episode_is_compared_with_its_own_first_observation():
    two = rewards_of([0.5, 0.75, 4.0], mode="difference", n_steps=4)
    assert two.tolist() == [0.25, 3.25, 0.25, 3.25]


@pytest.mark.parametrize("terminates", [True, False])
def test_terminal_pays_at_the_last_step_alone(terminates):
    rewards = rewards_of([0, 1, 2, 3], terminates, mode="terminal", step_cost=0.5, model_weight=2)
    assert rewards.tolist() == [-0.5, -0.5, 5.5]


def test_success_pays_once_when_it_is_debounced():
    track = [0, 1, 0, 0, 1, 1, 1, 1]
    env = LearnedReward(TrackEnv(track), ShownScore(), mode="success")
    rewards, infos = play(env)
    assert rewards.tolist() == [0, 0, 0, 0, 1, 0, 0]
    predicted = [info["predicted_success"] for info in infos]
    assert predicted == [False] * 4 + [True] * 3
    assert [info["is_success"] for info in infos] == [False] * 6 + [True]
    again = rewards_of(track, mode="success", n_steps=14, step_cost=1.0, success_window=(1, 1))
    assert again.tolist() == 2 * [0, -1, -1, -1, -1, -1, -1]


def test_what_counts_as_success_is_the_threshold_of_a_classifier():
    track = [0, 0.7, 0.7, 0.9, 0.9, 0.9]
    kind: Any = {"mode": "success", "success_window": (2, 2)}
    assert rewards_of(track, model=ShownScore(), **kind).tolist() == [0, 1, 0, 0, 0]
    assert rewards_of(track, model=Probability(), **kind).tolist() == [0, 0, 0, 1, 0]
    assert rewards_of(track, model=BinaryScore(), **kind).tolist() == [0, 0, 0, 1, 0]
    low = rewards_of(track, model=Probability(), success_threshold=0.6, **kind)
    assert low.tolist() == [0, 1, 0, 0, 0]


def test_reward_type_is_chosen_where_the_model_is_used():
    track = [0, 0.75, 0.875]
    assert rewards_of(track, model=Probability()).tolist() == [0.75, 0.875]
    assert rewards_of(track, model=Probability(), reward_type="binary").tolist() == [0, 1]
    with pytest.raises(ValueError, match="`reward_type` is for success classifiers"):
        LearnedReward(TrackEnv(track), ShownScore(), reward_type="binary")


@pytest.mark.parametrize("mode", ["difference", "potential"])
def test_modes_that_compare_observations_refuse_a_model_that_reads_more(mode):
    model = RRDRewardModel({"state": (1,)}, 1)
    env = LearnedReward(TrackEnv([0, 1, 2]), model, mode=mode)
    env.reset()
    with pytest.raises(ValueError, match=r"RRDRewardModel gives .* Use mode 'replace' or 'mix'"):
        env.step(np.full(1, 0.5, np.float32))


def random_track(index):
    return np.random.default_rng(index).uniform(0, 1, 5 + index)


def make_env(index, terminates=True):
    return TimeLimit(TrackEnv(random_track(index), terminates), 7)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_a_vector_gives_each_env_what_it_has_alone(mode):
    rule: Any = {"mode": mode, "step_cost": 0.125, "gamma": 0.9, "success_threshold": 0.6}
    venv = VecLearnedReward(
        DummyVecEnv([lambda i=i: make_env(i, i % 2 == 0) for i in range(4)]), ShownScore(), **rule
    )
    venv.reset()
    rows, infos = [], []
    for _ in range(30):
        _, rewards, _, info = venv.step(np.zeros((4, 1), np.float32))
        rows.append(rewards)
        infos.append(info)
    together = np.array(rows)
    for i in range(4):
        alone, own = play(LearnedReward(make_env(i, i % 2 == 0), ShownScore(), **rule), 30)
        np.testing.assert_array_equal(together[:, i], alone)
        keys = {key for key in own[0] if key.startswith(("reward/", "predicted"))}
        assert ("predicted_success" in keys) == (mode == "success")
        for row, info in zip(infos, own, strict=True):
            assert {key: row[i][key] for key in keys} == {key: info[key] for key in keys}
    assert venv.reward_mix.n_rewards == 120
    assert np.unique(together).size > 1


class CountingScore(ShownScore):
    def __init__(self):
        self.batches = []

    def compute_reward(self, transitions):
        self.batches.append(len(transitions.actions))
        return super().compute_reward(transitions)


@pytest.mark.parametrize(("mode", "expected"), [("success", [4] * 6), ("difference", None)])
def test_all_envs_of_a_vector_are_one_batch(mode, expected):
    model = CountingScore()
    track = [0, 1, 2, 3, 4]
    venv = VecLearnedReward(DummyVecEnv([lambda: TrackEnv(track)] * 4), model, mode=mode)
    venv.reset()
    for _ in range(6):
        venv.step(np.zeros((4, 1), np.float32))
    # Where observations are compared: two checks a step, and the first observations of episodes.
    assert model.batches == (expected or 6 * [4, 4, 4] + 2 * [4])


def make_buffer(**arguments):
    space, actions = TrackEnv.observation_space, TrackEnv.action_space
    kind: Any = RelabelReplayBuffer if "reward_model" in arguments else ReplayBuffer
    return kind(16, space, actions, device="cpu", **arguments)


def make_episode(track, terminated=True):
    n_steps = len(track) - 1
    rewards = np.zeros(n_steps, np.float32)
    rewards[-1] = 1
    observations = {"state": np.asarray(track, np.float32)[:, None]}
    return Episode(
        observations, np.zeros((n_steps, 1), np.float32), rewards, terminated, terminated
    )


@pytest.mark.parametrize("mode", REWARD_MODES)
@pytest.mark.parametrize("terminates", [True, False])
def test_a_buffer_and_recorded_episodes_give_what_the_wrapper_gives(mode, terminates):
    track = random_track(3)
    rule: Any = {"mode": mode, "step_cost": 0.125, "gamma": 0.9, "success_threshold": 0.6}
    online = rewards_of(track, terminates, **rule)
    episode = make_episode(track, terminates)
    plain = make_buffer()
    fill_replay_buffer(plain, [episode], ShownScore(), reward_mix=RewardMix(**rule))
    np.testing.assert_array_equal(plain.rewards[: len(online), 0], online)
    if mode == "success":
        return
    relabelled = make_buffer(reward_model=ShownScore(), **rule)
    fill_replay_buffer(relabelled, [episode])
    rows = np.arange(len(online))
    samples = relabelled._get_samples(rows)
    np.testing.assert_array_equal(samples.rewards[:, 0].numpy(), online)


def test_a_buffer_refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match="depends on the steps before"):
        make_buffer(reward_model=ShownScore(), mode="success")
    with pytest.raises(ValueError, match="needs relabel='always', got 'never'"):
        make_buffer(reward_model=ShownScore(), mode="difference", relabel="never")
    buffer = make_buffer(reward_model=RRDRewardModel({"state": (1,)}, 1), mode="potential")
    fill_replay_buffer(buffer, [make_episode([0, 1, 2])])
    with pytest.raises(ValueError, match="Use mode 'replace' or 'mix'"):
        buffer.sample(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "progress"}, "Unknown mode 'progress'.*terminal, success, difference, potential"),
        ({"gamma": 1.5}, r"`gamma` must be in \[0, 1\], got 1.5"),
        ({"success_window": (3, 2)}, "1 <= k <= n"),
        ({"success_window": (1, 2, 3)}, r"must be \(k, n\)"),
        ({"success_threshold": float("inf")}, "`success_threshold` must be finite"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnedReward(TrackEnv([0, 1]), ShownScore(), **arguments)


def test_an_unknown_argument_is_refused():
    wrong: Any = {"env_wieght": 2.0}
    with pytest.raises(TypeError, match="env_wieght"):
        LearnedReward(TrackEnv([0, 1]), ShownScore(), **wrong)


class LearningScore(ShownScore):
    """Scores everything higher by one after each step."""

    def __init__(self):
        self.bias = 0.0

    def compute_reward(self, transitions):
        return super().compute_reward(transitions) + np.float32(self.bias)


@pytest.mark.parametrize("mode", ["difference", "potential"])
def test_what_a_model_learns_between_steps_is_no_reward(mode):
    model = LearningScore()
    transitions = Transitions(
        {"state": np.full((1, 1), 0.5, np.float32)},
        np.zeros((1, 1), np.float32),
        {"state": np.full((1, 1), 0.5, np.float32)},
        np.zeros(1, bool),
    )
    rewards = EpisodeRewards(RewardMix(mode, gamma=1.0), 1, model_learns=True)
    for _ in range(4):
        total, _ = rewards.compute(model, transitions, [0.0], np.array([False]))
        assert total.tolist() == [0.0]
        model.bias += 1.0


class ActionScore(ShownScore):
    """Reads the action, too, which a first action of zero does not show."""

    def compute_reward(self, transitions):
        return super().compute_reward(transitions) + 5 * transitions.actions[:, 0]


def test_a_first_action_of_zero_does_not_hide_that_a_model_reads_it():
    env = LearnedReward(TrackEnv([0, 1, 2]), ActionScore(), mode="difference")
    env.reset()
    with pytest.raises(ValueError, match="Use mode 'replace' or 'mix'"):
        env.step(np.zeros(1, np.float32))


def test_a_model_that_agrees_with_the_env_was_applied_all_the_same():
    class Success(ShownScore):
        def compute_reward(self, transitions):
            return (super().compute_reward(transitions) >= 1).astype(np.float32)

    env = LearnedReward(TrackEnv([0, 0.25, 0.5, 1]), Success())
    play(env)
    assert env.reward_mix.n_changed == 0
    env.reward_mix.check_used()
    silent = LearnedReward(TrackEnv([0, 0.25, 0.5], terminates=False), Success(), step_cost=1.0)
    play(silent, 1)
    assert silent.reward_mix.n_changed == 1
    with pytest.raises(RuntimeError, match="changed none of 1 rewards"):
        silent.reward_mix.check_used()


def test_a_limit_outside_is_warned_of_where_the_end_is_paid():
    env = TimeLimit(LearnedReward(TrackEnv([0, 1, 2, 3]), ShownScore(), mode="terminal"), 2)
    assert play(env)[0].tolist() == [0.0, 0.0]
    with pytest.warns(UserWarning, match="paid nothing for it. Put time limits inside"):
        env.reset()


def test_normalised_observations_are_refused():
    venv = VecNormalize(DummyVecEnv([lambda: TrackEnv([0, 1])]))
    with pytest.raises(ValueError, match="Put it outside the learned reward"):
        VecLearnedReward(venv, ShownScore())


def test_a_rule_of_before_is_taken_over():
    rule = RewardMix("mix", 2.0)
    state = {name: vars(rule)[name] for name in ("mode", "env_weight", "n_changed", "n_rewards")}
    old = RewardMix.__new__(RewardMix)
    old.__setstate__(state)
    assert old.settings == rule.settings
    buffer = make_buffer(reward_model=ShownScore())
    fill_replay_buffer(buffer, [make_episode([0, 1, 2])])
    arrays, values = buffer.get_state()
    arrays = {name: array.copy() for name, array in arrays.items()}
    new = ("success_window", "success_threshold", "n_from_model")
    of_before = {k: v for k, v in values.items() if k not in new}
    other = make_buffer(reward_model=ShownScore())
    other.set_state(arrays, of_before)
    assert other.get_state()[1] == values


def test_a_buffer_is_filled_with_the_envs_own_rewards_whatever_model_is_named():
    buffer = make_buffer(reward_model=ShownScore())
    fill_replay_buffer(buffer, [make_episode([0, 0.5, 0.75])], buffer.reward_model)
    assert buffer.rewards[:2, 0].tolist() == [0.0, 1.0]
