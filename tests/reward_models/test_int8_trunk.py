import pytest
import torch
from torch.nn import functional

from libero_reward_envs.reward_models import int8_trunk as module
from libero_reward_envs.reward_models.int8_trunk import Int8Trunk, has_exact_int8
from libero_reward_envs.reward_models.resnet10 import ResNet10

pytestmark = pytest.mark.skipif(not has_exact_int8(), reason="needs a processor with VNNI")


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def make_images(n=3, height=64, width=64, seed=0):
    """Bytes with the channels last: coarse squares, noise over them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator) * 200
    noise = torch.rand(n, 3, height, width, generator=generator) * 55
    images = functional.interpolate(coarse, (height, width)) + noise
    return images.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def relative_error(found, expected):
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("normalization", ["imagenet", "unit"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [(64, 64), (100, 65)])
def test_features_are_nearly_the_trunks(normalization, padding, size):
    trunk = ResNet10(padding, normalization)
    for number, parameter in enumerate(trunk.parameters()):
        if parameter.ndim == 1:  # norms that do something
            noise = torch.randn(len(parameter), generator=torch.Generator().manual_seed(number))
            parameter.add_(0.2 * noise)
    images = make_images(3, *size)
    expected, found = trunk(images), Int8Trunk(trunk)(images)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert 1e-4 < relative_error(found, expected) < 0.04
    other = ResNet10("same" if padding == "symmetric" else "symmetric", normalization)
    other.load_state_dict(trunk.state_dict())
    assert relative_error(Int8Trunk(other)(images), expected) > 0.08


def test_a_convolution_of_whole_numbers_is_exact():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 20, 9, 9), generator=generator, dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-127, 128, (16, 20, 3, 3), generator=generator).float()
    weight[:, 0, 0, 0] = 127  # so that each channel's scale is 1
    expected = functional.conv2d(x.double(), weight.double(), None, 2, 1)
    found = module._Int8Conv(weight, stride=2, padding=1)(x)
    assert torch.equal(found.double(), expected)


def test_what_is_subtracted_is_taken_off_each_channel():
    x = make_images()
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([3.5, 100.0, 200.25], dtype=torch.float64)
    found = module._Int8Conv(weight, 1, 0, mean)(x)
    expected = functional.conv2d(x - mean.view(3, 1, 1).float(), weight)
    assert relative_error(found, expected) < 0.01


def test_images_have_the_same_features_alone_and_beside_a_brighter_one():
    trunk = Int8Trunk(ResNet10())
    dark, bright = make_images(1) // 8, make_images(1, seed=1)
    together = trunk(torch.cat([dark, bright]))
    assert relative_error(together[:1], trunk(dark)) < 0.01


@pytest.mark.parametrize("value", [0, 255])
def test_a_plain_image_has_finite_features(value):
    images = torch.full((1, 3, 64, 64), value, dtype=torch.uint8)
    assert Int8Trunk(ResNet10())(images).isfinite().all()


def test_the_order_of_memory_does_not_matter_and_images_stay_as_they_are():
    trunk, images = Int8Trunk(ResNet10()), make_images()
    before = images.clone()
    found = trunk(images)
    assert torch.equal(found, trunk(images.contiguous(memory_format=torch.contiguous_format)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_without_the_operator_there_is_none(monkeypatch, error):
    def fail(*_):
        raise error("no such operator")

    monkeypatch.setattr(module, "_Int8Conv", fail)
    assert not has_exact_int8.__wrapped__()


def test_a_processor_that_saturates_is_found_out(monkeypatch):
    compute = module._Int8Conv.__call__
    monkeypatch.setattr(
        module._Int8Conv, "__call__", lambda self, x: compute(self, x).clamp_max(32767.0)
    )
    assert not has_exact_int8.__wrapped__()
