"""What a relabelling replay buffer takes, and what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from libero_reward_envs.agents import RelabelReplayBuffer
from libero_reward_envs.reward_models.rrd import RRDRewardModel

ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)


class EffortRewardModel:
    """-|a|^2"""

    def __init__(self, key="state"):
        self.observation_keys = (key,)

    def compute_reward(self, transitions):
        return -np.square(transitions.actions).sum(1)


class LateRewardModel(EffortRewardModel):
    def __init__(self):
        super().__init__("episode/length")


def make(replay_spaces, reward_model, **options):
    space = replay_spaces["box"]
    return RelabelReplayBuffer(60, space, ACTIONS, "cpu", reward_model=reward_model, **options)


def test_the_models_images_have_their_channels_last():
    class BrightnessRewardModel:
        observation_keys = ("image",)
        observation_shapes: dict[str, tuple[int, ...]]

        def compute_reward(self, transitions):
            for side in (transitions.observations, transitions.next_observations):
                self.shape = side["image"].shape[1:]
            return transitions.observations["image"].mean((1, 2, 3), dtype=np.float32)

    space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (3, 8, 10), np.uint8)})
    model = BrightnessRewardModel()
    buffer = RelabelReplayBuffer(10, space, ACTIONS, "cpu", reward_model=model)
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 8, 10), np.uint8)
    observation = {"image": image}
    buffer.add(observation, observation, np.zeros((1, 2)), np.ones(1), np.ones(1), [{}])
    samples = buffer.sample(2)
    assert model.shape == (8, 10, 3)
    assert samples.observations["image"].shape[1:] == (3, 8, 10)
    assert samples.rewards[0, 0].item() == pytest.approx(image.mean(), rel=1e-5)
    model.observation_shapes = {"image": (3, 8, 10)}
    buffer.reward_model = model
    buffer.sample(2)
    assert model.shape == (3, 8, 10)


def test_a_saved_model_is_loaded(replay_spaces, random_play, tmp_path):
    model = RRDRewardModel({"state": (2,)}, 2, seed=3)
    model.save_pretrained(tmp_path)
    rewards = []
    for given in (model, str(tmp_path)):
        buffer = make(replay_spaces, given)
        random_play(buffer, 0).play(20)
        np.random.seed(0)  # noqa: NPY002
        rewards.append(buffer.sample(30).rewards)
    assert torch.equal(*rewards)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (EffortRewardModel("depth"), {}, "'depth', which is not among the observations: state"),
        (EffortRewardModel(), {"relabel": "sometimes"}, "Unknown `relabel` 'sometimes'"),
        (EffortRewardModel(), {"relabel": "if_older_than"}, "Give `max_age`"),
        (EffortRewardModel(), {"max_age": 3}, "Give `max_age`"),
        (EffortRewardModel(), {"relabel": "if_older_than", "max_age": -1}, "not be negative"),
        (EffortRewardModel(), {"optimize_memory_usage": True}, "optimize_memory_usage=False"),
        (EffortRewardModel(), {"mode": "add"}, "Unknown mode 'add'"),
        (LateRewardModel(), {"relabel": "never"}, "only when its episode has ended"),
    ],
)
def test_wrong_arguments_are_refused(replay_spaces, model, options, message):
    with pytest.raises(ValueError, match=message):
        make(replay_spaces, model, **options)


def test_unscaled_actions_are_refused(replay_spaces):
    wide = gym.spaces.Box(-2, 2, (1,), np.float32)
    with pytest.raises(ValueError, match="RescaleAction"):
        RelabelReplayBuffer(10, replay_spaces["box"], wide, reward_model=EffortRewardModel())


def test_a_models_wrong_output_is_reported(replay_spaces, random_play):
    class BrokenRewardModel(EffortRewardModel):
        def compute_reward(self, transitions):
            return super().compute_reward(transitions) * np.float32(np.nan)

    for relabel in ("always", "if_older_than"):
        age = 1 if relabel == "if_older_than" else None
        buffer = make(replay_spaces, BrokenRewardModel(), relabel=relabel, max_age=age)
        random_play(buffer, 0).play(5)
        with pytest.raises(ValueError, match="Expected finite rewards"):
            buffer.sample(3)
    buffer = make(replay_spaces, BrokenRewardModel(), relabel="never")
    with pytest.raises(ValueError, match="Expected finite rewards"):
        random_play(buffer, 0).play(5)
