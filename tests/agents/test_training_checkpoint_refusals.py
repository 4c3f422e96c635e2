import warnings

import numpy as np
import pytest
from stable_baselines3 import PPO, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import CallbackList

from libero_reward_envs.agents.replay_state import get_replay_state, set_replay_state
from libero_reward_envs.agents.train_reward_model import TrainRewardModel
from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training
from tests.agents.training_makers import (
    AsDict,
    assert_same_states,
    make_agent,
    make_env,
    make_sac,
    make_trainer,
    newest,
    states_of,
)


def test_a_damaged_newest_file_gives_the_one_before(tmp_path):
    make_sac().learn(60, SaveCheckpoints(tmp_path, 40))
    damaged = newest(tmp_path).path
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    agent = make_sac()
    with pytest.warns(UserWarning, match="step_000000060"):
        assert resume_training(agent, tmp_path) == 40
    assert agent.num_timesteps == 40
    agent.learn(40, SaveCheckpoints(tmp_path, 40), reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert newest(tmp_path).step == 80


@pytest.fixture
def checkpointed(tmp_path):
    trainer = make_trainer()
    saving = SaveCheckpoints(tmp_path, 1000, trainer, identity={"task": "a", "n": (1, 2)})
    make_sac(trainer).learn(40, [TrainRewardModel(trainer), saving])
    return tmp_path


IDENTITY = {"task": "a", "n": [1, 2]}


def test_what_was_saved_resumes(checkpointed):
    trainer = make_trainer()
    assert resume_training(make_sac(trainer), checkpointed, trainer, identity=IDENTITY) == 40


@pytest.mark.parametrize(
    ("make", "identity", "message"),
    [
        (lambda t: make_sac(t, policy_kwargs={"net_arch": [9]}), IDENTITY, r"weight was \[8, 3\]"),
        (lambda t: make_sac(t, buffer_size=100), IDENTITY, "rows was 500 and is now 100"),
        (lambda t: make_sac(t, make_env(wrap=AsDict)), IDENTITY, "observation_space was"),
        (lambda t: make_sac(), IDENTITY, "replay_buffer was 'RelabelReplayBuffer' and is now 'Rep"),
        (lambda t: make_agent(TD3), IDENTITY, "algorithm was 'SAC' and is now 'TD3'"),
        (lambda t: make_agent(PPO), IDENTITY, "algorithm was 'SAC' and is now 'PPO'"),
        (lambda t: make_sac(t, ent_coef=0.1), IDENTITY, "other tensors was"),
        (make_sac, {**IDENTITY, "task": "b"}, "identity: task was 'a' and is now 'b'"),
        (make_sac, None, "identity: task was 'a' and is now None"),
    ],
)
def test_another_training_is_refused(checkpointed, make, identity, message):
    trainer = make_trainer()
    agent = make(trainer)
    before = states_of(agent, trainer)
    with pytest.raises(ValueError, match=message):
        resume_training(agent, checkpointed, trainer, identity=identity)
    assert_same_states(states_of(agent, trainer), before)


def test_another_trainer_is_refused(checkpointed):
    trainer = make_trainer(hidden_sizes=(9,))
    agent = make_sac(trainer)
    before = states_of(agent)
    with pytest.raises(ValueError, match="Expected the state of a model with"):
        resume_training(agent, checkpointed, trainer, identity=IDENTITY)
    assert_same_states(states_of(agent), before)
    with pytest.raises(ValueError, match="trainer was 'RRDTrainer' and is now None"):
        resume_training(make_sac(make_trainer()), checkpointed, identity=IDENTITY)


def test_a_new_run_in_the_folder_of_another_is_refused_at_once(checkpointed):
    agent = make_sac()
    with pytest.raises(ValueError, match="later step than 0"):
        agent.learn(100, SaveCheckpoints(checkpointed, 10))
    assert agent.num_timesteps == 0


def test_callbacks_in_the_wrong_order_are_refused(tmp_path):
    trainer = make_trainer()
    inner = CallbackList([TrainRewardModel(trainer)])
    with pytest.raises(ValueError, match="after TrainRewardModel"):
        make_sac(trainer).learn(10, [SaveCheckpoints(tmp_path, 10, trainer), inner])


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 0 and 2"):
        SaveCheckpoints(tmp_path, 0)
    with pytest.raises(ValueError, match="got 5 and 0"):
        SaveCheckpoints(tmp_path, 5, keep=0)
    with pytest.raises(ValueError, match="`identity`"):
        SaveCheckpoints(tmp_path, 5, identity={"task": np.zeros(2)})


def test_a_buffer_whose_state_cannot_be_taken_is_refused(tmp_path):
    class OtherBuffer(HerReplayBuffer):
        pass

    agent = make_sac()
    agent.replay_buffer = object.__new__(OtherBuffer)
    with pytest.raises(TypeError, match="got OtherBuffer"):
        agent.learn(10, SaveCheckpoints(tmp_path, 10))


def test_a_state_of_another_buffer_is_refused():
    small, large = make_sac(buffer_size=50), make_sac().learn(60)
    with pytest.raises(ValueError, match=r"Expected observations of up to \(50, 1, 3\)"):
        set_replay_state(small.replay_buffer, *get_replay_state(large.replay_buffer))
