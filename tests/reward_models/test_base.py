import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import types

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from libero_reward_envs.reward_models import saving
from libero_reward_envs.reward_models.base import (
    REWARD_MODEL_CLASSES,
    PretrainedRewardModel,
    RewardModel,
    Transitions,
    check_rewards,
    load_reward_model,
    register_reward_model,
)


class LinearRewardModel(PretrainedRewardModel):
    """Rewards the state's sum times a weight."""

    observation_keys = ("state",)

    def __init__(self, size=2):
        self.size = size
        self.weight = np.ones(size, np.float32)
        self.training = {"seed": 3}

    @property
    def arguments(self):
        return {"size": self.size}

    def get_weights(self):
        return {"weight": self.weight}

    def set_weights(self, weights):
        self.weight = weights["weight"]

    def compute_reward(self, transitions):
        return (transitions.observations["state"] @ self.weight).astype(np.float32)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(REWARD_MODEL_CLASSES, "LinearRewardModel", "given_by_a_test:Linear")
    monkeypatch.setitem(sys.modules, "given_by_a_test", LinearModule)


class LinearModule:
    Linear = LinearRewardModel


@pytest.fixture
def folder(tmp_path):
    model = LinearRewardModel()
    model.weight = np.array([2, 3], np.float32)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewards_of(model):
    state = {"state": np.eye(2, dtype=np.float32)}
    return model.compute_reward(Transitions(state, np.zeros((2, 1)), state, np.zeros(2, bool)))


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_saved_model_is_three_files_and_loads_again(folder):
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    for model in (load_reward_model(folder), LinearRewardModel.from_pretrained(str(folder))):
        assert isinstance(model, RewardModel)
        assert isinstance(model, LinearRewardModel)
        assert rewards_of(model).tolist() == [2, 3]
        assert model.training == {"seed": 3}
    card = (folder / "README.md").read_text()
    assert "Rewards the state's sum times a weight." in card
    assert "`state`" in card


def test_saving_again_replaces_the_model_and_keeps_other_files(folder):
    (folder / "notes.txt").write_text("mine")
    LinearRewardModel().save_pretrained(folder)
    assert rewards_of(load_reward_model(folder)).tolist() == [1, 1]
    assert len(os.listdir(folder)) == 4


def save_and_die(model, folder, moment, monkeypatch):
    """Save, but die before the os.replace of that number; every file comes into being by one."""
    calls = iter(range(9))

    def dying_replace(source, target, replace=os.replace):
        if next(calls) == moment:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(saving.os, "replace", dying_replace)
        model.save_pretrained(folder)


@pytest.mark.parametrize("moment", list(itertools.product(range(6), range(6))))
def test_save_that_dies_leaves_the_old_model_or_the_new_one(folder, monkeypatch, moment):
    possible, model = [[2, 3]], LinearRewardModel()
    for weights, death in zip(([4, 5], [6, 7]), moment, strict=True):
        model = LinearRewardModel()
        model.weight = np.array(weights, np.float32)
        save_and_die(model, folder, death, monkeypatch)
        possible = [possible[-1], weights]
        found = rewards_of(load_reward_model(folder)).tolist()
        assert found in possible
        possible = [found]
    model.save_pretrained(folder)
    assert rewards_of(load_reward_model(folder)).tolist() == [6, 7]
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]


def test_first_save_that_dies_leaves_no_model_and_the_next_one_works(tmp_path, monkeypatch):
    save_and_die(LinearRewardModel(), tmp_path, 1, monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"No config\.json"):
        load_reward_model(tmp_path)
    LinearRewardModel().save_pretrained(tmp_path)
    assert rewards_of(load_reward_model(tmp_path)).tolist() == [1, 1]


def test_pushing_uploads_the_three_files(monkeypatch):
    uploads = []

    class FakeApi:  # the Hub cannot be reached from a test
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repo_id, **_):
            return types.SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, repo_id, folder_path, **_):
            uploads.append((repo_id, sorted(os.listdir(folder_path))))
            return "address"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert LinearRewardModel().push_to_hub("model", token="secret") == "address"
    assert uploads == [("me/model", ["README.md", "config.json", "model.safetensors"])]


def test_model_of_not_finite_weights_is_not_saved(tmp_path):
    model = LinearRewardModel()
    model.weight[0] = np.nan
    with pytest.raises(ValueError, match="Tensor 'weight' in LinearRewardModel holds NaN"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["missing/deep/folder", "no-such-folder", "../x", "a b/c"])
