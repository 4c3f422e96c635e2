from typing import Any

import numpy as np
import pytest
import torch

from libero_reward_envs.data import Episode, EpisodeWriter, load_episodes
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd import (
    RRDRewardModel,
    fit_rrd,
)
from libero_reward_envs.reward_models.rrd_data import SubsequenceSampler


def make_episodes(n_episodes=150, seed=0, lengths=(1, 2, 5, 8, 30), **changes):
    """Reward 1 - |state| per step, paid as a sum at the end."""
    rng = np.random.default_rng(seed)
    episodes = []
    for index in range(n_episodes):
        n_steps = lengths[index % len(lengths)]
        states = np.cumsum(rng.normal(scale=0.3, size=(n_steps + 1, 2)), 0) + rng.normal(size=2)
        rewards = np.zeros(n_steps)
        rewards[-1] = (1 - np.abs(states[:-1, 0])).sum()
        episodes.append(
            Episode(
                {"state": states.astype(np.float32), "other": np.ones((n_steps + 1, 3))},
                rng.uniform(-1, 1, (n_steps, 2)),
                rewards,
                terminated=False,
                success=False,
                **changes,
            )
        )
    return episodes


def test_fit_finds_the_rewards_behind_the_returns(tmp_path):
    episodes = make_episodes()
    reports = []
    model = fit_rrd(
        episodes,
        n_steps=1000,
        steps_per_episode=8,
        episodes_per_step=32,
        learning_rate=3e-3,
        bias_correction=True,
        holdout=make_episodes(20, seed=1),
        on_progress=reports.append,
    )
    transitions = [episode.transitions() for episode in make_episodes(50, seed=2)]
    predicted = np.concatenate([model.compute_reward(part) for part in transitions])
    true = np.concatenate([1 - np.abs(part.observations["state"][:, 0]) for part in transitions])
    assert np.corrcoef(predicted, true)[0, 1] > 0.95
    history = model.training["history"]
    assert history == reports
    assert [report["step"] for report in history] == list(range(10, 1001, 10))
    assert history[-1]["holdout_loss"] < 0.2 * history[0]["holdout_loss"]
    assert model.training["n_transitions"] == sum(map(len, episodes))
    assert model.training["relative_deviation"] > 0.3
    check_reward_model(model, transitions[-1], tmp_path)


def test_same_seed_gives_the_same_weights_whatever_the_global_generators_say():
    episodes = make_episodes(20)

    def fit(seed):
        torch.manual_seed(np.random.randint(1000))  # noqa: NPY002
        return fit_rrd(episodes, n_steps=20, seed=seed).get_weights()["layers.0.weight"]

    np.testing.assert_array_equal(fit(1), fit(1))
    assert not np.array_equal(fit(1), fit(2))


def test_fit_reads_episodes_from_a_file(tmp_path):
    episodes = make_episodes(6, task="suite/task")
    with EpisodeWriter(tmp_path / "episodes.hdf5") as writer:
        for episode in episodes:
            writer.append(episode)
    fitted = fit_rrd(load_episodes(tmp_path / "episodes.hdf5"), n_steps=5)
    np.testing.assert_array_equal(
        fitted.compute_reward(episodes[4].transitions()),
        fit_rrd(episodes, n_steps=5).compute_reward(episodes[4].transitions()),
    )
    assert fitted.training["tasks"] == ["suite/task"]
    assert fitted.training["seed"] == 0


def test_several_observations_are_joined_in_order():
    model = fit_rrd(make_episodes(6), n_steps=2, observation_keys=("other", "state"))
    assert model.observation_keys == ("other", "state")
    joined = model.network.join({"state": torch.zeros(4, 2), "other": torch.ones(4, 3)})
    assert joined[0].tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("lengths", [(1,), (3,), (8,), (64,), (1, 8, 100)])
def test_episodes_may_be_shorter_or_longer_than_what_is_sampled(lengths):
    for bias_correction in (False, True):
        model = fit_rrd(
            make_episodes(8, lengths=lengths),
            n_steps=5,
            steps_per_episode=8,
            bias_correction=bias_correction,
        )
        assert np.isfinite(model.training["history"][-1]["loss"])


def test_defaults_are_the_released_code_but_for_scaling_and_offset():
    model = fit_rrd(make_episodes(5), n_steps=1)
    training = model.training
    assert (training["episodes_per_step"], training["steps_per_episode"]) == (4, 64)
    assert (training["learning_rate"], training["hidden_sizes"]) == (3e-4, [256, 256])
    assert not training["bias_correction"]
    network = RRDRewardModel({"state": (111,)}, 8).network  # the sizes of Ant-v2
    assert sum(weight.numel() for weight in network.parameters()) == 125_185


