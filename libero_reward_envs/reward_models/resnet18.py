"""torchvision's ResNet-18 as the image trunk of success classifiers."""

import importlib

import torch
from torch.nn import functional

from libero_reward_envs.reward_models.resnet10 import (
    NORMALIZATIONS,
    check_choice,
    initialize_trunk,
    normalize_images,
)


class ResNet18(torch.nn.Module):
    """Features of images, 11,176,512 parameters; torchvision's weights fit without a change.

    The last layer, 1000 classes that nothing reads, is left out.

    Args:
        normalization: "imagenet", as torchvision's weights were trained, or "unit".
        generator: Draws the initial weights; None is a generator seeded with 0.

    Raises:
        ImportError: If torchvision is not installed.
        ValueError: If there is no such normalisation.
    """

    padding = "symmetric"

    def __init__(
        self, normalization: str = "imagenet", generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check_choice("normalization", normalization, NORMALIZATIONS)
        self.normalization = normalization
        try:
            models = importlib.import_module("torchvision.models")
        except ImportError as error:
            raise ImportError(
                "The backbone 'resnet18' needs torchvision, which is not installed. Install it "
                "with `pip install torchvision`, or take the backbone 'resnet10'."
            ) from error
        with torch.device("meta"):  # default initialisation draws from torch's global generator
            network = models.resnet18(weights=None)
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        initialize_trunk(self, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (n, 512, h, w) of images (n, 3, H, W), uint8; h = H / 32, rounded up."""
        x = normalize_images(images, self.normalization, self.conv1.weight.dtype)
        # The rectifier comes after the pooling: the values are the same, of a quarter as many.
        x = functional.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)
        x = functional.relu(x, inplace=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
