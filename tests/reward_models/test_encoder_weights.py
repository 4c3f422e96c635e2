import pytest
import torch
from safetensors.torch import save_file

from libero_reward_envs.reward_models.encoder_weights import (
    compute_encoder_hash,
    read_encoder_weights,
)
from libero_reward_envs.reward_models.resnet10 import ResNet10


def make_weights(seed=7):
    return ResNet10(generator=torch.Generator().manual_seed(seed)).state_dict()


def with_last_layer(weights, prefix=""):
    named = {prefix + name: value for name, value in weights.items()}
    return {
        **named,
        prefix + "fc.weight": torch.zeros(1000, 512),
        prefix + "fc.bias": torch.ones(1),
    }


@pytest.fixture(scope="module")
def expected():
    return ResNet10().state_dict()


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.", "module.encoder."])
@pytest.mark.parametrize("has_last_layer", [True, False])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_are_found_behind_prefixes_with_and_without_the_last_layer(
    prefix, has_last_layer, name, expected, tmp_path
):
    weights = make_weights()
    content = {prefix + key: value.contiguous() for key, value in weights.items()}
    if has_last_layer:
        content = with_last_layer({k: v.contiguous() for k, v in weights.items()}, prefix)
    (save_file if name.endswith("safetensors") else torch.save)(content, tmp_path / name)
    found = read_encoder_weights(tmp_path / name, expected)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_a_state_dict_inside_a_checkpoint_is_found_and_half_precision_widened(expected, tmp_path):
    weights = {name: value.half() for name, value in make_weights().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "weights.pt")
    found = read_encoder_weights(tmp_path / "weights.pt", expected)
    assert found["conv1.weight"].dtype == torch.float32
    assert torch.equal(found["conv1.weight"], weights["conv1.weight"].float())


def change(weights, how):
    if how == "missing":
        del weights["layer3.0.bn1.bias"]
    elif how == "unexpected":
        weights["layer1.1.conv1.weight"] = torch.zeros(64, 64, 3, 3)
    elif how == "shape":
        weights["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    elif how == "nan":
        weights["bn1.bias"] = torch.full((64,), torch.nan)
    elif how == "repeated":
        weights["bn1.bias"] = torch.zeros(1).expand(64)
    elif how == "not a tensor":
        weights["bn1.bias"] = [0.0] * 64
    return weights


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing \['layer3.0.bn1.bias'\]"),
        ("unexpected", r"unexpected \['layer1.1.conv1.weight'\]"),
        ("shape", r"'conv1.weight' of shape \(64, 3, 7, 7\), got \(64, 1, 7, 7\)"),
        ("nan", "'bn1.bias' .* holds NaN"),
        ("repeated", "'bn1.bias' .* stored in full"),
        ("not a tensor", "Expected tensors by name .* under 'bn1.bias'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(how, message, expected, tmp_path):
    torch.save(change(dict(make_weights()), how), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message):
        read_encoder_weights(tmp_path / "weights.pt", expected)


def test_a_missing_file_is_named(expected, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resnet10_pretrained\.pt"):
        read_encoder_weights(tmp_path / "resnet10_pretrained.pt", expected)


def test_the_hash_follows_every_value_and_not_the_layout():
    trunk = ResNet10()
    before = compute_encoder_hash([trunk])
    assert compute_encoder_hash([ResNet10()]) == before
    assert compute_encoder_hash([trunk, trunk]) != before
    trunk.to(memory_format=torch.contiguous_format)
    assert compute_encoder_hash([trunk]) == before
    with torch.no_grad():
        trunk.get_parameter("layer4.0.conv2.weight")[3, 5, 1, 2] += 1e-3
    assert compute_encoder_hash([trunk]) != before
