import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from libero_reward_envs.agents import RelabelReplayBuffer, SaveCheckpoints, TrainRewardModel
from libero_reward_envs.agents.training_checkpoints import resume_training
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.redistribution import IRCRTrainer, UniformRewardModel
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer

FIXTURE = Path(__file__).parents[1] / "data" / "rrd" / "original_buffer_samples.npz"


class CountEnv(gym.Env):
    """The state is the number of the step, or always 0; ends by time after `n_steps`."""

    def __init__(self, n_steps=20, reward=1.0, constant=False):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self._n_steps, self._reward, self._constant = n_steps, reward, constant
        self._step = self._episode = 0

    def _observe(self):
        return np.array([0 if self._constant else self._step], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        self._episode += 1
        return self._observe(), {}

    def step(self, action):
        self._step += 1
        reward = self._reward * self._episode
        return self._observe(), reward, False, self._step >= self._n_steps, {}


def make_agent(env, trainer=None, algorithm=SAC, model=None, **arguments):
    trainer = trainer or RRDTrainer(RRDRewardModel({"state": (1,)}, 1, hidden_sizes=(8,)))
    settings = {"learning_starts": 20, "batch_size": 8, "buffer_size": 1000, **arguments}
    buffer = {"reward_model": model or trainer.model, **settings.pop("replay_buffer_kwargs", {})}
    agent = algorithm(
        "MlpPolicy", env, replay_buffer_class=RelabelReplayBuffer, replay_buffer_kwargs=buffer,
        policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings,
    )  # fmt: skip
    return agent, trainer


def buffer_of(agent) -> RelabelReplayBuffer:
    assert isinstance(agent.replay_buffer, RelabelReplayBuffer)
    return agent.replay_buffer


@pytest.mark.parametrize(
    ("algorithm", "schedule"),
    [
        (SAC, {}),
        (SAC, {"train_freq": 4, "gradient_steps": 3}),
        (TD3, {"train_freq": (1, "episode"), "gradient_steps": -1}),
    ],
)
def test_one_reward_step_follows_each_critic_step(algorithm, schedule):
    agent, trainer = make_agent(CountEnv(), algorithm=algorithm, **schedule)
    agent.learn(100, callback=TrainRewardModel(trainer))
    assert trainer.n_steps == agent._n_updates > 20
    assert buffer_of(agent).model_version == trainer.n_steps
    twice, trainer = make_agent(CountEnv(), algorithm=algorithm, **schedule)
    twice.learn(100, callback=TrainRewardModel(trainer, steps_per_gradient_step=2))
    assert trainer.n_steps == 2 * twice._n_updates


def test_baselines_that_need_finished_episodes_train_the_same_way():
    trainer = IRCRTrainer()
    agent, _ = make_agent(CountEnv(), trainer)
    agent.learn(100, callback=TrainRewardModel(trainer))
    assert trainer.n_steps == agent._n_updates
    np.testing.assert_allclose(buffer_of(agent).returns, 20 * np.arange(1, 6))
    rewards = set(np.round(buffer_of(agent).sample(200).rewards.numpy().ravel(), 6).tolist())
    assert rewards == {0.0, 0.25, 0.5, 0.75, 1.0}
    uniform, _ = make_agent(CountEnv(), model=UniformRewardModel())
    uniform.learn(60)
    assert set(buffer_of(uniform).sample(200).rewards.numpy().ravel()) == {1.0, 2.0, 3.0}


def test_a_reward_model_that_is_not_the_trained_one_is_refused(tmp_path):
    agent, trainer = make_agent(CountEnv())
    other = RRDTrainer(RRDRewardModel({"state": (1,)}, 1, hidden_sizes=(8,)))
    with pytest.raises(ValueError, match="another model than the one that is trained"):
        agent.learn(10, callback=TrainRewardModel(other))
    agent.learn(40, callback=TrainRewardModel(trainer))
    agent.save(tmp_path / "agent.zip")
    loaded = SAC.load(tmp_path / "agent.zip", CountEnv())
    with pytest.raises(ValueError, match=r"Set `agent\.replay_buffer\.reward_model"):
        loaded.learn(10, callback=TrainRewardModel(trainer))
    buffer_of(loaded).reward_model = trainer.model
    loaded.learn(10, callback=TrainRewardModel(trainer))
    with pytest.raises(ValueError, match="SaveCheckpoints the same `trainer`"):
        agent.learn(10, callback=[TrainRewardModel(trainer), SaveCheckpoints(tmp_path / "c", 10)])


class StopAt(BaseCallback):
    """Stops the training at a step of it."""

    def __init__(self, n_calls):
        super().__init__()
        self._n_calls = n_calls

    def _on_step(self):
        return self.n_calls % self._n_calls != 0


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_an_episode_is_never_joined_to_the_next_after_a_stop(reset, constant):
    agent, trainer = make_agent(CountEnv(constant=constant))
    for _ in range(3):
        callbacks = [TrainRewardModel(trainer), StopAt(47)]
        agent.learn(10_000, callback=callbacks, reset_num_timesteps=reset)
    assert set(buffer_of(agent).lengths.tolist()) == {20}
    assert len(buffer_of(agent).lengths) == 6
    for _ in range(2):
        agent.learn(35, callback=TrainRewardModel(trainer), reset_num_timesteps=reset)
    assert set(buffer_of(agent).lengths.tolist()) == {20}


def test_a_buffer_too_small_for_an_episode_and_equal_returns_are_warned_of():
    venv = DummyVecEnv([CountEnv] * 4)
    agent, trainer = make_agent(venv, buffer_size=60)
    with pytest.warns(UserWarning, match="No reward step was made in .* critic steps"):
        agent.learn(100, callback=TrainRewardModel(trainer))
    agent, trainer = make_agent(CountEnv(n_steps=2, reward=0.0))
    with pytest.warns(UserWarning, match=r"All \d+ episodes have a return of 0"):
        agent.learn(60, callback=TrainRewardModel(trainer))
    agent, trainer = make_agent(CountEnv(n_steps=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(60, callback=TrainRewardModel(trainer))


def test_on_policy_agents_are_pointed_to_the_wrapper():
    trainer = RRDTrainer(RRDRewardModel({"state": (1,)}, 1))
    with pytest.raises(TypeError, match=r"VecLearnedReward\(online=True\)"):
        PPO("MlpPolicy", CountEnv(), n_steps=8, batch_size=8, device="cpu").learn(
            8, callback=TrainRewardModel(trainer)
        )
    with pytest.raises(ValueError, match="`steps_per_gradient_step` must be at least 1"):
        TrainRewardModel(trainer, steps_per_gradient_step=0)


def test_resume_with_other_settings_is_refused_by_name(tmp_path):
    def start(buffer=None, **settings):
        model = RRDRewardModel({"state": (1,)}, 1, hidden_sizes=(8,))
        return make_agent(
            CountEnv(), RRDTrainer(model, **settings), replay_buffer_kwargs=buffer or {}
        )

    agent, trainer = start()
    agent.learn(60, callback=[TrainRewardModel(trainer), SaveCheckpoints(tmp_path, 20, trainer)])
    for settings, message in (
        ({"return_scale": 7.0}, "return_scale=1.0, this one has 7.0"),
        ({"bias_correction": True}, "bias_correction=False, this one has True"),
        ({"learning_rate": 1.0}, "learning_rate=0.0003, this one has 1.0"),
        ({"buffer": {"n_steps": 3}}, "n_steps 3, got 1"),
        ({"buffer": {"step_cost": 0.5}}, "step_cost 0.5, got 0.0"),
    ):
        agent, trainer = start(**settings)
        with pytest.raises(ValueError, match=message):
            resume_training(agent, tmp_path, trainer)
    agent, trainer = start()
    assert resume_training(agent, tmp_path, trainer) == 60


def test_the_buffer_keeps_and_evicts_episodes_as_the_released_one():
    with np.load(FIXTURE, allow_pickle=False) as file:
        case = {key: file[key] for key in file}
    space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    actions = gym.spaces.Box(-1, 1, (2,), np.float32)
    for limit, size in (("full", 1000), ("evict", 45)):
        model = RRDRewardModel({"state": (3,)}, 2)
        buffer = RelabelReplayBuffer(size, space, actions, "cpu", reward_model=model)
        first = 0
        for number, length in enumerate(case["lengths"]):
            observations = case[f"ep{number}_obs"]
            for step in range(length):
                buffer.add(
                    observations[step][None], observations[step + 1][None],
                    case[f"ep{number}_act"][step][None], case[f"ep{number}_rew"][step][None],
                    np.array([step == length - 1]), [{}],
                )  # fmt: skip
            _, n_held, first, _ = case[f"rrd_{limit}_state_after_each_episode"][number]
            expected = case["lengths"][first : first + n_held]
            assert buffer.lengths.tolist() == expected.tolist()
        source = case[f"rrd_{limit}_subsequence_source"]
        found = buffer.gather(source[:, 0, 0] - first, source[:, :, 1])
        assert isinstance(found, Transitions)
        for name, ours in (
            ("obs", found.observations["state"]),
            ("obs_next", found.next_observations["state"]),
            ("acts", found.actions),
        ):
            expected = case[f"rrd_{limit}_rrd_{name}"]
            np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=1e-6)
        per_step = buffer.returns / buffer.lengths
        np.testing.assert_allclose(
            per_step[source[:, 0, 0] - first], case[f"rrd_{limit}_rrd_rews"][:, 0], rtol=1e-6
        )
