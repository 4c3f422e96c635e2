"""What a configuration becomes: corrected from the checkpoint, refused, or made into envs."""

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnvWrapper

from libero_reward_envs.agent_config import parse_agent_config
from libero_reward_envs.agents import agent_making
from libero_reward_envs.agents.agent_making import find_memory_bytes, make_agent
from libero_reward_envs.agents.agent_setup import make_envs, make_plan
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_pt import write_checkpoint_pt
from libero_reward_envs.wrappers import VecLearnedReward, VecRewardDataCollector

TINY = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}}


def plan(block: dict[str, Any], *overrides: str):
    return make_plan(parse_agent_config(block, overrides))


def use(path: Path, env: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    reward = {"checkpoint_path": str(path), **settings}
    return {
        "env": env or {},
        "reward": {"use_reward_model": True, "reward_model": reward},
        "agent": {"policy_kwargs": TINY, "buffer_size": 50},
    }


def test_what_differs_from_the_checkpoint_is_corrected_with_both_values_named(
    constant_classifier,
) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    given = {
        "image_keys": ["wrist_image", "agentview_image"],
        "image_size": [3, 64, 64],
        "hidden_dim": 256,
        "num_spatial_blocks": 8,
        "use_pretrain": True,
        "freeze_encoder": True,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = plan(use(path, **given)).config.reward.reward_model
    told = [str(warning.message) for warning in caught]
    expected = {
        "image_keys": ("['wrist_image', 'agentview_image']", "['agentview_image']"),
        "image_size": ("[3, 64, 64]", "[3, 40, 40]"),
        "hidden_dim": ("256", "16"),
        "num_spatial_blocks": ("8", "2"),
        "use_pretrain": ("True", "False"),
        "freeze_encoder": ("True", "False"),
    }
    assert len(told) == 6
    for (name, (before, after)), text in zip(expected.items(), told, strict=True):
        assert f"`reward.reward_model.{name}` is {before}" in text
        assert f"was trained with {after}." in text
    assert settings.hidden_dim == 16
    assert settings.image_keys == ("agentview_image",)


def test_what_agrees_with_the_checkpoint_is_no_matter(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(use(path, hidden_dim=16, image_keys=["agentview_image"], image_size=[3, 40, 40]))


def test_the_env_gets_the_images_of_the_checkpoint(constant_classifier) -> None:
    path = constant_classifier(image_keys=["robot0_eye_in_hand_image"])
    arguments = plan(use(path)).config.env.arguments
    assert arguments == {
        "obs_type": "pixels",
        "cameras": ["robot0_eye_in_hand"],
        "image_size": 40,
        "orientation": "upright",
    }


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"image_size": 64}, "image_size=40, got 64"),
        ({"obs_type": "state"}, "obs_type='pixels', got 'state'"),
        ({"cameras": ["frontview"]}, r"cameras=\['agentview'\], got \['frontview'\]"),
    ],
)
def test_an_env_that_is_told_otherwise_is_refused(constant_classifier, env, message) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    with pytest.raises(ValueError, match=message):
        plan(use(path, env))


