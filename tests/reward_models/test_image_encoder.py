from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models.image_encoder import (
    ImageEncoder,
    SpatialLearnedEmbeddings,
    make_bottleneck,
    make_head,
)

FIXTURE = Path(__file__).parents[1] / "data" / "reward_classifier" / "head_forward.npz"


def make_encoder(**changes):
    arguments = {
        "image_size": (3, 64, 64),
        "hidden_dim": 16,
        "num_spatial_blocks": 2,
        "use_pretrain": True,
        "backbone": "resnet10",
        "padding": "symmetric",
        "normalization": "unit",
        "dropout": 0.1,
        "layer_norm_eps": 1e-5,
        "generator": torch.Generator().manual_seed(0),
    }
    return ImageEncoder(**{**arguments, **changes}).eval()


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE, allow_pickle=False) as file:
        return {key: torch.from_numpy(np.atleast_1d(file[key])) for key in file}


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def set_linear(layer, weight, bias):
    layer.load_state_dict({"weight": weight.T, "bias": bias})


@pytest.mark.parametrize("eps", ["1e-5", "1e-6"])
def test_pooling_bottleneck_and_head_give_the_golden_logits(golden, eps):
    generator = torch.Generator()
    pooling = SpatialLearnedEmbeddings(2, 2, 6, 8).double()
    pooling.load_state_dict({"kernel": golden["kernel"]})
    bottleneck = make_bottleneck(48, 10, float(eps), generator).double()
    set_linear(bottleneck[0], golden["W1"], golden["b1"])
    bottleneck[1].load_state_dict({"weight": golden["g1"], "bias": golden["c1"]})
    head = make_head(10, 12, 0.1, float(eps), generator).double().eval()
    set_linear(head[0], golden["W2"], golden["b2"])
    head[2].load_state_dict({"weight": golden["g2"], "bias": golden["c2"]})
    set_linear(head[4], golden["W3"], golden["b3"])
    with torch.inference_mode():
        pooled = pooling(golden["features"])
        feature = bottleneck(pooled)
        logits = head(feature)
    assert_close(pooled, golden["pooled"])
    assert_close(feature, golden[f"eps{eps}_feature"])
    assert_close(logits, golden[f"eps{eps}_logit"])
    assert_close(torch.sigmoid(logits), golden[f"eps{eps}_prob"])
    if eps == "1e-5":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, golden["labels"])
        assert_close(loss, golden["bce_mean"][0])


def test_pooling_is_the_sum_over_positions_ordered_by_channel():
    pooling = SpatialLearnedEmbeddings(2, 3, 4, 5)
    features = torch.randn(7, 4, 2, 3, generator=torch.Generator().manual_seed(1))
    found = pooling(features).detach()
    for channel in range(4):
        for weighting in range(5):
            kernel = pooling.kernel[channel, :, :, weighting].detach()
            expected = (features[:, channel] * kernel).sum((1, 2))
            torch.testing.assert_close(found[:, channel * 5 + weighting], expected)


def test_the_kernel_follows_its_generator():
    kernels = [
        SpatialLearnedEmbeddings(2, 2, 512, 8, torch.Generator().manual_seed(seed)).kernel
        for seed in (1, 1, 2)
    ]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])
    assert kernels[0].std().item() == pytest.approx(0.5, rel=0.05)  # 1 / sqrt(2 * 2)


def test_features_of_another_size_than_the_kernel_are_refused():
    with pytest.raises(ValueError, match=r"Expected features \('n', 512, 2, 2\)"):
        make_encoder().embed(torch.zeros(1, 512, 4, 4))


def test_without_pretraining_features_are_averaged_over_the_image():
    encoder = make_encoder(use_pretrain=False)
    assert encoder.pooling_layer.kernel.shape == (512, 1, 1, 2)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        features = encoder.compute_features(images)
        expected = encoder.resnet_backbone(images).mean((2, 3))
    torch.testing.assert_close(features[:, :, 0, 0], expected)
    assert make_encoder().pooling_layer.kernel.shape == (512, 2, 2, 2)


def test_unknown_backbones_and_paddings_are_refused():
    with pytest.raises(ValueError, match=r"Unknown `backbone` 'resnet50'. Choose one of: resnet10"):
        make_encoder(backbone="resnet50")
    with pytest.raises(ValueError, match=r"Expected `padding` 'symmetric' with .* 'resnet18'"):
        make_encoder(backbone="resnet18", padding="same")