def test_offset_puts_the_rewards_of_the_data_below_zero_and_none_leaves_them():
    episodes = make_episodes(20)
    flat = [episode.transitions() for episode in episodes]
    plain = fit_rrd(episodes, n_steps=50, offset_margin=None)
    rewards = np.concatenate([plain.compute_reward(part) for part in flat])
    lowest, highest = plain.training["reward_range"]
    np.testing.assert_allclose([rewards.min(), rewards.max()], [lowest, highest], rtol=1e-5)
    shifted = fit_rrd(episodes, n_steps=50, offset_margin=0.5)
    assert shifted.reward_offset == pytest.approx(highest + 0.5 * (highest - lowest))
    costs = np.concatenate([shifted.compute_reward(part) for part in flat])
    np.testing.assert_allclose(costs, rewards - shifted.reward_offset, rtol=1e-5, atol=1e-6)
    assert costs.max() < 0


def test_equal_returns_warn_that_failures_are_missing():
    demonstrations = [
        Episode({"state": np.zeros((n, 2))}, np.zeros((n - 1, 1)), np.eye(n - 1)[-1], True, True)
        for n in (5, 6, 7)
    ]
    with pytest.warns(UserWarning, match="All 3 episodes have a return of 1, .* failures"):
        fit_rrd(demonstrations, n_steps=1)


def test_what_cannot_be_fitted_is_refused():
    episodes = make_episodes(4)
    other = Episode({"state": np.zeros((3, 5))}, np.zeros((2, 2)), np.ones(2), False, False)
    with pytest.raises(ValueError, match="at least one episode"):
        fit_rrd([])
    with pytest.raises(ValueError, match=r"as in the first episode, got .*\(5,\).* in episode 4"):
        fit_rrd([*episodes, other])
    with pytest.raises(ValueError, match="No observation 'depth'"):
        fit_rrd(episodes, observation_keys=["depth"])
    with pytest.raises(ValueError, match="a list of observation keys, got 'state'"):
        fit_rrd(episodes, observation_keys="state")
    with pytest.raises(ValueError, match="held-out episodes of sizes"):
        fit_rrd(episodes, holdout=[other])
    for name in ("n_steps", "episodes_per_step", "steps_per_episode", "log_interval"):
        zero: Any = {name: 0}
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            fit_rrd(episodes, **zero)
    still = Episode({"state": np.zeros((3, 2))}, np.zeros((2, 0)), np.ones(2), False, False)
    with pytest.raises(ValueError, match="Expected actions, got episodes"), pytest.warns():
        fit_rrd([still])
    with pytest.raises(ValueError, match="'length' or 'uniform', got 'weight'"):
        fit_rrd(episodes, episode_sampling="weight")  # pyright: ignore[reportArgumentType]  # on purpose
    with pytest.raises(ValueError, match="`rewards`, got nan"):
        Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.array([np.nan]), False, False)


def test_sampler_draws_episodes_by_length_or_evenly_and_steps_without_repeats():
    sampling: Any
    lengths = np.array([1, 4, 15])
    for sampling, expected in (("length", lengths / 20), ("uniform", np.full(3, 1 / 3))):
        episodes, steps = SubsequenceSampler(4, sampling, seed=0).draw(lengths, 20_000)
        shares = np.bincount(episodes, minlength=3) / 20_000
        np.testing.assert_allclose(shares, expected, atol=0.015)
        assert (steps < lengths[episodes][:, None]).all()
        whole = np.sort(steps[episodes == 1], 1)
        assert (whole == np.arange(4)).all()
        longest = steps[episodes == 2]
        counts = np.bincount(longest.ravel(), minlength=15) / len(longest)
        np.testing.assert_allclose(counts, 4 / 15, atol=0.02)