def test_more_than_the_checkpoint_reads_may_be_observed(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    env = {"cameras": ["agentview", "frontview"], "obs_type": "pixels_state"}
    given = {**env, "image_size": 40, "orientation": "upright"}
    assert plan(use(path, env)).config.env.arguments == given


def test_images_that_the_env_lacks_are_named_with_those_it_has(
    constant_classifier, square_env_id, tmp_path
) -> None:
    there = "agentview_image, robot0_eye_in_hand_image"
    with pytest.raises(ValueError, match=f"'base_camera', which is not among.*{there}"):
        plan(use(constant_classifier(image_keys=["base_camera"])))
    collect = {
        "positive_dir": str(tmp_path / "p"),
        "negative_dir": str(tmp_path / "n"),
        "image_keys": ["base_camera"],
    }
    block = {"reward": {"collect_data": True, "data_collection": collect}}
    with pytest.raises(ValueError, match=f"'base_camera' in the observation, it has: {there}"):
        make_envs(plan(block))
    path = constant_classifier()
    with pytest.raises(ValueError, match=r"\(40, 40, 3\), .* the env gives \(48, 48, 3\)"):
        plan(use(path, {"id": square_env_id, "image_size": 48}))


def test_collection_alone_decides_the_images_too(tmp_path) -> None:
    collect = {"positive_dir": "p", "negative_dir": "n", "image_keys": ["frontview_image"]}
    block = {
        "reward": {
            "collect_data": True,
            "data_collection": collect,
            "reward_model": {"image_keys": ["frontview_image"], "image_size": [3, 64, 64]},
        }
    }
    arguments = plan(block).config.env.arguments
    assert arguments == {"obs_type": "pixels", "cameras": ["frontview"], "image_size": 64}


def test_a_missing_checkpoint_is_told_before_anything_is_made(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(gym, "make", lambda *_, **__: pytest.fail("an env was made"))
    for name in ("nowhere.pt", "nowhere"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            plan(use(tmp_path / name))


def test_the_encoder_of_the_checkpoint_takes_precedence_and_that_is_said_once(
    constant_classifier,
) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    notes = plan(use(path, pretrained_encoder_path="./resnet10_pretrained.pt")).notes
    (note,) = [note for note in notes if "resnet10_pretrained.pt" in note]
    assert "takes precedence" in note


def test_a_pt_checkpoint_serves_too_and_what_it_lacks_is_said(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    model = ClassifierRewardModel.from_pretrained(path)
    assert isinstance(model, ClassifierRewardModel)
    file = path.with_suffix(".pt")
    write_checkpoint_pt(file, model.classifier, epoch=1, train_loss=0.0, train_acc=1.0)
    made = plan(use(file))
    assert isinstance(made.reward_model, ClassifierRewardModel)
    assert made.reward_model.image_shape == (40, 40, 3)
    assert any("neither threshold nor temperature" in note for note in made.notes)


def test_weights_that_were_never_trained_are_refused(tmp_path) -> None:
    network = BinaryRewardClassifier(
        ["agentview_image"], [3, 40, 40], 16, 2, use_pretrain=False, freeze_encoder=False
    )
    ClassifierRewardModel.from_classifier(network).save_pretrained(tmp_path / "new")
    with pytest.raises(RuntimeError, match=r"Expected trained weights in .*new'"):
        plan(use(tmp_path / "new"))


def test_weights_of_another_training_are_refused(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    config = json.loads((path / "config.json").read_text())
    config["training"]["encoder_hash"] = 64 * "0"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"Expected the encoder 0000000000000000\.\.\. in"):
        plan(use(path))


def test_weights_that_are_missing_are_refused(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    model: Any = ClassifierRewardModel.from_pretrained(path)
    file = path.with_suffix(".pt")
    write_checkpoint_pt(file, model.classifier, epoch=1, train_loss=0.0, train_acc=1.0)
    content = torch.load(file, weights_only=True)
    del content["model_state_dict"]["classifier.4.weight"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"classifier\.4\.weight"):
        plan(use(file))


def test_the_discount_of_shaping_is_the_agents(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    block = use(path, mode="potential")
    assert plan(block, "agent.gamma=0.9").config.reward.reward_model.gamma == 0.9
    with pytest.warns(UserWarning, match=r"gamma` is 0\.5, the agent's is 0\.9"):
        plan(block, "agent.gamma=0.9", "reward.reward_model.gamma=0.5")


def test_episodes_wait_for_a_window_of_frames(constant_classifier) -> None:
    path = constant_classifier(image_keys=["agentview_image"])
    made = plan(use(path, mode="success"))
    assert made.config.env.arguments["terminate_on_success"] is False
    assert any("go on after true success" in note for note in made.notes)
    for override in (
        "reward.reward_model.success_window=[1, 1]",
        "reward.reward_model.mode=replace",
    ):
        made = plan(use(path, mode="success"), override)
        assert "terminate_on_success" not in made.config.env.arguments
    made = plan(use(path, mode="success"), "env.terminate_on_success=True")
    assert made.config.env.arguments["terminate_on_success"] is True


def test_collection_stands_inside_the_learned_reward(
    constant_classifier, square_env_id, tmp_path
) -> None:
    """What is collected are the env's own rewards and labels, whatever the agent is given."""
    block = use(constant_classifier(), {"id": square_env_id, "n_envs": 2, "subprocesses": False})
    block["reward"] |= {
        "collect_data": True,
        "data_collection": {
            "positive_dir": str(tmp_path / "positive"),
            "negative_dir": str(tmp_path / "negative"),
            "image_keys": ["front_image"],
            "max_positive_trajectories": 1,
            "max_negative_trajectories": 2,
        },
    }
    venv = make_envs(plan(block))
    assert isinstance(venv, VecLearnedReward)
    assert isinstance(venv.venv, VecRewardDataCollector)
    assert not isinstance(venv.venv.venv, VecEnvWrapper)
    venv.reset()
    for _ in range(30):  # five episodes in each env, of which two succeed
        venv.step(np.zeros((2, 2), np.float32))
    counts = venv.venv.counts
    assert (counts.positive_saved, counts.negative_saved) == (1, 2)
    assert (counts.positive_dropped, counts.negative_dropped) == (3, 4)
    venv.close()
    assert [path.name for path in (tmp_path / "positive").iterdir()] == ["000000.npy"]


def test_a_buffer_beyond_memory_is_refused(square_env_id, monkeypatch) -> None:
    monkeypatch.setattr(agent_making, "find_memory_bytes", lambda: 10**9)
    env = {"id": square_env_id, "image_size": 64}
    with pytest.raises(ValueError, match=r"`agent.buffer_size` of 100000 takes 2.5 GB .* 1.0 GB"):
        plan({"env": env, "agent": {"buffer_size": 100_000}})
    with pytest.raises(ValueError, match=r"`agent.n_steps` of 50000 takes 1.2 GB"):
        plan({"env": {**env, "n_envs": 2}, "agent": {"algorithm": "PPO", "n_steps": 50_000}})
    plan({"env": env, "agent": {"buffer_size": 40_000}})


def test_the_default_buffer_is_a_gigabyte(square_env_id) -> None:
    made = plan({"env": {"id": square_env_id, "image_size": 64}})
    assert made.config.agent.hyperparameters == {"buffer_size": 40_690}
    assert "Replay buffer: 40690 transitions, 1.00 GB." in made.notes
    assert made.config.agent.policy == "MultiInputPolicy"
    assert find_memory_bytes() > 10**8


def test_settings_that_sb3_refuses_are_named(square_env_id) -> None:
    env = {"id": square_env_id, "subprocesses": False}
    with pytest.raises(ValueError, match=r"at least 36 pixels .* 'front_image' of \(32, 32, 3\)"):
        plan({"env": {**env, "image_size": 32}})
    for agent, message in (
        ({"policy": "NoPolicy"}, "NoPolicy"),
        ({"ent_coef": "auto_-1"}, "SAC cannot be made with the settings under `agent`"),
        ({"policy_kwargs": {"activation_fn": "Sharp"}}, "Unknown `activation_fn` 'Sharp'"),
        ({"device": "nonsense"}, "nonsense"),
    ):
        made = plan({"env": env, "agent": {"buffer_size": 10, **agent}})
        venv = make_envs(made)
        with pytest.raises(ValueError, match=message):
            make_agent(made.config.agent, venv)
        venv.close()
    with pytest.raises(ValueError, match="does not belong there"):
        plan({"env": {"id": "LiberoClassifier-v0", "reward_model": "x"}})


def test_words_of_yaml_become_what_sb3_takes(square_env_id) -> None:
    agent = {"buffer_size": 10, "train_freq": [2, "episode"]}
    agent["policy_kwargs"] = {**TINY, "activation_fn": "Tanh"}
    made = plan({"env": {"id": square_env_id, "subprocesses": False}, "agent": agent})
    venv = make_envs(made)
    network: Any = make_agent(made.config.agent, venv)
    assert network.train_freq.frequency == 2
    assert isinstance(network.actor.latent_pi[1], torch.nn.Tanh)
    venv.close()
