import numpy as np
import pytest

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.rrd import RRDRewardModel


@pytest.fixture
def transitions():
    rng = np.random.default_rng(0)
    observations = [{key: rng.normal(size=(7, 3)) for key in ("state", "goal")} for _ in range(2)]
    actions = rng.uniform(-1, 1, (7, 2)).astype(np.float32)
    return Transitions(observations[0], actions, observations[1], np.zeros(7, bool))


class GoodRewardModel:
    observation_keys = ("state",)

    def compute_reward(self, transitions):
        return transitions.observations["state"].sum(1).astype(np.float32)


class FloatRewardModel(GoodRewardModel):
    def compute_reward(self, transitions):
        return super().compute_reward(transitions).astype(np.float64)


class BatchRewardModel(GoodRewardModel):
    def compute_reward(self, transitions):
        rewards = super().compute_reward(transitions)
        return rewards - rewards.mean()


class ChangingRewardModel(GoodRewardModel):
    def compute_reward(self, transitions):
        transitions.actions[:] = 0
        return super().compute_reward(transitions)


class RandomRewardModel(GoodRewardModel):
    rng = np.random.default_rng(0)

    def compute_reward(self, transitions):
        return self.rng.normal(size=len(transitions.actions)).astype(np.float32)


class ListRewardModel(GoodRewardModel):
    observation_keys = ["state"]  # noqa: RUF012


def test_model_that_keeps_the_rules_passes(transitions, tmp_path):
    check_reward_model(GoodRewardModel(), transitions, None)
    check_reward_model(RRDRewardModel({"goal": (3,), "state": (3,)}, 2), transitions, tmp_path)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FloatRewardModel(), "Expected float32 rewards, got float64 from FloatRewardModel"),
        (BatchRewardModel(), "BatchRewardModel differs by .* between single rows and a batch"),
        (ChangingRewardModel(), "ChangingRewardModel changed the transitions"),
        (RandomRewardModel(), "RandomRewardModel gave other rewards .* the second time"),
        (ListRewardModel(), "as a tuple of names"),
        (GoodRewardModel(), "GoodRewardModel has no `save_pretrained`"),
    ],
)
def test_model_that_breaks_a_rule_is_told_which(model, message, transitions, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_reward_model(model, transitions, tmp_path)


def test_model_that_forgets_something_when_saved_is_noticed(transitions, tmp_path, monkeypatch):
    model = RRDRewardModel({"state": (3,)}, 2, reward_offset=1.0)
    forgetful = {**model.arguments, "reward_offset": 0.0}
    monkeypatch.setattr(RRDRewardModel, "arguments", forgetful)
    with pytest.raises(ValueError, match="other rewards once saved and loaded"):
        check_reward_model(model, transitions, tmp_path)


def test_one_transition_is_not_enough(transitions):
    with pytest.raises(ValueError, match="at least 2 transitions"):
        check_reward_model(GoodRewardModel(), transitions.rows(slice(1)), None)
