import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from libero_reward_envs.openvla import memory
from libero_reward_envs.openvla.checkpoint_files import INDEX_FILE, TINY_OPENVLA, find_checkpoint
from libero_reward_envs.openvla.feature_extractor import EMBEDDING_NAME, OpenVLAFeatureExtractor
from libero_reward_envs.openvla.guard import check_features_differ
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.prompt import make_prompt

INSTRUCTIONS = ["Pick up the black bowl", "open the top drawer of the cabinet"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_checkpoint(TINY_OPENVLA)


@pytest.fixture(scope="module")
def model(folder) -> OpenVLAForActionPrediction:
    return OpenVLAForActionPrediction.from_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def extractor(folder) -> OpenVLAFeatureExtractor:
    return OpenVLAFeatureExtractor.from_pretrained(folder)


@pytest.fixture
def sharded(model, folder, tmp_path) -> Path:
    """The tiny model in shards of one tensor or few."""
    copy = tmp_path / "sharded"
    model.save_pretrained(copy, max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(folder / name, copy / name)
    return copy


def _images(n: int, side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def test_vision_features_are_those_of_the_model(extractor, model) -> None:
    views = [_images(3), _images(3, seed=1)]
    features = extractor.extract_vision(views)
    pixels = torch.cat([extractor.processor.image_processor(view) for view in views], dim=1)
    with torch.inference_mode():
        expected = model.extract_vision_features(pixels)
    assert features.shape == (3, 2 * extractor.n_patches, extractor.vision_dim)
    assert torch.equal(features, expected)


def test_resizing_can_be_done_apart(extractor) -> None:
    views = [_images(2)]
    apart = extractor.extract_vision_resized(extractor.resize_images(views))
    assert torch.equal(apart, extractor.extract_vision(views))


def test_language_features_are_embeddings_of_the_prompt(extractor, model) -> None:
    features, mask = extractor.extract_language(INSTRUCTIONS)
    tokens = extractor.processor([make_prompt(text) for text in INSTRUCTIONS])
    with torch.inference_mode():
        expected = model.get_input_embeddings()(tokens["input_ids"])
    assert features.shape == (*mask.shape, extractor.language_dim)
    assert torch.equal(mask, tokens["attention_mask"].bool())
    assert not mask.all()
    assert torch.equal(features[mask], expected[mask])
    assert not features[~mask].any()


def test_only_towers_and_embeddings_are_read(extractor, model) -> None:
    names = set(extractor.tensors_read)
    assert EMBEDDING_NAME in names
    assert all(name.startswith("vision_backbone.") for name in names - {EMBEDDING_NAME})
    weights = model.state_dict()
    vision = {name for name in weights if name.startswith("vision_backbone.")}
    last = [len(tower.blocks) - 1 for tower in model.vision_backbone.towers]
    for name in vision - names:  # what no feature depends on
        tower, _, rest = name.removeprefix("vision_backbone.").partition(".")
        block = last[tower == "fused_featurizer"]
        assert rest.startswith(("norm.", "attn_pool.", f"blocks.{block}."))
    assert len(vision - names) == 43


def test_the_language_model_may_be_absent(sharded, extractor) -> None:
    index = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    needed = {index[name] for name in extractor.tensors_read}
    others = set(index.values()) - needed
    assert len(others) > 5
    for shard in others:
        (sharded / shard).unlink()
    alone = OpenVLAFeatureExtractor.from_pretrained(sharded)
    images = [_images(2)]
    assert torch.equal(alone.extract_vision(images), extractor.extract_vision(images))
    (sharded / min(needed)).unlink()
    with pytest.raises(FileNotFoundError, match=f"missing: {min(needed)}"):
        OpenVLAFeatureExtractor.from_pretrained(sharded)


def test_room_for_rows_and_cameras_is_checked(folder, monkeypatch) -> None:
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 2**30)
    OpenVLAFeatureExtractor.from_pretrained(folder)
    with pytest.raises(MemoryError, match=r"Expected room for .*1\.00 GiB free"):
        OpenVLAFeatureExtractor.from_pretrained(folder, n_rows=10**6)
    with pytest.raises(MemoryError, match=r"Expected room for .*1\.00 GiB free"):
        OpenVLAFeatureExtractor.from_pretrained(folder, n_views=10**6)


def test_sizes_come_from_the_checkpoint(extractor, model) -> None:
    config = model.config
    assert extractor.language_dim == config.text_config.hidden_size
    assert extractor.image_size == config.image_sizes[0]
    assert extractor.n_patches == (config.image_sizes[0] // 14) ** 2
    assert extractor.vision_dim == model.vision_backbone.feature_dim


def test_the_fingerprint_is_of_content_not_of_place(folder, extractor, tmp_path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    again = OpenVLAFeatureExtractor.from_pretrained(copy)
    assert again.fingerprint == extractor.fingerprint
    assert len(extractor.fingerprint) == 64
    weights = load_file(copy / "model.safetensors")
    weights["projector.fc1.bias"] += 1  # which no feature depends on
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    again = OpenVLAFeatureExtractor.from_pretrained(copy)
    assert again.fingerprint == extractor.fingerprint


def _change_weights(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["vision_backbone.featurizer.pos_embed"][0, 0, 0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})


def _change_preprocessing(copy: Path) -> None:
    path = copy / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.25"))


def _change_tokenizer(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("change", [_change_weights, _change_preprocessing, _change_tokenizer])
def test_the_fingerprint_changes_with_what_features_depend_on(
    folder, extractor, tmp_path, change
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change(copy)
    assert OpenVLAFeatureExtractor.from_pretrained(copy).fingerprint != extractor.fingerprint


def test_the_fingerprint_changes_with_precision_and_prompt(folder, extractor) -> None:
    half = OpenVLAFeatureExtractor.from_pretrained(folder, dtype="bfloat16")
    old = OpenVLAFeatureExtractor.from_pretrained(folder, prompt_version="v01")
    assert len({extractor.fingerprint, half.fingerprint, old.fingerprint}) == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(folder, extractor, dtype) -> None:
    half = OpenVLAFeatureExtractor.from_pretrained(folder, dtype=dtype)
    images = [_images(2)]
    features = half.extract_vision(images)
    assert half.dtype == features.dtype == getattr(torch, dtype)
    expected = extractor.extract_vision(images)
    error = (features.float() - expected).abs().max() / expected.abs().max()
    assert error < 0.05


def test_a_blind_tower_is_caught(folder) -> None:
    extractor = OpenVLAFeatureExtractor.from_pretrained(folder)
    assert min(check_features_differ(extractor).image) > 0.01
    for tower in extractor.vision_backbone.towers:
        torch.nn.init.zeros_(tower.patch_embed.proj.weight)
    with pytest.raises(RuntimeError, match="does not see its images"):
        check_features_differ(extractor)


def test_words_that_make_no_difference_are_caught(folder) -> None:
    extractor = OpenVLAFeatureExtractor.from_pretrained(folder)
    torch.nn.init.ones_(extractor._embeddings.weight)
    with pytest.raises(RuntimeError, match="does not see its instructions"):
        check_features_differ(extractor)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "one array"),
        ([_images(2), _images(3)], r"with one n, got shapes"),
        ([_images(2).astype(np.float32)], "uint8"),
        ([_images(2)[..., :2]], r"got .*\(2, 64, 64, 2\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(extractor, images, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        extractor.extract_vision(images)


@pytest.mark.parametrize("text", ["", "  ", "bowl " * 2000])
def test_instructions_that_are_empty_or_too_long_are_refused(extractor, text) -> None:
    with pytest.raises(ValueError, match="instruction"):
        extractor.extract_language([text])


def test_a_checkpoint_without_towers_is_refused(folder, tmp_path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    del weights["vision_backbone.featurizer.pos_embed"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: vision_backbone.featurizer.pos_embed"):
        OpenVLAFeatureExtractor.from_pretrained(copy)
