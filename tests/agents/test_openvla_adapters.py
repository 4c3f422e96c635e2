from pathlib import Path
from typing import Any

import pytest
import torch

from libero_reward_envs.agents.openvla_adapters import (
    add_adapters,
    count_adapter_parameters,
    count_parameters,
    find_targets,
    load_adapters,
    make_trainable,
    save_adapters,
)
from libero_reward_envs.agents.openvla_loss import compute_action_loss
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.memory import make_meta_model
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from tests.agents.openvla_makers import MODEL


@pytest.fixture
def model() -> OpenVLAForActionPrediction:
    return OpenVLAForActionPrediction.from_pretrained(MODEL, dtype="float32")


@pytest.fixture(scope="module")
def published() -> Any:
    return make_meta_model(OpenVLAConfig())


def make_batch(n: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30000, (n, 12), generator=draw)
    ids[:, 0] = 1
    labels = torch.full_like(ids, -100)
    mask = torch.ones_like(ids, dtype=torch.bool)
    for row, length in enumerate(range(12, 12 - n, -1)):  # rows of different lengths
        ids[row, length - 4 : length - 1] = torch.randint(31744, 32000, (3,), generator=draw)
        ids[row, length - 1], ids[row, length:] = 2, 32000
        labels[row, length - 4 : length] = ids[row, length - 4 : length]
        mask[row, length:] = False
    pixels = torch.randn(n, 6, 112, 112, generator=draw)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}


def test_all_linear_is_what_the_published_adapters_were_on(published: Any) -> None:
    endings, layers = find_targets(published, "all-linear")
    assert len(layers) == 439
    assert {"lm_head", "proj", "kv"} <= set(endings)
    assert "vision_backbone.featurizer.patch_embed.proj" in layers
    assert "language_model.lm_head" in layers
    assert count_adapter_parameters(published, "all-linear", 32) == 110_828_288


def test_language_is_what_others_call_all_attention_layers(published: Any) -> None:
    assert count_adapter_parameters(published, "language", 32) == 79_953_920
    _, attention = find_targets(published, "attention")
    assert len(attention) == 32 * 4 + 24 * 2 + 27 * 2
    assert not any("attn_pool" in name for name in attention)


def test_the_adapters_of_the_tiny_model_are_on_the_layers_found(
    model: OpenVLAForActionPrediction,
) -> None:
    _, layers = find_targets(model, "all-linear")
    n = count_adapter_parameters(model, "all-linear", 4)
    adapted = add_adapters(model, r=4)
    found = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in adapted.named_parameters()
        if ".lora_A." in name
    }
    assert found == set(layers)
    assert len(layers) == 61
    assert count_parameters(adapted)[1] == n
    settings: Any = adapted.peft_config["default"]
    assert settings.lora_alpha == 4
    assert all(v.dtype == torch.float32 for v in adapted.parameters() if v.requires_grad)


def test_targets_by_name_and_their_nearest_names(model: OpenVLAForActionPrediction) -> None:
    assert find_targets(model, ["q_proj", "featurizer.blocks.0.attn.qkv"])[1] == [
        "vision_backbone.featurizer.blocks.0.attn.qkv",
        *(f"language_model.model.layers.{i}.self_attn.q_proj" for i in range(2)),
    ]
    with pytest.raises(ValueError, match=r"called 'q_porj'. Did you mean 'q_proj'"):
        find_targets(model, ["q_porj"])
    with pytest.raises(ValueError, match="Did you mean 'attention'"):
        find_targets(model, "atention")


def test_the_loss_is_the_model_s_own(model: OpenVLAForActionPrediction) -> None:
    batch = make_batch(3)
    with torch.no_grad():
        loss = compute_action_loss(model, batch)
        expected = model(**batch)
    torch.testing.assert_close(loss.losses.mean(), expected.loss, rtol=1e-5, atol=1e-6)
    n_patches = expected.logits.shape[1] - batch["labels"].shape[1]
    predicted = expected.logits[:, n_patches:-1].argmax(dim=-1)  # as the original project measures
    is_action = batch["labels"][:, 1:] > 31743
    assert torch.equal(loss.predicted.flatten(), predicted[is_action])
    assert torch.equal(loss.target.flatten(), batch["labels"][:, 1:][is_action])


def test_new_adapters_change_nothing_and_saved_ones_come_back(
    model: OpenVLAForActionPrediction, tmp_path: Path
) -> None:
    batch = make_batch()
    with torch.no_grad():
        before = compute_action_loss(model, batch).losses
        adapted: Any = add_adapters(model, r=2, base_name=MODEL)
        torch.testing.assert_close(compute_action_loss(adapted, batch).losses, before)
        for name, value in adapted.named_parameters():
            if ".lora_B." in name:
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        changed = compute_action_loss(adapted, batch).losses
    assert not torch.allclose(changed, before)
    save_adapters(adapted, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    fresh = OpenVLAForActionPrediction.from_pretrained(MODEL, dtype="float32")
    with torch.no_grad():
        again = compute_action_loss(load_adapters(fresh, tmp_path), batch).losses
    torch.testing.assert_close(again, changed)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 2e6


def test_missing_and_foreign_adapters_are_refused(
    model: OpenVLAForActionPrediction, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder of adapters"):
        load_adapters(model, tmp_path)


def test_in_full_only_what_no_action_depends_on_is_left_out(
    model: OpenVLAForActionPrediction,
) -> None:
    make_trainable(model)
    compute_action_loss(model, make_batch()).losses.mean().backward()
    for name, value in model.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
    assert not model.vision_backbone.featurizer.norm.weight.requires_grad
    assert sum(not value.requires_grad for value in model.parameters()) == 43


def test_gradient_checkpointing_gives_the_same_gradients(
    model: OpenVLAForActionPrediction,
) -> None:
    adapted = add_adapters(model, r=2)
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        adapted.zero_grad()
        compute_action_loss(adapted, make_batch()).losses.mean().backward()
        found.append({n: p.grad for n, p in adapted.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)
