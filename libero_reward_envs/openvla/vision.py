"""The vision backbone: one or two timm towers that see the same image, normalised differently."""

import re
from typing import Any

import torch
from torch import nn

from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.tower_fields import Tower, read_towers

CHANNELS_PER_TOWER = 3
# The first version that reads files without unpickling them.
_MIN_TIMM = (1, 0, 26)


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor.

    It stands in for timm's, whose parameter is called `gamma`; in checkpoints it is `scale_factor`.
    With one name in memory and in files nothing needs renaming when loading or saving.

    Args:
        n_channels: Channels of the input's last axis.
        initial_value: What all factors begin with.
    """

    def __init__(self, n_channels: int, initial_value: float = 1e-5) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((n_channels,), initial_value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (..., c), times the factors."""
        return x * self.scale_factor


class VisionBackbone(nn.Module):
    """Patch features of images, before the projection to the language model.

    Each tower gives the tokens of its second-to-last block, without the final norm and without
    class and register tokens; the towers' channels stand side by side. Several views of one moment
    are seen one by one and their patches stand behind each other, view after view.

    Args:
        config: Says which towers.
        used_parts_only: Leave out what no feature depends on: each tower's last block, final norm
            and pooling. A model that is to be saved as a whole needs them.

    Raises:
        ImportError: If timm is not installed, or older than 1.0.26.
        ValueError: If the configuration is not one that towers can be built from.
    """

    def __init__(self, config: OpenVLAConfig, *, used_parts_only: bool = False) -> None:
        super().__init__()
        # Checked here again, since a configuration can be changed after it was made.
        towers = read_towers(config)
        self.image_size = towers[0].image_size
        self.featurizer = _make_tower(towers[0])
        self.tower_names = ["featurizer"]
        if len(towers) == 2:
            self.fused_featurizer = _make_tower(towers[1])
            self.tower_names.append("fused_featurizer")
        self._taken_blocks = [len(tower.blocks) - 2 for tower in self.towers]
        if used_parts_only:
            for tower, block in zip(self.towers, self._taken_blocks, strict=True):
                tower.prune_intermediate_layers([block], prune_norm=True)

    @property
    def towers(self) -> list[Any]:
        """The models of timm, in the order of the channels that they see."""
        return [getattr(self, name) for name in self.tower_names]

    @property
    def n_channels(self) -> int:
        """Channels of one view."""
        return CHANNELS_PER_TOWER * len(self.towers)

    @property
    def n_patches(self) -> int:
        """Patches of one view."""
        return self.featurizer.patch_embed.num_patches

    @property
    def feature_dim(self) -> int:
        """Numbers a patch."""
        return sum(tower.embed_dim for tower in self.towers)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks are computed twice in training, to save memory; set by transformers."""
        return all(tower.grad_checkpointing for tower in self.towers)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        for tower in self.towers:
            tower.set_grad_checkpointing(enable)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the features of one or several views.

        Args:
            pixel_values: Normalised images, (n, 3 * towers * views, H, W), floating point. Of each
                view first the first tower's channels, then the second's.

        Returns:
            Features, (n, views * patches, d), in the towers' precision.

        Raises:
            TypeError: If `pixel_values` are not floating point.
            ValueError: If they are of another shape.
        """
        self._check(pixel_values)
        n_rows = len(pixel_values)
        pixel_values = pixel_values.to(self.featurizer.patch_embed.proj.weight.dtype)
        views = pixel_values.reshape(-1, self.n_channels, self.image_size, self.image_size)
        features = [
            tower.forward_intermediates(
                channels,
                indices=[block],
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )[0]
            for tower, block, channels in zip(
                self.towers, self._taken_blocks, views.split(CHANNELS_PER_TOWER, 1), strict=True
            )
        ]
        return torch.cat(features, dim=-1).reshape(n_rows, -1, self.feature_dim)

    def _check(self, pixel_values: torch.Tensor) -> None:
        size, n_channels = self.image_size, self.n_channels
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or not shape[1] or shape[1] % n_channels or shape[2:] != (size, size):
            raise ValueError(
                f"Expected `pixel_values` of shape (n, {n_channels} * views, {size}, {size}), got "
                f"{shape}. Make them with the checkpoint's own image processor."
            )
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"Expected normalised `pixel_values` in floating point, got {pixel_values.dtype}. "
                "Make them from images with the checkpoint's own image processor."
            )


def _make_tower(tower: Tower) -> Any:
    """Build one of timm's models, with our `LayerScale` and without pretrained weights."""
    timm = _import_timm()
    from timm.layers.layer_scale import LayerScale as TimmLayerScale

    try:
        # Any, because timm types its models as plain modules.
        model: Any = timm.create_model(
            tower.timm_id,
            pretrained=False,
            num_classes=0,
            img_size=tower.image_size,
            act_layer=tower.act_layer,
            **tower.kwargs,
        )
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"timm cannot build {tower.timm_id!r} for images of {tower.image_size} pixels with "
            f"{tower.kwargs}: {error}. Mend `timm_model_kwargs` in the checkpoint's config.json."
        ) from error
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TimmLayerScale):
                setattr(module, name, LayerScale(len(child.gamma), float(child.init_values)))
    return model


def _import_timm() -> Any:
    """Return timm, in a version whose models can be built without memory.

    Up to 1.0.20 building on the device "meta" fails.

    Raises:
        ImportError: If it is not installed, or too old.
    """
    wished = ".".join(str(part) for part in _MIN_TIMM)
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"OpenVLA's vision towers need timm {wished} or later. "
            "Install it by `pip install 'libero-reward-envs[openvla]'`."
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", timm.__version__)[:3]) < _MIN_TIMM:
        raise ImportError(
            f"Expected timm {wished} or later, got {timm.__version__}. "
            "Upgrade it by `pip install -U 'libero-reward-envs[openvla]'`."
        )
    return timm
