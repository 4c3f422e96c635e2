import dataclasses

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from libero_reward_envs.data import Episode, EpisodeDataset
from libero_reward_envs.evaluation import annotation as module
from libero_reward_envs.evaluation.annotation import (
    annotate_episodes,
    apply_annotations,
    read_annotations,
)
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers.reward_mix import RewardMix


class PositionRewardModel:
    observation_keys = ("state",)

    def __init__(self, scale=1.0):
        self.n_batches = 0
        self.arguments = {"scale": scale}

    def get_weights(self):
        return {}

    def compute_reward(self, transitions):
        self.n_batches += 1
        return transitions.next_observations["state"][:, 0].astype(np.float32)


def make_episode(seed, n_steps=4):
    rng = np.random.default_rng(seed)
    return Episode(
        {"state": rng.normal(size=(n_steps + 1, 2)).astype(np.float32)},
        rng.uniform(-1, 1, (n_steps, 3)).astype(np.float32),
        np.eye(n_steps, dtype=np.float32)[-1],
        terminated=True,
        success=True,
    )


@pytest.fixture
def dataset():
    return EpisodeDataset([make_episode(seed, 3 + seed) for seed in range(5)])


def test_rewards_are_the_models_and_the_data_stays(dataset, tmp_path):
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, PositionRewardModel(), path)
    learned = apply_annotations(dataset, path)
    for before, after, summary in zip(dataset, learned, learned.summaries(), strict=True):
        np.testing.assert_array_equal(after.rewards, before.observations["state"][1:, 0])
        np.testing.assert_array_equal(before.rewards, np.eye(len(before))[-1])
        assert after.success
        assert summary.episode_return == pytest.approx(float(after.rewards.sum()))
    assert len(learned[1:3]) == 2


def test_a_rule_is_followed_and_kept(dataset, tmp_path):
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, PositionRewardModel(), path, reward_mix=RewardMix("difference"))
    for before, rewards in zip(dataset, read_annotations(path).rewards, strict=True):
        positions = before.observations["state"][:, 0]
        np.testing.assert_allclose(rewards, np.diff(positions), atol=1e-6)
    assert read_annotations(path).made_by["reward_mix"]["mode"] == "difference"


def test_a_run_that_was_stopped_goes_on(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAVE_EVERY", 2)
    path, whole = tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"

    class StopError(Exception):
        pass

    def stop(n_done):
        if n_done == 3:
            raise StopError

    with pytest.raises(StopError):
        annotate_episodes(dataset, PositionRewardModel(), path, on_episode=stop)
    assert len(read_annotations(path).rewards) == 2
    model = PositionRewardModel()
    annotate_episodes(dataset, model, path)
    assert model.n_batches == 3
    annotate_episodes(dataset, PositionRewardModel(), whole)
    assert path.read_bytes() == whole.read_bytes()


def test_rewards_of_another_model_rule_or_dataset_are_refused(dataset, tmp_path):
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, RRDRewardModel({"state": (2,)}, 3, seed=0), path)
    with pytest.raises(ValueError, match="another model or rule"):
        annotate_episodes(dataset, RRDRewardModel({"state": (2,)}, 3, seed=1), path)
    model = RRDRewardModel({"state": (2,)}, 3, seed=0)
    with pytest.raises(ValueError, match="another model or rule"):
        annotate_episodes(dataset, model, path, reward_mix=RewardMix(step_cost=1.0))
    with pytest.raises(ValueError, match="of 5 episodes, the data has 4"):
        apply_annotations(dataset[:4], path)
    other = [*dataset[:4], dataclasses.replace(dataset[4], actions=0.5 * dataset[4].actions)]
    view = apply_annotations(EpisodeDataset(other), path)
    view[3]
    with pytest.raises(ValueError, match="Episode 4 has other actions, rewards or"):
        view[4]


def test_a_damaged_file_is_refused(dataset, tmp_path):
    path = tmp_path / "rewards.safetensors"
    with pytest.raises(FileNotFoundError):
        read_annotations(path)
    annotate_episodes(dataset, PositionRewardModel(), path)
    content = path.read_bytes()
    for damaged in (content[:-5], content[:20], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="Cannot read"):
            read_annotations(path)


class UntoldRewardModel:
    """One that does not tell what it is made of."""

    observation_keys = ("state",)

    def compute_reward(self, transitions):
        return transitions.next_observations["state"][:, 1].astype(np.float32)


def test_a_model_that_cannot_be_told_from_another_does_not_go_on(dataset, tmp_path):
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, UntoldRewardModel(), path)
    assert len(apply_annotations(dataset, path)[0].rewards) == 3
    with pytest.raises(ValueError, match="UntoldRewardModel has no `arguments`"):
        annotate_episodes(dataset, UntoldRewardModel(), path)


def test_observations_that_the_model_read_are_compared(tmp_path):
    rng = np.random.default_rng(0)

    def make_mute(seed):
        observations = make_episode(seed).observations
        other = {"other": rng.random((5, 1), np.float32)}
        arrays = np.zeros((4, 0), np.float32), np.zeros(4, np.float32)
        return Episode({**observations, **other}, *arrays, terminated=False, success=False)

    dataset, others = (EpisodeDataset([make_mute(first), make_mute(9)]) for first in (0, 1))
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, PositionRewardModel(), path)
    assert read_annotations(path).made_by["observation_keys"] == ["state"]
    with pytest.raises(ValueError, match="Episode 0 has other actions, rewards or observations"):
        annotate_episodes(others, PositionRewardModel(), path)
    view = apply_annotations(others, path)
    view[1]
    for keys in (None, ["other"], ["state"]):
        with pytest.raises(ValueError, match="Episode 0 has other"):
            view.read(0, keys)
    assert list(apply_annotations(dataset, path).read(0, ["other"]).observations) == ["other"]


def test_an_empty_set_has_no_rewards_and_goes_on(tmp_path):
    path = tmp_path / "rewards.safetensors"
    empty = EpisodeDataset([])
    assert annotate_episodes(empty, PositionRewardModel(), path).digests.shape == (0, 16)
    assert read_annotations(path).rewards == []
    assert len(apply_annotations(empty, path)) == 0
    grown = annotate_episodes(EpisodeDataset([make_episode(0)]), PositionRewardModel(), path)
    assert [len(rewards) for rewards in grown.rewards] == [4]


def test_what_was_skipped_is_still_told(dataset, tmp_path):
    class SkippingSource:
        skipped = ("file b is damaged",)
        read, summaries = dataset.read, dataset.summaries

        def __len__(self):
            return len(dataset)

    found = EpisodeDataset(SkippingSource())
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(found, PositionRewardModel(), path)
    assert apply_annotations(found, path).skipped == ["file b is damaged"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": np.array([3.0, 4, 5, 6, 7])}, "do not fit"),
        ({"digests": np.zeros((5, 16), np.int16)}, "do not fit"),
        ({"made_by": "{}"}, "which observations"),
        ({"made_by": "[]"}, "which observations"),
    ],
)
def test_arrays_of_other_types_are_refused(dataset, tmp_path, changes, message):
    path = tmp_path / "rewards.safetensors"
    annotate_episodes(dataset, PositionRewardModel(), path)
    with safe_open(path, framework="numpy") as file:
        arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        made_by = (file.metadata() or {})["made_by"]
    made_by = changes.pop("made_by", made_by)
    path.write_bytes(save({**arrays, **changes}, {"made_by": made_by}))
    with pytest.raises(ValueError, match=message):
        read_annotations(path)
