"""The network that tells from single images whether a task is done."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from libero_reward_envs.reward_models.encoder_weights import (
    compute_encoder_hash,
    read_encoder_weights,
)
from libero_reward_envs.reward_models.image_encoder import ImageEncoder, make_head

_N_CHANNELS = 3
_MIN_IMAGE_SIZE = 32  # pixels; below, the trunk has nothing left to halve


class BinaryRewardClassifier(torch.nn.Module):
    """Tells from single images whether a task is done, as HIL-SERL's and RLinf's classifiers do.

    Of each camera: trunk, pooling, bottleneck (`ImageEncoder`); the vectors of all cameras, joined,
    go through Linear, Dropout, LayerNorm, ReLU and Linear to one logit. Tensors are named as in
    RLinf's checkpoints. Differs from the description in RLinf's documentation, as its code does:
    the head has a ReLU and no sigmoid (training takes logits; `ClassifierRewardModel` gives
    probabilities).

    Nothing is left to chance silently: with `use_pretrain` a file of weights must be given and must
    change the trunk, and a trunk that is frozen must have got weights from somewhere.

    Args:
        image_keys: The images it reads, in the order in which they are joined.
        image_size: [C, H, W] of each; C is 3.
        hidden_dim: Length of the vector of a camera, and width of the head.
        num_spatial_blocks: Learned weightings of each feature over the image.
        pretrained_encoder_path: Weights of the trunk, see `read_encoder_weights`; needed with
            `use_pretrain`.
        use_pretrain: Whether the trunk starts from a file and the pooling sees where features lie;
            otherwise the trunk starts at random and features are averaged over the image.
        freeze_encoder: Whether the trunk is left out of training, its norms included.
        backbone: "resnet10", or "resnet18", which needs torchvision.
        padding: "symmetric" or "same" (for weights from SERL), see `ResNet10`.
        normalization: "imagenet" or "unit", see `ResNet10`.
        dropout: Share of units that training drops, in pooling and head.
        layer_norm_eps: 1e-5 is PyTorch's, 1e-6 Flax's.
        seed: Draws the initial weights.
        weights_follow: Whether `load_state_dict` will bring all weights, so that no file of the
            trunk is needed. Until then, calling the network is an error.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the backbone needs a library that is not installed.
        ValueError: If an argument is out of range, arguments contradict each other, or the file
            does not fit.
    """

    def __init__(
        self,
        image_keys: Sequence[str],
        image_size: Sequence[int],
        hidden_dim: int = 256,
        num_spatial_blocks: int = 8,
        pretrained_encoder_path: str | Path | None = None,
        use_pretrain: bool = True,
        freeze_encoder: bool = True,
        *,
        backbone: str = "resnet10",
        padding: str = "symmetric",
        normalization: str = "imagenet",
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-5,
        seed: int = 0,
        weights_follow: bool = False,
    ) -> None:
        super().__init__()
        _check_keys(image_keys)
        _check_sizes(image_size, hidden_dim, num_spatial_blocks, dropout, layer_norm_eps)
        path = pretrained_encoder_path
        _check_weights_come(path, use_pretrain, freeze_encoder, weights_follow)
        self.image_keys = tuple(image_keys)
        self.image_size = (int(image_size[0]), int(image_size[1]), int(image_size[2]))
        self.hidden_dim, self.num_spatial_blocks = hidden_dim, num_spatial_blocks
        self.use_pretrain, self.freeze_encoder = use_pretrain, freeze_encoder
        self.backbone, self.padding, self.normalization = backbone, padding, normalization
        self.dropout, self.layer_norm_eps = float(dropout), float(layer_norm_eps)
        self._lacks_weights = weights_follow
        generator = torch.Generator().manual_seed(seed)
        sizes = (self.image_size, hidden_dim, num_spatial_blocks, use_pretrain)
        conventions = (backbone, padding, normalization, self.dropout, self.layer_norm_eps)
        self.encoders = torch.nn.ModuleDict(
            {key: ImageEncoder(*sizes, *conventions, generator) for key in self.image_keys}
        )
        n_inputs = hidden_dim * len(self.image_keys)
        self.classifier = make_head(
            n_inputs, hidden_dim, self.dropout, self.layer_norm_eps, generator
        )
        if path is not None:
            self.load_encoder(path)
        for trunk in self.trunks:
            trunk.requires_grad_(not freeze_encoder)
        self.train()

    @property
    def arguments(self) -> dict[str, Any]:
        """What rebuilds the network without its weights, as JSON would hold it."""
        return {
            "image_keys": list(self.image_keys),
            "image_size": list(self.image_size),
            "hidden_dim": self.hidden_dim,
            "num_spatial_blocks": self.num_spatial_blocks,
            "use_pretrain": self.use_pretrain,
            "freeze_encoder": self.freeze_encoder,
            "backbone": self.backbone,
            "padding": self.padding,
            "normalization": self.normalization,
            "dropout": self.dropout,
            "layer_norm_eps": self.layer_norm_eps,
        }

    @property
    def trunks(self) -> list[torch.nn.Module]:
        """The trunk of each camera, in the order of `image_keys`."""
        return [self._encoder(key).resnet_backbone for key in self.image_keys]

    @property
    def encoder_hash(self) -> str:
        """SHA-256 of the trunks' weights: whether two classifiers see with the same eyes."""
        return compute_encoder_hash(self.trunks)

    def load_encoder(self, path: str | Path) -> str:
        """Give the trunk of every camera the weights in a file, and return `encoder_hash`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not fit, or holds the very weights that were there before.
        """
        before = self.encoder_hash
        weights = read_encoder_weights(path, self.trunks[0].state_dict())
        for trunk in self.trunks:
            trunk.load_state_dict(weights)
        after = self.encoder_hash
        if after == before:
            raise ValueError(
                f"Expected the weights of the encoder to change by loading {str(path)!r}, got the "
                f"same as before (SHA-256 {after[:16]}...). Check that it is the file you mean."
            )
        return after

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take over all weights, as `torch.nn.Module.load_state_dict`."""
        result = super().load_state_dict(state_dict, strict, assign)
        self._lacks_weights = self._lacks_weights and bool(result.missing_keys)
        return result

    def train(self, mode: bool = True) -> "BinaryRewardClassifier":
        """Switch to training or evaluation; a frozen trunk stays in evaluation."""
        super().train(mode)
        if self.freeze_encoder:
            for trunk in self.trunks:
                trunk.eval()
        return self

    def forward(self, images: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (n,) for images by key, each (n, C, H, W), uint8.

        Raises:
            RuntimeError: If weights should have followed and have not come.
            ValueError: If images are missing, of another size or not bytes.
        """
        return self.classify(self.compute_features(images))

    def compute_features(
        self,
        images: Mapping[str, torch.Tensor],
        trunks: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the trunk's features by key, each (n, 512, h, w); h = w = 1 if averaged.

        Those of a frozen trunk carry no gradient and never change, so training may keep them.

        Args:
            images: By key, each (n, C, H, W), uint8.
            trunks: What stands in for the trunks, by key.
        """
        trunks = trunks or {}
        if self._lacks_weights:
            raise RuntimeError(
                "Expected weights before the first images, got none: this classifier was built "
                "with `weights_follow`. Call `load_state_dict` first."
            )
        for key in self.image_keys:
            self._check_images(key, images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            return {
                key: self._encoder(key).compute_features(images[key], trunks.get(key))
                for key in self.image_keys
            }

    def classify(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (n,) for what `compute_features` gave."""
        vectors = [self._encoder(key).embed(features[key]) for key in self.image_keys]
        return self.classifier(torch.cat(vectors, -1)).squeeze(-1)

    def _encoder(self, key: str) -> ImageEncoder:
        encoder = self.encoders[key]
        assert isinstance(encoder, ImageEncoder)
        return encoder

    def _check_images(self, key: str, images: Mapping[str, torch.Tensor]) -> None:
        if key not in images:
            raise ValueError(f"No images {key!r}. There are: {', '.join(images)}.")
        if images[key].shape[1:] != self.image_size:
            raise ValueError(
                f"Expected images {key!r} of shape {('n', *self.image_size)}, got "
                f"{tuple(images[key].shape)}. The classifier is made for one image size."
            )


def _check_keys(image_keys: Sequence[str]) -> None:
    if isinstance(image_keys, str) or not image_keys or len(set(image_keys)) != len(image_keys):
        raise ValueError(f"Expected `image_keys` as a list of different names, got {image_keys!r}.")
    for key in image_keys:
        # torch keeps submodules by name: no dot may be in it, and no method may be called so.
        if not isinstance(key, str) or not key or "." in key or hasattr(torch.nn.ModuleDict(), key):
            raise ValueError(f"{key!r} cannot be an image key here. Rename the observation.")


def _check_sizes(
    image_size: Sequence[int],
    hidden_dim: int,
    num_spatial_blocks: int,
    dropout: float,
    layer_norm_eps: float,
) -> None:
    sizes = list(image_size)
    if not all(isinstance(size, int) for size in sizes) or len(sizes) != 3:
        raise ValueError(f"Expected `image_size` as [C, H, W], got {image_size!r}.")
    if sizes[0] != _N_CHANNELS or min(sizes[1:]) < _MIN_IMAGE_SIZE:
        hint = " The channels come first." if sizes[2] == _N_CHANNELS else ""
        raise ValueError(
            f"Expected `image_size` as [3, H, W] of at least {_MIN_IMAGE_SIZE} pixels a side, "
            f"got {sizes}.{hint}"
        )
    if min(hidden_dim, num_spatial_blocks) < 1:
        raise ValueError(
            "`hidden_dim` and `num_spatial_blocks` must be at least 1, "
            f"got {hidden_dim} and {num_spatial_blocks}."
        )
    if not 0 <= dropout < 1 or not 0 < layer_norm_eps < 1:
        raise ValueError(
            "`dropout` must be in [0, 1) and `layer_norm_eps` in (0, 1), "
            f"got {dropout} and {layer_norm_eps}."
        )


def _check_weights_come(
    path: str | Path | None, use_pretrain: bool, freeze_encoder: bool, weights_follow: bool
) -> None:
    if path is not None and (weights_follow or not use_pretrain):
        other = "weights_follow=True" if weights_follow else "use_pretrain=False"
        raise ValueError(
            f"`pretrained_encoder_path` {str(path)!r} would not be used with {other}. "
            "Leave one of the two out."
        )
    if path is not None or weights_follow:
        return
    if use_pretrain:
        raise ValueError(
            "Expected a `pretrained_encoder_path` with use_pretrain=True, got None. Give the file "
            "of the weights, such as resnet10_pretrained.pt, or pass use_pretrain=False and "
            "freeze_encoder=False to train the encoder from the start."
        )
    if freeze_encoder:
        raise ValueError(
            "Expected a trained encoder with freeze_encoder=True, got random weights that nothing "
            "would ever train. Pass freeze_encoder=False, or use_pretrain=True with a "
            "`pretrained_encoder_path`."
        )
