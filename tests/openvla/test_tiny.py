import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from libero_reward_envs.openvla.action_normalization import find_statistics
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt
from libero_reward_envs.openvla.tiny import SUITES, make_tiny_openvla


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_openvla(tmp_path_factory.mktemp("tiny") / "models" / "tiny", seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenVLAForActionPrediction:
    return OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32)


def test_it_is_small_and_says_that_it_knows_nothing(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    card = (folder / "README.md").read_text()
    assert "random weights" in card
    assert "knows\nnothing" in card
    assert "not measured" in card
    assert not list(folder.parent.glob(".*"))  # no draft is left


def test_the_seed_alone_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    digests = []
    for seed in (3, 4):
        again = make_tiny_openvla(tmp_path / str(seed), seed=seed)
        digests.append(hashlib.sha256((again / "model.safetensors").read_bytes()).hexdigest())
    first = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digests[0] == first
    assert digests[1] != first


def test_weights_are_bfloat16_under_the_published_names(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert "vision_backbone.featurizer.blocks.0.ls1.scale_factor" in names
    assert "vision_backbone.fused_featurizer.attn_pool.latent" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert {name.split(".")[0] for name in names} == {
        "vision_backbone",
        "projector",
        "language_model",
    }


def test_it_acts_and_every_token_is_an_action(
    folder: Path, model: OpenVLAForActionPrediction
) -> None:
    processor = OpenVLAProcessor.from_pretrained(folder)
    images = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)
    prompts = [make_prompt(f"open the {name} drawer") for name in ("top", "middle", "bottom") * 2]
    actions = model.predict_action(**processor(prompts, images), unnorm_key="libero_goal")
    assert actions.shape == (6, 7)
    assert len(np.unique(actions, axis=0)) > 1
    _, statistics = find_statistics(model.norm_stats, "libero_goal")
    assert (np.abs(actions) <= np.maximum(statistics.q99, 1)).all()
    from libero_reward_envs.openvla.generation import generate_tokens

    made = processor(prompts, images)
    ids = generate_tokens(
        model,
        made["input_ids"],
        made["pixel_values"],
        7,
        attention_mask=made["attention_mask"],
    ).token_ids
    assert ((ids >= 31744) & (ids < 32000)).all()


def test_a_small_change_of_a_picture_is_seen(
    folder: Path, model: OpenVLAForActionPrediction
) -> None:
    processor = OpenVLAProcessor.from_pretrained(folder)
    images = np.full((2, 224, 224, 3), 120, np.uint8)
    images[1, 96:128, 96:128] = (200, 40, 40)  # a seventh of the side
    with torch.no_grad():
        features = model.extract_vision_features(processor.image_processor(images))
    share = (features[0] - features[1]).abs().mean(dim=-1) / features.std()
    assert share.max() > 0.5
    assert share.mean() > 0.01


def test_every_suite_has_statistics_that_say_that_they_were_not_measured(folder: Path) -> None:
    stored = json.loads((folder / "dataset_statistics.json").read_text())
    assert stored == json.loads((folder / "config.json").read_text())["norm_stats"]
    assert set(stored) == set(SUITES)
    for suite in SUITES:
        name, statistics = find_statistics(stored, f"{suite}_no_noops")
        assert name == suite
        assert statistics.mask.tolist() == [True] * 6 + [False]
        assert (statistics.min <= statistics.q01).all()
        assert (statistics.q99 <= statistics.max).all()
        assert stored[suite]["num_transitions"] == stored[suite]["num_trajectories"] == 0
        assert stored[suite]["proprio"]["q01"] == [0.0] * 7


def test_what_is_there_is_not_overwritten(folder: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="Remove it"):
        make_tiny_openvla(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("libero_reward_envs.openvla.tiny._write_json", fail)
    with pytest.raises(OSError, match="no space"):
        make_tiny_openvla(tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_of_two_that_write_one_folder_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def come_second(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("the first one's")
        rename(source, target)

    monkeypatch.setattr("libero_reward_envs.openvla.tiny.os.rename", come_second)
    with pytest.raises(FileExistsError, match="Remove it"):
        make_tiny_openvla(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "config.json").read_text() == "the first one's"
