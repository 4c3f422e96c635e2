"""A ResNet-10 with convolutions in 8-bit integers, in less than half the time, given VNNI."""

import functools
from typing import Any, cast

import torch
from torch.nn import functional

from libero_reward_envs.reward_models.resnet10 import (
    BasicBlock,
    ResNet10,
    get_statistics,
    pad_same,
)

_STEM_PADDING = 3
_TINY = 1e-12  # keeps the scale of an image that is zero throughout finite


class Int8Trunk:
    """The features of a `ResNet10`, nearly: the relative error is about 2 %.

    Weights are round(127 w / max |w|) by output channel. What convolutions take, never negative, is
    round(255 x / max x) by image, so images do not depend on each other; the stem takes the bytes
    of the image as they are. The scale of an image is never multiplied back, because the group
    normalisation after each convolution cancels it (up to its epsilon). Normalisations, pooling
    and sums stay in single precision. It keeps a copy of the convolutions and reads the norms of
    the trunk itself; make a new one when the trunk's weights change.

    Differs from quantisation as usual (Jacob et al., 2018, arXiv 1712.05877): scales of activations
    come from the image at hand, so no data are needed to calibrate them.

    Args:
        trunk: On the CPU, in single precision.
    """

    def __init__(self, trunk: ResNet10) -> None:
        self._trunk = trunk
        statistics = get_statistics(trunk.normalization)
        mean, std = (torch.tensor(numbers, dtype=torch.float64) * 255 for numbers in statistics)
        stem = trunk.conv1.weight.detach() / std.view(1, 3, 1, 1)
        # Padding is done by hand, with the bytes nearest to a pixel that is normalised to zero.
        self._edge = mean.round().to(torch.uint8)
        self._stem = _Int8Conv(stem, stride=2, padding=0, subtracted=mean)
        self._blocks = [
            _Int8Block(cast("BasicBlock", stage[0]))
            for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        ]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (n, 512, h, w), float32, of images (n, 3, H, W), uint8."""
        x = self._trunk.pool(self._trunk.bn1(self._stem(self._pad(images))))
        for block in self._blocks:
            x = block(x)
        return x

    def _pad(self, images: torch.Tensor) -> torch.Tensor:
        n, _, height, width = images.shape
        p = _STEM_PADDING
        # Rows of pixels as a whole, see `normalize_images`.
        rows = self._edge.repeat(width + 2 * p).expand(n, height + 2 * p, -1).contiguous()
        pixels = images.permute(0, 2, 3, 1).reshape(n, height, 3 * width)
        rows[:, p:-p, 3 * p : -3 * p] = pixels
        return rows.view(n, height + 2 * p, width + 2 * p, 3).permute(0, 3, 1, 2)


class _Int8Block:
    """A `BasicBlock` of which only the convolutions are another."""

    def __init__(self, block: BasicBlock) -> None:
        self._block = block
        stride = block.conv1.stride[0]
        self._conv1 = _Int8Conv(block.conv1.weight, stride, padding=0 if block.pads_same else 1)
        self._conv2 = _Int8Conv(block.conv2.weight, 1, padding=1)
        self._skip: tuple[_Int8Conv, torch.nn.Module] | None = None
        if block.downsample is not None:
            conv, norm = block.downsample
            assert isinstance(conv, torch.nn.Conv2d)
            self._skip = _Int8Conv(conv.weight, stride, padding=0), norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        block, quantized = self._block, _quantize(x)
        skip = x
        if self._skip is not None:
            conv, norm = self._skip
            skip = norm(conv(quantized))
        if block.pads_same:
            quantized = pad_same(quantized, 0)
        x = functional.relu(block.bn1(self._conv1(quantized)), inplace=True)
        x = block.bn2(self._conv2(_quantize(x)))
        return functional.relu(x.add_(skip), inplace=True)


class _Int8Conv:
    """A convolution of bytes.

    Args:
        weight: (channels out, channels in, h, w).
        stride: In both directions.
        padding: On all sides, with zeros.
        subtracted: What is taken off each input channel before, as if it were done in the bytes.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        stride: int,
        padding: int,
        subtracted: torch.Tensor | None = None,
    ) -> None:
        weight = weight.detach()
        scale = weight.abs().amax((1, 2, 3)).clamp_min(_TINY) / 127
        rounded = (weight / scale.view(-1, 1, 1, 1)).round()
        self._bias: torch.Tensor | None = None
        if subtracted is not None:
            self._bias = -(rounded.sum((2, 3)) @ subtracted.to(rounded.dtype) * scale).float()
        self._scale = scale.float()
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        dilation, groups = [1, 1], 1
        self._shape: Any = ([stride] * 2, [padding] * 2, dilation, groups)
        self._weight = torch.ops.onednn.qconv_prepack(
            rounded.to(torch.int8), self._scale, 1.0, 0, *self._shape
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 for bytes with the channels last."""
        weight = (self._weight, self._scale, self._zero, self._bias)
        as_float = (1.0, 0, torch.float32, "none", [], "")
        return torch.ops.onednn.qconv2d_pointwise(x, 1.0, 0, *weight, *self._shape, *as_float)


@functools.cache
def has_exact_int8() -> bool:
    """Whether this processor and this PyTorch convolve bytes, and without overflow.

    Without VNNI, sums of two products saturate at 16 bits; and PyTorch's operator, which its
    compiler uses, is not a public one. So it is tried, with the largest numbers there are.
    """
    x = torch.full((1, 64, 4, 4), 255, dtype=torch.uint8)
    try:
        conv = _Int8Conv(torch.ones(16, 64, 3, 3), stride=1, padding=0)
        found = conv(x.contiguous(memory_format=torch.channels_last))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, torch.full((1, 16, 2, 2), 255.0 * 64 * 9)))


def _quantize(x: torch.Tensor) -> torch.Tensor:
    """Return round(255 x / max x) by image; `x` is not negative."""
    scale = 255 / x.amax((1, 2, 3), keepdim=True).clamp_min(_TINY)
    # By way of int32: PyTorch converts to bytes directly in a slower loop.
    return x.mul(scale).add_(0.5).to(torch.int32).to(torch.uint8)
