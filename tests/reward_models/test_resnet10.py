from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models.resnet10 import (
    ResNet10,
    compute_feature_size,
    normalize_images,
)

FIXTURE = Path(__file__).parents[1] / "data" / "reward_classifier" / "resnet10_trunk.npz"
VARIANTS = [(n, p) for n in ("imagenet", "unit") for p in ("symmetric", "same")]


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE, allow_pickle=False) as file:
        return {key: file[key] for key in file}


def formula_weights(golden):
    """The weights of the fixture, which follow a formula, in double precision."""
    weights = {}
    for n, (name, text) in enumerate(zip(golden["names"], golden["shapes"], strict=True)):
        shape = tuple(int(size) for size in text.strip("()").split(",") if size)
        i = np.arange(np.prod(shape))
        if len(shape) == 4:
            fan_in = np.prod(shape[1:])
            values = 2 / np.sqrt(fan_in) * np.sin(0.7548776662 * i + 0.31 * n)
        elif name.endswith("weight"):
            values = 1 + 0.1 * np.sin(i + n)
        else:
            values = 0.1 * np.cos(i + n)
        weights[str(name)] = torch.from_numpy(values.reshape(shape))
    return weights


def make_golden_trunk(golden, normalization, padding, dtype):
    trunk = ResNet10(padding, normalization).to(dtype)
    trunk.load_state_dict(formula_weights(golden))
    return trunk


@pytest.mark.parametrize(("normalization", "padding"), VARIANTS)
def test_features_are_the_golden_ones_in_double_precision(golden, normalization, padding):
    trunk = make_golden_trunk(golden, normalization, padding, torch.float64)
    means = []
    for stage in (trunk.layer1, trunk.layer2):
        stage.register_forward_pre_hook(lambda _, x: means.append(x[0].mean((2, 3)).numpy()))
    with torch.inference_mode():
        features = trunk(torch.from_numpy(golden["image_uint8"])).numpy()
    name = f"{normalization}_{padding}"
    np.testing.assert_allclose(features, golden[f"{name}_layer4"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(means[1], golden[f"{name}_layer1_mean"], rtol=1e-8)
    np.testing.assert_allclose(means[0], golden[f"{name}_stem_mean"], rtol=1e-8)


@pytest.mark.parametrize(("normalization", "padding"), VARIANTS)
def test_features_are_the_golden_ones_in_single_precision(golden, normalization, padding):
    trunk = make_golden_trunk(golden, normalization, padding, torch.float32)
    with torch.inference_mode():
        features = trunk(torch.from_numpy(golden["image_uint8"])).numpy()
    expected = golden[f"{normalization}_{padding}_layer4"]
    assert features.dtype == np.float32
    # 1e-5 is out of reach of single precision: with nothing but these weights rounded to it, and
    # all else in double precision, the error is 1e-5 to 3e-5 of the largest feature; and three
    # orders of summation (oneDNN, PyTorch without it, NumPy by 16) end between 2e-5 and 1.2e-4.
    assert np.abs(features - expected).max() < 3e-4 * np.abs(expected).max()


def test_there_are_as_many_parameters_and_names_as_in_the_fixture(golden):
    state = ResNet10().state_dict()
    assert sum(value.numel() for value in state.values()) == int(golden["parameter_count"])
    assert set(state) == set(golden["names"])


def test_the_order_of_memory_does_not_matter():
    trunk = ResNet10()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        rows_last = trunk(images.permute(0, 3, 1, 2))
        rows_first = trunk(images.permute(0, 3, 1, 2).contiguous())
    assert torch.equal(rows_last, rows_first)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (100, 65)])
def test_feature_sizes_are_those_computed_beforehand(padding, size):
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)
    with torch.inference_mode():
        features = ResNet10(padding)(images)
    assert features.shape[2:] == compute_feature_size(*size)


def test_same_padding_leaves_out_the_first_row_and_column_of_windows():
    shifted, plain = (ResNet10(padding, "unit") for padding in ("same", "symmetric"))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., 40:, 40:] = 255
    with torch.inference_mode():
        assert not torch.allclose(shifted(images), plain(images), atol=1e-3)


def test_initial_weights_follow_the_generator_and_leave_the_global_one():
    before = torch.random.get_rng_state()
    first = ResNet10(generator=torch.Generator().manual_seed(1)).state_dict()
    again = ResNet10(generator=torch.Generator().manual_seed(1)).state_dict()
    other = ResNet10(generator=torch.Generator().manual_seed(2)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_normalisation_does_not_depend_on_the_rest_of_the_batch():
    dark, bright = torch.ones(1, 3, 2, 2).byte(), torch.full((1, 3, 2, 2), 255).byte()
    together = normalize_images(torch.cat([dark, bright]), "unit")
    assert torch.equal(together[:1], normalize_images(dark, "unit"))
    assert together.max() == 1
    mean = normalize_images(bright, "imagenet")[0, :, 0, 0]
    np.testing.assert_allclose(mean, [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-6)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, 3).byte(), torch.zeros(3).byte()]
)
def test_images_that_are_not_bytes_with_channels_first_are_refused(images):
    with pytest.raises(ValueError, match=r"Expected images \(n, 3, H, W\) of uint8"):
        ResNet10()(images)


def test_unknown_conventions_are_refused():
    with pytest.raises(ValueError, match="Unknown `padding` 'valid'"):
        ResNet10("valid")
    with pytest.raises(ValueError, match="Unknown `normalization` 'none'"):
        ResNet10(normalization="none")
