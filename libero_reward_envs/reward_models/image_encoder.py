"""From one image to a vector: a trunk, a learned pooling over its features and a bottleneck."""

import math
from collections.abc import Callable

import torch

from libero_reward_envs.reward_models.resnet10 import (
    CHANNELS,
    PADDINGS,
    ResNet10,
    check_choice,
    compute_feature_size,
)
from libero_reward_envs.reward_models.resnet18 import ResNet18

BACKBONES = ("resnet10", "resnet18")


class SpatialLearnedEmbeddings(torch.nn.Module):
    """Pools features over their positions by F learned weightings a channel.

    out[n, c * F + f] = sum_{h, w} features[n, c, h, w] * kernel[c, h, w, f]

    Args:
        height: h of the features.
        width: w of the features.
        channels: C.
        num_features: F.
        generator: Draws the kernel, normal with variance 1 / (h w), so that pooling keeps the
            scale of the features; None is a generator seeded with 0.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        num_features: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        kernel = torch.randn(channels, height, width, num_features, generator=generator)
        self.kernel = torch.nn.Parameter(kernel / math.sqrt(height * width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (n, C * F) for features (n, C, h, w).

        Raises:
            ValueError: If the features are of another size than the kernel.
        """
        if features.shape[1:] != self.kernel.shape[:3]:
            raise ValueError(
                f"Expected features {('n', *self.kernel.shape[:3])}, got {tuple(features.shape)}. "
                "The kernel is made for one image size."
            )
        # Contiguous, because the sum over positions is five times slower with channels last.
        return torch.einsum("nchw,chwf->ncf", features.contiguous(), self.kernel).flatten(1)


class ImageEncoder(torch.nn.Module):
    """Turns the images of one camera into vectors; tensors are named as in RLinf's checkpoints.

    Args:
        image_size: C, H and W.
        hidden_dim: Length of the vectors.
        num_spatial_blocks: F of the pooling.
        use_pretrain: Whether the pooling sees where features lie. Otherwise they are averaged over
            the image first.
        backbone: "resnet10" or "resnet18".
        padding: See `ResNet10`.
        normalization: See `ResNet10`.
        dropout: Share of pooled features that training drops.
        layer_norm_eps: 1e-5 is PyTorch's, 1e-6 Flax's.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        image_size: tuple[int, int, int],
        hidden_dim: int,
        num_spatial_blocks: int,
        use_pretrain: bool,
        backbone: str,
        padding: str,
        normalization: str,
        dropout: float,
        layer_norm_eps: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._averages = not use_pretrain
        height, width = compute_feature_size(*image_size[1:]) if use_pretrain else (1, 1)
        n_channels = CHANNELS[-1]
        self.resnet_backbone = _make_trunk(backbone, padding, normalization, generator)
        self.pooling_layer = SpatialLearnedEmbeddings(
            height, width, n_channels, num_spatial_blocks, generator
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.mlp = make_bottleneck(
            n_channels * num_spatial_blocks, hidden_dim, layer_norm_eps, generator
        )

    def compute_features(
        self,
        images: torch.Tensor,
        trunk: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return what the pooling takes, (n, 512, h, w), for images (n, C, H, W), uint8.

        Args:
            images: The images.
            trunk: What stands in for the encoder's own.
        """
        features = (trunk or self.resnet_backbone)(images)
        return features.mean((2, 3), keepdim=True) if self._averages else features

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Return vectors (n, hidden_dim) for features (n, 512, h, w)."""
        return self.mlp(self.dropout(self.pooling_layer(features)))


def make_bottleneck(
    n_inputs: int, n_outputs: int, layer_norm_eps: float, generator: torch.Generator
) -> torch.nn.Sequential:
    """Return Linear, LayerNorm, Tanh."""
    return torch.nn.Sequential(
        make_linear(n_inputs, n_outputs, generator),
        torch.nn.LayerNorm(n_outputs, eps=layer_norm_eps),
        torch.nn.Tanh(),
    )


def make_head(
    n_inputs: int,
    hidden_dim: int,
    dropout: float,
    layer_norm_eps: float,
    generator: torch.Generator,
) -> torch.nn.Sequential:
    """Return Linear, Dropout, LayerNorm, ReLU, Linear: one logit a row."""
    return torch.nn.Sequential(
        make_linear(n_inputs, hidden_dim, generator),
        torch.nn.Dropout(dropout),
        torch.nn.LayerNorm(hidden_dim, eps=layer_norm_eps),
        torch.nn.ReLU(),
        make_linear(hidden_dim, 1, generator),
    )


def make_linear(n_inputs: int, n_outputs: int, generator: torch.Generator) -> torch.nn.Linear:
    """Return a layer initialised as PyTorch does, but from a generator of one's own."""
    linear = torch.nn.Linear(n_inputs, n_outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(n_inputs)
    torch.nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    torch.nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear


def _make_trunk(
    backbone: str, padding: str, normalization: str, generator: torch.Generator
) -> ResNet10 | ResNet18:
    check_choice("backbone", backbone, BACKBONES)
    check_choice("padding", padding, PADDINGS)
    if backbone == "resnet10":
        return ResNet10(padding, normalization, generator)
    if padding != ResNet18.padding:
        raise ValueError(
            f"Expected `padding` {ResNet18.padding!r} with the backbone 'resnet18', "
            f"got {padding!r}: torchvision's network knows no other."
        )
    return ResNet18(normalization, generator)
