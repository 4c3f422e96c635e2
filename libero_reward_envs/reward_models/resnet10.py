"""ResNet-10 with group normalisation, the image trunk of success classifiers."""

from collections.abc import Collection
from typing import cast

import torch
from torch.nn import functional

PADDINGS = ("symmetric", "same")
NORMALIZATIONS = ("imagenet", "unit")
CHANNELS = (64, 128, 256, 512)  # of the four stages; the last is that of the features

_N_GROUPS = 4
_EPS = 1e-5  # of the group normalisation, in SERL's trunk as in PyTorch
# Mean and deviation of ImageNet's pixels by colour, in [0, 1], as torchvision and SERL use them.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ResNet10(torch.nn.Module):
    """Features of images: a stem and four stages of one residual block each, 4,905,792 parameters.

    The trunk of SERL's reward classifiers (Luo et al., 2024, arXiv 2401.16013): as torchvision's
    ResNets, with one block a stage and `GroupNorm` of 4 groups for `BatchNorm`. Tensors are named
    as torchvision's (`bn1` holds a group normalisation). The last layer, 1000 classes that nothing
    reads, is left out.

    Weights are only worth something with the two conventions they were trained under:

    Args:
        padding: "symmetric" pads one pixel on every side, as PyTorch; "same" pads the pooling and
            the convolutions of stride 2 as Flax does, at the lower right first. Take "same" for
            weights that come from SERL. The 7 x 7 stem pads 3 pixels on all sides in both.
        normalization: "imagenet" subtracts ImageNet's mean and divides by its deviation, "unit"
            only divides by 255.
        generator: Draws the initial weights, He normal by the number of outputs as torchvision;
            None is a generator seeded with 0.

    Raises:
        ValueError: If there is no such padding or normalisation.
    """

    def __init__(
        self,
        padding: str = "symmetric",
        normalization: str = "imagenet",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        check_choice("normalization", normalization, NORMALIZATIONS)
        self.padding, self.normalization = padding, normalization
        same = padding == "same"
        with torch.device("meta"):  # default initialisation draws from torch's global generator
            self.conv1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = _make_norm(64)
            self.layer1 = torch.nn.Sequential(BasicBlock(64, 64, 1, same))
            self.layer2 = torch.nn.Sequential(BasicBlock(64, 128, 2, same))
            self.layer3 = torch.nn.Sequential(BasicBlock(128, 256, 2, same))
            self.layer4 = torch.nn.Sequential(BasicBlock(256, 512, 2, same))
        initialize_trunk(self, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (n, 512, h, w) of images (n, 3, H, W), uint8; h = H / 32, rounded up."""
        x = normalize_images(images, self.normalization, self.conv1.weight.dtype)
        x = self.pool(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(max over windows of 3 x 3, every second one), for the stem's output.

        The rectifier comes last: the values are the same, and a quarter as many are left.
        """
        if self.padding == "same":
            x = functional.max_pool2d(pad_same(x, -torch.inf), 3, 2)
        else:
            x = functional.max_pool2d(x, 3, 2, 1)
        return functional.relu(x, inplace=True)


class BasicBlock(torch.nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + skip), the skip a 1 x 1 convolution where x shrinks.

    Convolutions of 1 x 1 never pad, whatever the convention: no pixel lies beyond the edge.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int, same: bool) -> None:
        super().__init__()
        self.pads_same = same and stride == 2  # with stride 1 both conventions are one
        padding = 0 if self.pads_same else 1
        self.conv1 = torch.nn.Conv2d(n_inputs, n_outputs, 3, stride, padding, bias=False)
        self.bn1 = _make_norm(n_outputs)
        self.conv2 = torch.nn.Conv2d(n_outputs, n_outputs, 3, 1, 1, bias=False)
        self.bn2 = _make_norm(n_outputs)
        self.downsample: torch.nn.Sequential | None = None
        if stride != 1:
            skip = torch.nn.Conv2d(n_inputs, n_outputs, 1, stride, bias=False)
            self.downsample = torch.nn.Sequential(skip, _make_norm(n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, outputs, h', w') for x (n, inputs, h, w), h' = h / stride, rounded up."""
        skip = x if self.downsample is None else self.downsample(x)
        x = self.conv1(pad_same(x, 0.0) if self.pads_same else x)
        x = functional.relu(self.bn1(x), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + skip, inplace=True)


def normalize_images(
    images: torch.Tensor, normalization: str, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return images as a network takes them, computed on the device where the bytes lie.

    Args:
        images: (n, 3, H, W), uint8; other types are refused, since 1.0 could be white or black.
        normalization: "imagenet" or "unit".
        dtype: Of the result.

    Raises:
        ValueError: If they are not bytes or not of three channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Expected images (n, 3, H, W) of uint8, got {tuple(images.shape)} of {images.dtype}. "
            "Multiply images in [0, 1] by 255 and round them."
        )
    n, _, height, width = images.shape
    # One memory layout for every caller, so that the same images have the same features; and whole
    # rows of pixels, since arithmetic along an axis of three colours takes ten times as long.
    rows = images.permute(0, 2, 3, 1).reshape(n * height, width * 3).to(dtype)
    mean, std = (torch.tensor(m, dtype=dtype) * 255 for m in get_statistics(normalization))
    rows = (rows - mean.repeat(width).to(rows.device)) / std.repeat(width).to(rows.device)
    return rows.view(n, height, width, 3).permute(0, 3, 1, 2)


def get_statistics(normalization: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what is subtracted from pixels in [0, 1] and what they are divided by, by colour."""
    if normalization == "unit":
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _IMAGENET_MEAN, _IMAGENET_STD


def compute_feature_size(height: int, width: int) -> tuple[int, int]:
    """Return h and w of the features of images H x W: halved five times, each time rounded up."""
    return -(-height // 32), -(-width // 32)


def initialize_trunk(trunk: torch.nn.Module, generator: torch.Generator | None) -> None:
    """Give a trunk that was built without memory its memory and initial weights."""
    generator = generator or torch.Generator().manual_seed(0)
    trunk.to_empty(device="cpu")
    for module in trunk.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm2d):
            module.reset_parameters()  # ones and zeros: draws nothing
    trunk.to(memory_format=cast("torch.memory_format", torch.channels_last))


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise a `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Unknown `{name}` {value!r}. Choose one of: {', '.join(choices)}.")


def _make_norm(n_channels: int) -> torch.nn.GroupNorm:
    return torch.nn.GroupNorm(_N_GROUPS, n_channels, eps=_EPS)


def pad_same(x: torch.Tensor, value: float) -> torch.Tensor:
    """Pad for a 3 x 3 window of stride 2 as Flax's SAME: an even side gets its pixel at the end."""
    (top, bottom), (left, right) = (
        (0, 1) if size % 2 == 0 else (1, 1) for size in (x.shape[2], x.shape[3])
    )
    return functional.pad(x, (left, right, top, bottom), value=value)
