import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.checkpoints import read_newest_checkpoint, write_checkpoint
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer, fit_rrd
from libero_reward_envs.reward_models.training import RewardTrainer


def make_episodes(n_episodes=20, seed=0, n_steps=12, shape=(2,), high=None):
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(n_episodes):
        states = rng.normal(size=(n_steps + 1, *shape)).astype(np.float32)
        rewards = states[:-1].reshape(n_steps, -1)[:, 0]
        if high is not None:
            states = rng.integers(high, size=(n_steps + 1, *shape), dtype=np.uint8)
            rewards = states[:-1].reshape(n_steps, -1).mean(1) / 255
        actions = rng.uniform(-1, 1, (n_steps, 2))
        episodes.append(Episode({"state": states}, actions, rewards, False, False))
    return episodes


def weights_equal(first, second):
    pairs = zip(first.get_weights().items(), second.get_weights().items(), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def test_trainer_goes_on_from_its_state_as_if_it_had_never_stopped():
    store = EpisodeStore.from_dataset(make_episodes(), ["state"])
    unbroken = RRDTrainer(RRDRewardModel({"state": (2,)}, 2), seed=3)
    assert isinstance(unbroken, RewardTrainer)
    unbroken.train(store, 20)
    arrays, values = unbroken.get_state()
    report = unbroken.train(store, 20)
    resumed = RRDTrainer(RRDRewardModel({"state": (2,)}, 2, seed=9), seed=9)
    resumed.set_state(arrays, values)
    assert resumed.n_steps == 20
    assert resumed.train(store, 20) == report
    assert resumed.n_steps == unbroken.n_steps == 40
    assert weights_equal(resumed.model, unbroken.model)
    with pytest.raises(ValueError, match="Expected the state of a model with"):
        RRDTrainer(RRDRewardModel({"state": (3,)}, 2)).set_state(arrays, values)


def test_losses_are_reported_apart_and_only_with_episodes():
    trainer = RRDTrainer(RRDRewardModel({"state": (2,)}, 2), steps_per_episode=4)
    assert trainer.train(EpisodeStore(["state"], capacity=100)) == {}
    assert trainer.n_steps == 0
    store = EpisodeStore.from_dataset(make_episodes(), ["state"])
    plain = trainer.train(store, 5)
    assert plain["loss"] == plain["data_loss"] > 0
    assert 0 < plain["variance_term"] < plain["data_loss"]
    corrected = RRDTrainer(
        RRDRewardModel({"state": (2,)}, 2), steps_per_episode=4, bias_correction=True
    ).train(store)
    difference = corrected["data_loss"] - corrected["variance_term"]
    assert corrected["loss"] == pytest.approx(difference, rel=1e-5)


def test_all_steps_of_episodes_of_unequal_length_are_plain_least_squares():
    episodes = make_episodes(1, n_steps=3) + make_episodes(1, n_steps=9, seed=1)
    store = EpisodeStore.from_dataset(episodes, ["state"])
    model = RRDRewardModel({"state": (2,)}, 2)
    expected = [
        (model.compute_reward(e.transitions()).mean() - e.episode_return / len(e)) ** 2
        for e in episodes
    ]
    trainer = RRDTrainer(model, steps_per_episode=None, episodes_per_step=1, seed=1)
    loss = trainer.train(store)["loss"]
    assert min(abs(loss - value) / value for value in expected) < 1e-4
    # On one episode L_RD can be fitted exactly, whatever its steps are.
    single = EpisodeStore.from_dataset(episodes[1:], ["state"])
    trainer = RRDTrainer(model, steps_per_episode=None, learning_rate=1e-2)
    trainer.train(single, 300)
    assert trainer.train(single, 50)["data_loss"] < 1e-3


def test_pixels_are_learned_from_with_continuous_actions(tmp_path):
    episodes = make_episodes(8, n_steps=5, shape=(40, 40, 3), high=256)
    for index, episode in enumerate(episodes):  # brighter pictures pay more
        episode.observations["state"][:] //= 1 + index % 4
        paid = np.full(len(episode), 1.0 / (1 + index % 4), np.float32)
        object.__setattr__(episode, "rewards", paid)
    model = fit_rrd(episodes, n_steps=60, steps_per_episode=4, learning_rate=1e-3)
    check_reward_model(model, episodes[0].transitions(), tmp_path)
    rewards = [model.compute_reward(episode.transitions()).mean() for episode in episodes[:4]]
    assert rewards == sorted(rewards, reverse=True)
    actions = np.ones((5, 2), np.float32)
    moved = model.compute_reward(episodes[0].transitions()._replace(actions=actions))
    assert not np.allclose(moved, model.compute_reward(episodes[0].transitions()))
    floats = episodes[0].transitions()
    images = {"state": floats.observations["state"].astype(np.float32)}
    with pytest.raises(ValueError, match="images 'state' as uint8, got float32"):
        model.compute_reward(floats._replace(observations=images))
    with pytest.raises(ValueError, match="at least 36 x 36 pixels, got 20 x 40"):
        RRDRewardModel({"image": (20, 40, 3)}, 2)


def test_pixels_and_state_are_read_together(tmp_path):
    episodes = [
        Episode(
            {"image": pixels.observations["state"], "state": states.observations["state"]},
            states.actions,
            states.rewards,
            True,
            True,
        )
        for pixels, states in zip(
            make_episodes(4, shape=(36, 48, 1), high=256), make_episodes(4), strict=True
        )
    ]
    model = fit_rrd(episodes, observation_keys=("image", "state"), n_steps=3)
    check_reward_model(model, episodes[0].transitions(), tmp_path)
    assert model.get_weights()["state_mean"].shape == (2,)


def test_normalisation_from_data_is_taken_once_at_the_first_step():
    store = EpisodeStore.from_dataset(make_episodes(50), ["state"])
    model = RRDRewardModel({"state": (2,)}, 2)
    trainer = RRDTrainer(model, normalize_from_data=True)
    trainer.train(store)
    taken = model.get_weights()["state_std"]
    np.testing.assert_allclose(taken, 1.0, atol=0.1)
    assert not np.array_equal(taken, np.ones(2))
    trainer.train(EpisodeStore.from_dataset(make_episodes(seed=4, n_steps=40), ["state"]), 2)
    np.testing.assert_array_equal(model.get_weights()["state_std"], taken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes_per_step": 0}, "`episodes_per_step` must be at least 1"),
        ({"return_scale": 0}, "`return_scale` must be a positive number"),
        ({"steps_per_episode": 1, "bias_correction": True}, "at least 2 sampled steps"),
        ({"steps_per_episode": None, "bias_correction": True}, "give a K"),
        ({"scale": "sum"}, "'mean' or 'return'"),
        ({"variance_weight": float("nan")}, "'paper' or a number, got nan"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RRDTrainer(RRDRewardModel({"state": (2,)}, 2), **arguments)


def test_what_is_not_finite_stops_the_training_and_spares_the_model():
    store = EpisodeStore.from_dataset(make_episodes(), ["state"])
    trainer = RRDTrainer(RRDRewardModel({"state": (2,)}, 2), return_scale=1e30)
    before = trainer.model.get_weights()
    with pytest.raises(RuntimeError, match="The loss of the reward is inf at step 1"):
        trainer.train(store)
    store.returns[3] = np.nan
    with pytest.raises(ValueError, match="Expected finite returns, got nan in episode 3"):
        RRDTrainer(trainer.model).train(store)
    after = trainer.model.get_weights()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="`n_steps` must be at least 1, got 0"):
        trainer.train(store, 0)


SCRIPT = """
    import sys, time
    from tests_of_trainer import make_episodes
    from libero_reward_envs.reward_models.rrd import fit_rrd

    slow = sys.argv[2] == "slow"
    model = fit_rrd(
        make_episodes(), n_steps=300, log_interval=7, save_freq=10,
        holdout=make_episodes(5, seed=1),
        checkpoint_folder=sys.argv[1], on_progress=lambda _: time.sleep(0.05 * slow),
    )
    model.save_pretrained(sys.argv[3])
"""


def test_killed_at_any_moment_a_resumed_fit_ends_with_the_same_bits(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "tests_of_trainer.py").write_text(Path(__file__).read_text())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder, speed, out):
        command = [sys.executable, "script.py", folder, speed, out]
        return subprocess.Popen(command, cwd=tmp_path, env=environment)

    assert start("unbroken", "fast", "expected").wait() == 0
    delays = np.random.default_rng(0).uniform(0.2, 0.8, 3)
    steps = []
    for delay in delays:
        process = start("killed", "slow", "found")
        known = steps[-1] if steps else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until it has gone on from where the last one was
            checkpoint = read_newest_checkpoint(tmp_path / "killed")
            if checkpoint is not None and checkpoint.step > known:
                break
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = read_newest_checkpoint(tmp_path / "killed")
        assert newest is not None
        steps.append(newest.step)
    assert 0 < steps[0] < steps[1] < steps[2] < 300
    assert start("killed", "fast", "found").wait() == 0
    expected, found = (
        RRDRewardModel.from_pretrained(tmp_path / name) for name in ("expected", "found")
    )
    assert isinstance(expected, RRDRewardModel)
    assert isinstance(found, RRDRewardModel)
    assert weights_equal(expected, found)
    assert expected.training["history"] == found.training["history"]
    assert expected.reward_offset == found.reward_offset


def test_checkpoints_of_other_arguments_or_data_are_refused_and_kept(tmp_path):
    first = fit_rrd(make_episodes(), n_steps=20, checkpoint_folder=tmp_path, save_freq=5)
    with pytest.raises(ValueError, match=r"differs in learning_rate: 0\.0003, now 0\.01"):
        fit_rrd(make_episodes(), n_steps=20, learning_rate=0.01, checkpoint_folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in episodes\. Continue"):
        fit_rrd(make_episodes(seed=2), n_steps=20, checkpoint_folder=tmp_path)
    write_checkpoint(tmp_path / "other", 3, {"weights": np.zeros(2)}, {"made_by": "something else"})
    with pytest.raises(ValueError, match="is not a checkpoint of fit_rrd"):
        fit_rrd(make_episodes(), n_steps=20, checkpoint_folder=tmp_path / "other")
    again = fit_rrd(make_episodes(), n_steps=20, checkpoint_folder=tmp_path, save_freq=5)
    assert weights_equal(first, again)
    assert again.training["history"] == first.training["history"]
    longer = fit_rrd(make_episodes(), n_steps=30, checkpoint_folder=tmp_path, save_freq=5)
    straight = fit_rrd(make_episodes(), n_steps=30)
    assert weights_equal(longer, straight)
    with pytest.raises(ValueError, match="is of step 30, this training ends at 20"):
        fit_rrd(make_episodes(), n_steps=20, checkpoint_folder=tmp_path)


def test_training_does_not_touch_the_global_generators():
    store = EpisodeStore.from_dataset(make_episodes(), ["state"])
    torch.manual_seed(0)
    before = torch.get_rng_state().clone()
    RRDTrainer(RRDRewardModel({"state": (2,)}, 2)).train(store, 3)
    assert torch.equal(torch.get_rng_state(), before)