def test_missing_folder_is_reported_without_asking_the_network(name):
    with pytest.raises(FileNotFoundError, match=re.escape(repr(name))):
        load_reward_model(name)


def test_hub_id_that_cannot_be_reached_is_reported():
    with pytest.raises(FileNotFoundError, match="'someone/model' is neither a folder here nor"):
        LinearRewardModel.from_pretrained("someone/model", local_files_only=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_reported(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No {name} in"):
        load_reward_model(folder)


def test_damaged_config_is_reported(folder):
    path = folder / "config.json"
    for content, message in (
        ("{", "is not JSON"),
        ("[]", "no field 'class_name'"),
        ("{}", "no field 'class_name'"),
        ('"\\ud800', "is not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_reward_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": "os.system"}, "Unknown class 'os.system' .* Known: RRDRewardModel"),
        ({"class_name": "RRDRewardModel"}, "Expected a LinearRewardModel, got a RRDRewardModel"),
        ({"arguments": {"depth": 2}}, "`arguments` in .* do not fit"),
        ({"arguments": {"size": 3}}, r"'weight' of shape \(3,\) .* got \(2,\)"),
        ({"format_version": 2}, "format version 2, this package reads up to 1. Upgrade"),
        ({"weights_sha256": "0" * 64}, "damaged or not the one of its config.json"),
    ],
)
def test_config_that_does_not_fit_is_reported(folder, changes, message):
    edit_config(folder, **changes)
    load = load_reward_model
    if changes.get("class_name") == "RRDRewardModel":
        load = LinearRewardModel.from_pretrained
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"other": np.ones(2, np.float32)}, r"missing \['weight'\], unexpected \['other'\]"),
        ({"weight": np.ones((2, 1), np.float32)}, "'weight' of shape"),
        ({"weight": np.ones(2)}, "type float32, got .* float64"),
        ({"weight": np.array([1, np.inf], np.float32)}, "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_reported(folder, weights, message):
    save_file(weights, folder / "model.safetensors")
    edit_config(folder, weights_sha256=None)
    with pytest.raises(ValueError, match=message):
        load_reward_model(folder)


def test_weights_file_cut_short_is_reported(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged or not the one"):
        load_reward_model(folder)
    edit_config(folder, weights_sha256=None)
    with pytest.raises(ValueError, match="is damaged"):
        load_reward_model(folder)


def test_weights_that_are_single_numbers_keep_their_shape(tmp_path):
    config = {
        "class_name": "x",
        "format_version": 1,
        "observation_keys": [],
        "arguments": {},
        "training": {},
    }
    saving.write_folder(tmp_path, config, {"weight": np.ones((), np.float32)}, "")
    assert saving.read_weights(tmp_path, saving.read_config(tmp_path))["weight"].shape == ()


def test_weights_are_a_plain_safetensors_file(folder):
    assert load_file(folder / "model.safetensors")["weight"].tolist() == [2, 3]


def test_name_cannot_be_registered_for_two_classes(monkeypatch):
    monkeypatch.setitem(REWARD_MODEL_CLASSES, "MyRewardModel", "mine:MyRewardModel")
    register_reward_model("MyRewardModel", "mine:MyRewardModel")
    with pytest.raises(ValueError, match="already registered as 'mine:MyRewardModel'"):
        register_reward_model("MyRewardModel", "other:MyRewardModel")


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([0.0, 0.0], "as a NumPy array, got <class 'list'> from LinearRewardModel"),
        (np.zeros((2, 1), np.float32), r"shape \(2,\), got \(2, 1\) from LinearRewardModel"),
        (np.zeros(2), "Expected float32 rewards, got float64"),
        (np.array([0, np.nan], np.float32), "got nan in row 1"),
    ],
)
def test_rewards_of_a_wrong_kind_are_refused_naming_the_model(rewards, message):
    with pytest.raises(ValueError, match=message):
        check_rewards(rewards, 2, LinearRewardModel())


def test_base_is_imported_without_torch():
    program = textwrap.dedent("""
        import sys
        import libero_reward_envs.data, libero_reward_envs.reward_models.base
        assert not {"torch", "libero", "stable_baselines3", "mujoco"} & sys.modules.keys()
    """)
    subprocess.run([sys.executable, "-c", program], check=True)