def test_steps_of_very_long_episodes_are_drawn_without_repeats_and_evenly():
    lengths = np.array([10_000, 3, 64])
    episodes, steps = SubsequenceSampler(64, "uniform", seed=0).draw(lengths, 2000)
    assert (steps < lengths[episodes][:, None]).all()
    ordered = np.sort(steps, 1)
    steps_apart = np.diff(ordered)[episodes != 1]
    assert steps_apart.min() > 0
    assert (ordered[episodes == 2] == np.arange(64)).all()
    quarters = np.bincount(steps[episodes == 0].ravel() // 2500) / (64 * (episodes == 0).sum())
    np.testing.assert_allclose(quarters, 0.25, atol=0.01)


def test_store_gathers_what_belongs_together():
    episodes = make_episodes(5)
    store = EpisodeStore.from_dataset(episodes, ["state"])
    found = store.gather(np.array([4, 2]), np.array([[0, 29], [4, 0]]))
    np.testing.assert_array_equal(
        found.observations["state"][1], episodes[4].observations["state"][29]
    )
    np.testing.assert_array_equal(
        found.next_observations["state"][1], episodes[4].observations["state"][30]
    )
    np.testing.assert_array_equal(found.actions[2], episodes[2].actions[4])
    assert len(store) == sum(map(len, episodes))
    assert store.returns.tolist() == [episode.episode_return for episode in episodes]


def test_store_drops_the_oldest_episodes_whole_and_never_mixes_them():
    rng = np.random.default_rng(0)
    store, kept = EpisodeStore(["state"], capacity=50), []
    for index in range(300):
        n_steps = int(rng.integers(1, 20))
        states = np.full((n_steps + 1, 1), index) + np.arange(n_steps + 1)[:, None] / 100
        ended = bool(rng.integers(2))
        store.append(
            Episode({"state": states}, np.zeros((n_steps, 1)), np.full(n_steps, 0.5), ended, False)
        )
        kept.append((n_steps, ended))
        lengths = store.lengths
        n_kept = len(lengths)
        assert n_kept >= 1
        assert lengths.tolist() == [n for n, _ in kept[-n_kept:]]
        assert (lengths + 1).sum() <= 50
        for position in range(n_kept):
            number = index + 1 - n_kept + position
            part = store.episode(position)
            expected = number + np.arange(lengths[position]) / 100
            np.testing.assert_allclose(part.observations["state"][:, 0], expected, rtol=1e-6)
            np.testing.assert_allclose(
                part.next_observations["state"][:, 0], expected + 0.01, rtol=1e-6
            )
            assert part.terminated.tolist() == [False] * (lengths[position] - 1) + [kept[number][1]]
    with pytest.raises(ValueError, match="60 steps needs 61 rows, the store has 50"):
        store.append(
            Episode({"state": np.zeros((61, 1))}, np.zeros((60, 1)), np.zeros(60), True, True)
        )


def test_reward_of_a_transition_is_the_same_number_alone_and_in_any_batch():
    rng = np.random.default_rng(0)
    model = RRDRewardModel({"state": (40,)}, 7)
    states = {"state": rng.normal(size=(1000, 40)).astype(np.float32)}
    transitions = Transitions(
        states,
        rng.uniform(-1, 1, (1000, 7)).astype(np.float32),
        {"state": states["state"] + 0.01},
        np.zeros(1000, bool),
    )
    batch = model.compute_reward(transitions)
    single = [model.compute_reward(transitions.rows(slice(i, i + 1)))[0] for i in range(1000)]
    np.testing.assert_array_equal(batch, single)


def test_states_are_scaled_by_the_data_and_those_standing_still_by_a_floor():
    episodes = make_episodes(20)
    states = np.concatenate([episode.observations["state"] for episode in episodes])
    model = fit_rrd(episodes, n_steps=1, observation_keys=("state", "other"))
    weights = model.get_weights()
    np.testing.assert_allclose(weights["state_mean"][:2], states.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights["state_std"][:2], states.std(0), rtol=1e-4)
    np.testing.assert_allclose(weights["state_std"][2:], 0.01)
    plain = fit_rrd(episodes, n_steps=1, normalize=False)
    assert not plain.normalize
    assert plain.get_weights()["state_std"].tolist() == [1, 1]


def test_normalised_inputs_are_clipped_far_from_the_data():
    model = RRDRewardModel({"state": (1,)}, 1)
    far, farther = (
        Transitions(
            {"state": np.full((1, 1), value)},
            np.zeros((1, 1)),
            {"state": np.zeros((1, 1))},
            np.zeros(1, bool),
        )
        for value in (6.0, 600.0)
    )
    assert model.compute_reward(far) == model.compute_reward(farther)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observation_shapes": {}}, "at least one observation"),
        ({"action_size": -1}, "`action_size` must be a whole number"),
        ({"hidden_sizes": (2.5,)}, "positive whole numbers"),
        ({"reward_offset": float("nan")}, "`reward_offset` must be finite"),
    ],
)
def test_model_of_impossible_sizes_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RRDRewardModel(**{"observation_shapes": {"state": (1,)}, "action_size": 1, **arguments})


def test_observations_that_do_not_fit_are_reported():
    model = RRDRewardModel({"state": (2,)}, 1)
    zeros = np.zeros((1, 2))
    good = Transitions({"state": zeros}, np.zeros((1, 1)), {"state": zeros}, np.zeros(1, bool))
    with pytest.raises(ValueError, match=r"'state' of shape \('n', 2\), got \(1, 3\)"):
        model.compute_reward(good._replace(observations={"state": np.zeros((1, 3))}))
    with pytest.raises(ValueError, match=r"No observation 'state'\. There is: image"):
        model.compute_reward(good._replace(next_observations={"image": zeros}))
    with pytest.raises(ValueError, match=r"actions \(n, 1\), got \(1, 2\)"):
        model.compute_reward(good._replace(actions=zeros))
