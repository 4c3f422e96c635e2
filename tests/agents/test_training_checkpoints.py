import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.agents.train_reward_model import TrainRewardModel
from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training
from libero_reward_envs.wrappers import VecLearnedReward
from tests.agents.training_makers import (
    STEPS,
    AsDict,
    SameStart,
    assert_same_states,
    close_episode,
    make_agent,
    make_env,
    make_sac,
    make_trainer,
    newest,
    small,
    states_of,
)


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, DQN, PPO])
def test_everything_comes_back_bit_for_bit(tmp_path, algorithm):
    agent = make_agent(algorithm).learn(64, SaveCheckpoints(tmp_path, 1000))
    close_episode(agent)
    expected = states_of(agent)
    drawn = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    again = make_agent(algorithm, seed=1)
    assert resume_training(again, tmp_path) == agent.num_timesteps == 64
    assert (np.random.random(), torch.rand(1).item()) == drawn  # noqa: NPY002
    assert_same_states(states_of(again), expected)
    optimizers = [name for name in expected[0] if name.endswith("exp_avg")]
    assert optimizers
    assert all(np.abs(expected[0][name]).sum() > 0 for name in optimizers if "weight" in name)
    again.learn(32, reset_num_timesteps=False)
    assert again.num_timesteps == 96
    assert again._n_updates > agent._n_updates


def test_fixed_entropy_coefficient_and_an_empty_folder(tmp_path):
    agent = make_sac(ent_coef=0.25)
    before = states_of(agent)
    assert resume_training(agent, tmp_path / "none") == 0
    assert_same_states(states_of(agent), before)
    agent.learn(40, SaveCheckpoints(tmp_path, 1000))
    again = make_sac(ent_coef=0.25, seed=3)
    assert resume_training(again, tmp_path) == 40
    assert_same_states(states_of(again), states_of(agent))


@pytest.mark.parametrize("wrap", [lambda env: env, AsDict], ids=["box", "dict"])
@pytest.mark.parametrize("n_steps", [90, 310], ids=["not full", "full"])
def test_learned_reward_comes_back_bit_for_bit(tmp_path, wrap, n_steps):
    def make(seed):
        trainer = make_trainer()
        env = make_env(wrap=wrap)
        return make_sac(trainer, env, seed, buffer_size=200), trainer

    agent, trainer = make(0)
    callbacks: list[BaseCallback] = [
        TrainRewardModel(trainer),
        SaveCheckpoints(tmp_path, 50, trainer),
    ]
    agent.learn(n_steps, callbacks)
    assert trainer.n_steps == agent._n_updates == n_steps - 30
    again, new_trainer = make(1)
    assert resume_training(again, tmp_path, new_trainer) == n_steps
    close_episode(agent)
    assert_same_states(states_of(again, new_trainer), states_of(agent, trainer))


def test_a_reward_that_learns_in_the_wrapper_comes_back(tmp_path):
    def make(seed):
        model = make_trainer().model
        venv = VecLearnedReward(DummyVecEnv([make_env, make_env]), model, online=True)
        agent = PPO("MlpPolicy", venv, n_steps=16, batch_size=8, seed=seed, **small())
        assert venv.online_training is not None
        return agent, venv.online_training

    agent, training = make(0)
    agent.learn(64, SaveCheckpoints(tmp_path, 1000, training))
    again, new_training = make(1)
    assert resume_training(again, tmp_path, new_training) == 64
    assert new_training.n_steps == training.n_steps > 0
    assert len(new_training.store.lengths) == 2
    assert_same_states(states_of(again, new_training), states_of(agent, training))
    again.learn(32, SaveCheckpoints(tmp_path, 16, new_training), reset_num_timesteps=False)
    assert newest(tmp_path).step == 96


def test_resumed_at_the_end_of_an_episode_it_goes_on_as_if_it_never_stopped(tmp_path):
    def run(total, folder, trainer, agent):
        done = resume_training(agent, folder, trainer)
        callbacks = [TrainRewardModel(trainer), SaveCheckpoints(folder, 10, trainer, keep=9)]
        agent.learn(total - done, callbacks, reset_num_timesteps=done == 0)
        return states_of(agent, trainer)

    # The env always begins alike, and without a seed it is not given a new one.
    def make():
        trainer = make_trainer()
        env = make_env(wrap=SameStart)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        agent = make_sac(trainer, env, seed=None)
        agent.action_space.seed(0)
        return trainer, agent

    unbroken = run(120, tmp_path / "unbroken", *make())
    for total in (2 * STEPS, 4 * STEPS, 120):
        broken = run(total, tmp_path / "broken", *make())
    for arrays, _ in (unbroken, broken):
        assert arrays.pop("0/ep_info/t") is not None  # wall time
    assert_same_states(broken, unbroken)


def test_normalisation_statistics_come_back(tmp_path):
    def make(wrap):
        env = VecNormalize(DummyVecEnv([lambda: make_env(wrap=wrap)]), norm_reward=False)
        return make_sac(env=env)

    for name, wrap in (("box", lambda env: env), ("dict", AsDict)):
        agent = make(wrap)
        agent.learn(40, SaveCheckpoints(tmp_path / name, 1000))
        again = make(wrap)
        assert resume_training(again, tmp_path / name) == 40
        arrays = states_of(again)[0]
        assert_same_states((arrays, []), (states_of(agent)[0], []))
        key = {"box": "", "dict": "copy"}[name]
        assert arrays[f"0/normalize/observation/{key}/count"] > 40
    with pytest.raises(ValueError, match="VecNormalize was"):
        resume_training(make_sac(), tmp_path / "box")


