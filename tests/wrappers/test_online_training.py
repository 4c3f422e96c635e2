import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.factory import make_vec_env
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.redistribution import IRCRTrainer
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer
from libero_reward_envs.wrappers import LearnedReward, VecLearnedReward
from libero_reward_envs.wrappers.online_training import make_online_training


def make_env(n_steps=7):
    env = gym.make("Pendulum-v1", max_episode_steps=n_steps)
    return Monitor(gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)))


def test_the_model_learns_from_finished_episodes_while_the_env_is_stepped():
    model = RRDRewardModel({"state": (3,)}, 1)
    before = model.get_weights()
    env = LearnedReward(make_env(), model, online=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    versions, sums, total = [], [], 0.0
    for _ in range(20):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        versions.append(info["reward/model_version"])
        total += info["reward/env"]
        if terminated or truncated:
            sums.append(total)
            total = 0.0
            env.reset()
    # Nothing is learned before the end of the first episode, then one step follows each step.
    assert versions == [0] * 7 + list(range(1, 14))
    training = env.online_training
    assert training is not None
    np.testing.assert_allclose(training.store.returns, sums, rtol=1e-5)
    assert training.store.lengths.tolist() == [7, 7]
    assert any(not np.array_equal(before[k], v) for k, v in model.get_weights().items())
    assert set(training.losses) == {"loss", "data_loss", "variance_term"}


def test_rewards_are_those_of_the_weights_before_the_step():
    model = RRDRewardModel({"state": (3,)}, 1)
    twin = RRDRewardModel({"state": (3,)}, 1)
    env = LearnedReward(make_env(), model, online=True)
    observation, _ = env.reset(seed=0)
    action = np.array([0.5], np.float32)
    for _ in range(9):
        twin.set_weights(model.get_weights())
        following, reward, _, truncated, _ = env.step(action)
        pair = {"state": observation[None]}, action[None], {"state": following[None]}
        expected = twin.compute_reward(Transitions(*pair, np.zeros(1, bool)))
        assert reward == expected[0]
        observation = env.reset()[0] if truncated else following


def test_a_vector_of_envs_offers_whole_episodes_of_each_env():
    venv = VecLearnedReward(
        DummyVecEnv([make_env, lambda: make_env(5)]), RRDRewardModel({"state": (3,)}, 1),
        online=True, online_kwargs={"steps_per_env_step": 2},
    )  # fmt: skip
    venv.seed(0)
    last: Any = venv.reset()
    seen: list[list[np.ndarray]] = [[last[0]], [last[1]]]
    finished = []
    rng = np.random.default_rng(0)
    for _ in range(12):
        last, _, dones, infos = venv.step(rng.uniform(-1, 1, (2, 1)).astype(np.float32))
        for index in range(2):
            end = infos[index]["terminal_observation"] if dones[index] else last[index]
            seen[index].append(end)
            if dones[index]:
                finished.append(np.stack(seen[index]))
                seen[index] = [last[index]]
    training = venv.online_training
    assert training is not None
    assert training.store.lengths.tolist() == [5, 7, 5]
    assert training.n_steps == 2 * (12 - 4)
    for index, states in enumerate(finished):
        part = training.store.episode(index)
        np.testing.assert_array_equal(part.observations["state"], states[:-1])
        np.testing.assert_array_equal(part.next_observations["state"], states[1:])
        assert not part.terminated.any()  # Pendulum only ever runs out of time


def test_its_state_holds_the_episodes_and_what_was_open_is_dropped():
    def make(seed, n_steps):
        env = LearnedReward(make_env(), RRDRewardModel({"state": (3,)}, 1, seed=seed), online=True)
        env.reset(seed=seed)
        for _ in range(n_steps):
            if env.step(np.zeros(1, np.float32))[3]:
                env.reset()
        assert env.online_training is not None
        return env.online_training

    training, other = make(0, 7 + 3), make(1, 1)
    arrays, values = training.get_state()
    other.set_state(arrays, values)
    assert other.n_steps == training.n_steps == 4
    assert other.store.lengths.tolist() == [7]
    np.testing.assert_array_equal(other.store.returns, training.store.returns)
    assert other.train(n_steps=3) == training.train(n_steps=3)
    own = {name: value for name, value in arrays.items() if not name.startswith("episodes/")}
    other.set_state(own, values)
    assert len(other.store) == 0


def test_ppo_trains_on_a_reward_that_learns_and_monitor_logs_the_true_return():
    venv = VecLearnedReward(
        DummyVecEnv([make_env] * 2), RRDRewardModel({"state": (3,)}, 1, reward_offset=-100),
        online=True,
    )  # fmt: skip
    agent = PPO("MlpPolicy", venv, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
    agent.learn(128)
    assert venv.online_training is not None
    assert venv.online_training.n_steps == 64 - 6
    assert agent.ep_info_buffer
    assert max(episode["r"] for episode in agent.ep_info_buffer) < 0  # Pendulum's, not the model's
    venv.reward_mix.check_used()


def test_arguments_that_do_not_fit_are_refused():
    model = RRDRewardModel({"state": (3,)}, 1)
    with pytest.raises(ValueError, match="`online` is False"):
        LearnedReward(make_env(), model, online_kwargs={"capacity": 10})
    other = RRDTrainer(RRDRewardModel({"state": (3,)}, 1))
    with pytest.raises(ValueError, match="a `trainer` of the reward model that is applied"):
        make_online_training(model, 1, trainer=other)
    with pytest.raises(TypeError, match="trains RRD rewards by itself, got a IRCRRewardModel"):
        make_online_training(IRCRTrainer().model, 1)
    with pytest.raises(ValueError, match="`trainer` or `trainer_kwargs`, not both"):
        make_online_training(model, 1, trainer=other, trainer_kwargs={"seed": 1})
    with pytest.raises(ValueError, match="`steps_per_env_step` must be at least 1"):
        make_online_training(model, 1, steps_per_env_step=0)


def test_libero_rrd_learns_online_without_any_model():
    arguments = {"suite": "libero_goal", "task": 7, "assets": "builtin"}
    with pytest.raises(ValueError, match="No RRD reward model ships"):
        gym.make("libero_reward_envs:LiberoRRD-v0", **arguments)
    env = gym.make("libero_reward_envs:LiberoRRD-v0", **arguments, online=True, max_episode_steps=4)
    env.reset(seed=0)
    versions = []
    for _ in range(10):
        *_, truncated, info = env.step(np.zeros(7, np.float32))
        versions.append(info["reward/model_version"])
        if truncated:
            env.reset()
    # The time limit stands outside: an episode counts from the reset on.
    assert versions == [0, 0, 0, 0, 0, *range(1, 6)]
    env.close()


class _TaskEnv(gym.Wrapper):
    """Tells a task in its infos, as LIBERO's envs do."""

    def reset(self, **arguments):
        observation, info = self.env.reset(**arguments)
        return observation, {**info, "task": "suite/close"}


def test_a_model_of_another_task_is_warned_of_once():
    model = RRDRewardModel({"state": (3,)}, 1)
    model.training = {"tasks": ["suite/open"]}
    env = LearnedReward(_TaskEnv(make_env()), model)
    with pytest.warns(UserWarning, match="fitted to suite/open, the env is suite/close"):
        env.reset()
    venv = VecLearnedReward(DummyVecEnv([lambda: _TaskEnv(make_env())] * 2), model)
    with pytest.warns(UserWarning, match="fitted to suite/open, the env is suite/close") as caught:
        venv.reset()
    assert len(caught) == 1
    model.training = {"tasks": ["suite/open", "suite/close"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset()
        LearnedReward(_TaskEnv(make_env()), model).reset()
        VecLearnedReward(DummyVecEnv([make_env]), model).reset()


def test_a_saved_model_goes_on_learning_with_its_own_scale_and_normalisation(tmp_path):
    def learn(model, **arguments):
        env = LearnedReward(make_env(), model, online=True, online_kwargs=arguments)
        env.reset(seed=0)
        for _ in range(20):
            if env.step(np.zeros(1, np.float32))[3]:
                env.reset()
        assert env.online_training is not None
        return env.online_training.trainer

    model = RRDRewardModel({"state": (3,)}, 1)
    learn(model, trainer_kwargs={"return_scale": 50.0, "normalize_from_data": True})
    taken = model.get_weights()["state_std"]
    assert not np.array_equal(taken, np.ones(3))
    model.save_pretrained(tmp_path)
    loaded = RRDRewardModel.from_pretrained(tmp_path)
    assert isinstance(loaded, RRDRewardModel)
    trainer = learn(loaded)
    assert isinstance(trainer, RRDTrainer)
    assert trainer.return_scale == 50.0
    np.testing.assert_array_equal(loaded.get_weights()["state_std"], taken)


def test_pixels_alone_are_learned_from_online():
    env = gym.make(
        "libero_reward_envs:LiberoRRD-v0", suite="libero_goal", task=7, assets="builtin",
        obs_type="pixels", image_size=48, online=True, max_episode_steps=2,
    )  # fmt: skip
    env.reset(seed=0)
    versions = []
    for _ in range(4):
        *_, truncated, info = env.step(np.zeros(7, np.float32))
        versions.append(info["reward/model_version"])
        if truncated:
            env.reset()
    assert versions == [0, 0, 0, 1]
    env.close()


def test_an_episode_beyond_the_capacity_is_given_up_with_a_warning():
    env = LearnedReward(
        make_env(30), RRDRewardModel({"state": (3,)}, 1), online=True,
        online_kwargs={"capacity": 10},
    )  # fmt: skip
    env.reset(seed=0)
    for _ in range(9):
        env.step(np.zeros(1, np.float32))
    with pytest.warns(UserWarning, match="An episode of 10 steps or more is not learned from"):
        env.step(np.zeros(1, np.float32))
    for _ in range(20):
        env.step(np.zeros(1, np.float32))
    assert env.online_training is not None
    assert len(env.online_training.store) == 0
    env.reset()
    for _ in range(4):
        env.step(np.zeros(1, np.float32))
    env.reset()
    assert env.online_training.store.lengths.tolist() == [4]


def test_actions_outside_the_range_are_refused_at_once():
    model = RRDRewardModel({"state": (3,)}, 1)
    training = make_online_training(model, 1)
    state = {"state": np.zeros((1, 3), np.float32)}
    transitions = Transitions(state, np.full((1, 1), 1.5), state, np.zeros(1, bool))
    with pytest.raises(ValueError, match=r"actions in \[-1, 1\], got \[\[1\.5\]\]"):
        training.record(transitions, np.zeros(1), np.zeros(1, bool))


def test_several_envs_with_a_reward_each_are_refused():
    with pytest.raises(ValueError, match="gives each env a reward that learns by itself"):
        make_vec_env("LiberoRRD-v0", 2, online=True)
