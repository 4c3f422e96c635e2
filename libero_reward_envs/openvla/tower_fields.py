"""The fields of a checkpoint's configuration that its vision towers are built from, checked.

They reach `timm.create_model`, which reads files, unpickles them or goes to the network where it is
asked to. So only models of the published tables and numbers of an architecture pass.
"""

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from libero_reward_envs.openvla.backbones import VISION_BACKBONES

if TYPE_CHECKING:
    from libero_reward_envs.openvla.config import OpenVLAConfig

ACT_LAYERS = (None, "gelu", "gelu_tanh", "quick_gelu")
TIMM_IDS = tuple(sorted({name for towers in VISION_BACKBONES.values() for name in towers.timm_ids}))
# Arguments of timm's vision transformers: the type, the least and the greatest value. Features are
# those of the second-to-last block, hence two blocks at least.
_NUMBERS = {
    "depth": (int, 2, 512),
    "embed_dim": (int, 1, 2**16),
    "init_values": (float, 0, 1e3),
    "mlp_ratio": (float, 1e-3, 1e3),
    "num_heads": (int, 1, 2**12),
    "patch_size": (int, 1, 2**12),
    "reg_tokens": (int, 0, 2**12),
}
_FLAGS = ("class_token", "qkv_bias")
_MAX_IMAGE_SIZE = 2**14
_REMEDY = "Mend the checkpoint's config.json, or do not use this checkpoint."


class Tower(NamedTuple):
    """What one vision tower is built from.

    Attributes:
        timm_id: Name of timm's model.
        image_size: Side of the square image that it sees, in pixels.
        act_layer: Activation, or None for timm's own.
        kwargs: Numbers of the architecture that differ from timm's.
    """

    timm_id: str
    image_size: int
    act_layer: str | None
    kwargs: dict[str, Any]


def read_towers(config: "OpenVLAConfig") -> list[Tower]:
    """Return what the towers of a configuration are built from, each field checked.

    Raises:
        ValueError: If a field is not one that a vision tower may have, or they do not fit each
            other.
    """
    n_towers = config.n_towers
    kwargs = getattr(config, "timm_model_kwargs", None)
    fields = {
        "timm_model_ids": config.timm_model_ids,
        "image_sizes": config.image_sizes,
        "timm_override_act_layers": config.timm_override_act_layers,
        "timm_model_kwargs": [{}] * n_towers if kwargs is None else kwargs,
    }
    for name, values in fields.items():
        if not isinstance(values, list | tuple) or len(values) != n_towers:
            raise ValueError(
                f"Expected `{name}` with one entry for each of {n_towers} vision towers "
                f"of {config.vision_backbone_id!r}, got {values!r}. Mend the checkpoint's "
                "config.json."
            )
    towers = [
        Tower(_check_id(name), _check_size(size), _check_act_layer(layer), _check_kwargs(options))
        for name, size, layer, options in zip(*fields.values(), strict=True)
    ]
    if len({tower.image_size for tower in towers}) != 1:
        raise ValueError(
            "Expected towers that see images of one size, since an image's channels hold it "
            f"once for each, got `image_sizes` {config.image_sizes}."
        )
    return towers


def _check_id(name: Any) -> str:
    if name not in TIMM_IDS:
        near = difflib.get_close_matches(str(name), TIMM_IDS, n=2) or TIMM_IDS
        raise ValueError(
            f"Expected each of `timm_model_ids` as a vision tower of a published OpenVLA, got "
            f"{name!r}. The nearest known: {', '.join(near)}. {_REMEDY}"
        )
    return name


def _check_size(size: Any) -> int:
    if type(size) is not int or not 0 < size <= _MAX_IMAGE_SIZE:
        raise ValueError(
            f"Expected each of `image_sizes` as pixels between 1 and {_MAX_IMAGE_SIZE}, got "
            f"{size!r}. {_REMEDY}"
        )
    return size


def _check_act_layer(layer: Any) -> str | None:
    if layer not in ACT_LAYERS:
        raise ValueError(
            f"Expected each of `timm_override_act_layers` as one of {ACT_LAYERS}, got {layer!r}. "
            f"{_REMEDY}"
        )
    return layer


def _check_kwargs(options: Any) -> dict[str, Any]:
    """Return further arguments of a tower, if they are plain numbers of its architecture."""
    if not isinstance(options, Mapping):
        raise ValueError(
            f"Expected each of `timm_model_kwargs` as an object of numbers, got {options!r}. "
            f"{_REMEDY}"
        )
    for name, value in options.items():
        if name in _FLAGS and type(value) is bool:
            continue
        if name in _FLAGS:
            raise ValueError(
                f"Expected {name!r} in `timm_model_kwargs` as true or false, got {value!r}. "
                f"{_REMEDY}"
            )
        if name not in _NUMBERS:
            known = ", ".join(sorted((*_NUMBERS, *_FLAGS)))
            raise ValueError(
                f"Expected only numbers of the architecture in `timm_model_kwargs` ({known}), got "
                f"{name!r}. Others could have timm load files or code. {_REMEDY}"
            )
        kind, low, high = _NUMBERS[name]
        is_number = type(value) is int or (kind is float and type(value) is float)
        if not is_number or not low <= value <= high:
            raise ValueError(
                f"Expected {name!r} in `timm_model_kwargs` as {kind.__name__} between {low} and "
                f"{high}, got {value!r}. {_REMEDY}"
            )
    return dict(options)