def test_checkpoints_come_as_often_as_asked_and_the_last_at_the_end(tmp_path):
    make_sac().learn(75, SaveCheckpoints(tmp_path, 20, keep=9))
    assert sorted(int(path.stem[5:]) for path in tmp_path.iterdir()) == [20, 40, 60, 75]
    ppo = make_agent(PPO)
    ppo.learn(100, SaveCheckpoints(tmp_path / "ppo", 50, keep=9))
    found = sorted(int(path.stem[5:]) for path in (tmp_path / "ppo").iterdir())
    assert found == [64, 128]  # rollouts are of 32 steps
    assert newest(tmp_path / "ppo").values["agent"]["counters"]["_n_updates"] == 40


@pytest.mark.parametrize("train_freq", [1, 8])
def test_a_step_that_was_not_stored_is_not_counted(tmp_path, train_freq):
    agent = make_sac(train_freq=train_freq)
    stop = StopTrainingOnMaxEpisodes(max_episodes=3)  # at step 60, the fourth of eight
    agent.learn(500, [SaveCheckpoints(tmp_path, 25), stop])
    checkpoint = newest(tmp_path)
    assert agent.num_timesteps == 60
    assert checkpoint.step == {1: 59, 8: 56}[train_freq]
    assert checkpoint.values["replay_buffer"]["pos"] == checkpoint.step
    again = make_sac(train_freq=train_freq)
    assert resume_training(again, tmp_path) == again.num_timesteps == checkpoint.step


def test_on_policy_training_stopped_within_a_rollout_keeps_the_last_checkpoint(tmp_path):
    agent = make_agent(PPO)
    stop = StopTrainingOnMaxEpisodes(max_episodes=2)
    agent.learn(500, [stop, SaveCheckpoints(tmp_path, 32)])
    assert agent.num_timesteps % 32
    assert newest(tmp_path).step == agent.num_timesteps // 32 * 32


def test_a_running_episode_is_not_joined_to_the_next_one(tmp_path):
    def make():
        trainer = make_trainer()
        return make_sac(trainer), trainer

    for total in (50, 85, 120):  # in the middle of an episode, twice
        agent, trainer = make()
        done = resume_training(agent, tmp_path, trainer)
        callbacks = [TrainRewardModel(trainer), SaveCheckpoints(tmp_path, 1000, trainer)]
        agent.learn(total - done, callbacks, reset_num_timesteps=done == 0)
    buffer = agent.replay_buffer
    assert isinstance(buffer, RelabelReplayBuffer)
    assert buffer.lengths.tolist() == [STEPS] * 4  # 2 before step 50, 1 in 35 steps, 1 in 35 steps
    assert buffer.timeouts[[49, 84]].ravel().tolist() == [1, 1]


def test_n_step_returns_do_not_cross_the_seam(tmp_path):
    agent = make_sac(n_steps=3, gamma=0.9).learn(50, SaveCheckpoints(tmp_path, 1000))
    again = make_sac(n_steps=3, gamma=0.9, seed=5)
    resume_training(again, tmp_path)
    again.learn(5, reset_num_timesteps=False)
    buffer = again.replay_buffer
    assert buffer is not None
    before, at = buffer._get_samples(np.array([47])), buffer._get_samples(np.array([48]))
    rewards = buffer.rewards[:, 0]
    weights = 0.9 ** np.arange(3)
    assert before.rewards.item() == pytest.approx((rewards[47:50] * weights).sum())
    assert at.rewards.item() == pytest.approx((rewards[48:50] * weights[:2]).sum())
    assert at.dones.item() == 0
    np.testing.assert_array_equal(at.next_observations[0], buffer.next_observations[49, 0])
    assert agent.replay_buffer is not None
    np.testing.assert_array_equal(agent.replay_buffer.observations[:50], buffer.observations[:50])


@pytest.mark.parametrize("n_steps", [45, 300])
def test_the_buffer_that_saves_memory_comes_back(tmp_path, n_steps):
    memory = {"handle_timeout_termination": False}

    def make():
        return make_sac(
            optimize_memory_usage=True, replay_buffer_kwargs=memory, buffer_size=200, seed=None
        )

    agent = make()
    agent.learn(n_steps, SaveCheckpoints(tmp_path, 1000))
    again = make()
    assert resume_training(again, tmp_path) == n_steps
    old, new = agent.replay_buffer, again.replay_buffer
    assert old is not None
    assert new is not None
    np.testing.assert_array_equal(old.observations, new.observations)
    assert (new.pos, new.full) == (old.pos, old.full)
    assert new.dones[new.pos - 1] == 1


def test_resumed_envs_begin_with_other_episodes(tmp_path):
    first = make_sac().learn(40, SaveCheckpoints(tmp_path, 1000))
    again = make_sac()
    resume_training(again, tmp_path)
    again.learn(40, reset_num_timesteps=False)
    old, new = first.replay_buffer, again.replay_buffer
    assert old is not None
    assert new is not None
    starts = {tuple(new.observations[row, 0]) for row in (0, STEPS, 40, 40 + STEPS)}
    assert len(starts) == 4
    np.testing.assert_array_equal(old.observations[:40], new.observations[:40])


def test_flattened_observations_need_nothing_special(tmp_path):
    env = make_env(wrap=lambda env: FlattenObservation(AsDict(env)))
    make_sac(env=env).learn(40, SaveCheckpoints(tmp_path, 1000))
    again = make_sac(env=make_env(wrap=lambda env: FlattenObservation(AsDict(env))))
    assert resume_training(again, tmp_path) == 40
