"""How much memory a model needs, said before anything is loaded."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from libero_reward_envs.openvla.config import OpenVLAConfig

_LOGGER = logging.getLogger(__name__)
_GIB = 2**30
# Kept as they are when bitsandbytes quantises; all other matrices take 4 or 8 bits a number.
_NOT_QUANTIZED = ("embed_tokens.weight", "lm_head.weight")
# 4-bit blocks carry their scales: 64 numbers share one of 32 bits.
_BITS_STORED = {4: 4.5, 8: 8.0}
# Libraries' own share of a GPU, and blocks that the allocator cannot use.
_OVERHEAD_BYTES = 600 * 2**20
_REMEDIES = (
    "Load it in 4 bits by `quantization_config=BitsAndBytesConfig(load_in_4bit=True)`, in bfloat16 "
    "instead of float32, or on several devices by `device_map='auto'`; or end what else uses the "
    "GPU. For features alone use `OpenVLAFeatureExtractor`, which needs an eighth."
)


class MemoryEstimate(NamedTuple):
    """What a model takes when it acts, in bytes.

    Attributes:
        weights: Its parameters.
        activations: The largest layer's intermediate results, and the cache of keys and values.
        overhead: What libraries take.
    """

    weights: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in self._asdict().items())
        return f"{self.total / _GIB:.2f} GiB ({parts})"


def estimate_memory(
    config: OpenVLAConfig,
    dtype: torch.dtype,
    *,
    parameters: Mapping[str, torch.Tensor] | None = None,
    quantization_bits: int | None = None,
    n_rows: int = 1,
    n_views: int = 1,
    n_tokens: int = 64,
) -> MemoryEstimate:
    """Estimate what a model takes when it acts; nothing is loaded.

    Args:
        config: The model's.
        dtype: Of the weights and of computing.
        parameters: The model's, on any device, if they are at hand; made on "meta" if None.
        quantization_bits: 4 or 8 for weights quantised by bitsandbytes.
        n_rows: Prompts a batch.
        n_views: Views a prompt.
        n_tokens: Tokens a prompt, actions included.
    """
    if parameters is None:
        shapes: Mapping[str, torch.Tensor] = make_meta_model(config).state_dict()
        parameters = shapes
    weights = 0.0
    for name, value in parameters.items():
        bits = 8.0 * dtype.itemsize
        if quantization_bits and value.ndim == 2 and not name.endswith(_NOT_QUANTIZED):
            bits = _BITS_STORED[quantization_bits]
        weights += value.numel() * bits / 8
    text = config.text_config
    n_patches, widths = _measure_towers(parameters)
    length = n_views * n_patches + n_tokens
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    cache = 2 * text.num_hidden_layers * length * heads * text.hidden_size
    cache //= text.num_attention_heads
    # A layer holds its input, the keys, queries and values, and the two halves of its MLP; logits
    # are turned to float32. Towers come before, with MLPs of four times their width.
    layer = length * (6 * text.hidden_size + 3 * text.intermediate_size) + 2 * text.vocab_size
    towers = n_views * n_patches * 12 * widths
    activations = n_rows * (cache + max(layer, towers)) * dtype.itemsize
    return MemoryEstimate(int(weights), activations, _OVERHEAD_BYTES)


def estimate_extractor_memory(
    parameters: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    n_rows: int = 8,
    n_views: int = 1,
) -> MemoryEstimate:
    """Estimate what an `OpenVLAFeatureExtractor` takes; nothing is loaded.

    Args:
        parameters: Those that it reads, on any device.
        dtype: Of the weights and of computing.
        n_rows: Moments a batch.
        n_views: Cameras; the images of all are seen together.
    """
    weights = sum(value.numel() for value in parameters.values()) * dtype.itemsize
    n_patches, widths = _measure_towers(parameters)
    activations = n_rows * n_views * n_patches * 12 * widths * dtype.itemsize
    return MemoryEstimate(weights, activations, _OVERHEAD_BYTES)


def _measure_towers(parameters: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return the patches a view, and the towers' widths together."""
    tables = [
        parameters[name].shape
        for tower in ("featurizer", "fused_featurizer")
        if (name := f"vision_backbone.{tower}.pos_embed") in parameters
    ]
    return max(shape[1] for shape in tables), sum(shape[2] for shape in tables)


def make_meta_model(config: OpenVLAConfig) -> Any:
    """Build a model without memory for its weights, to know their names and shapes."""
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

    with torch.device("meta"):
        return OpenVLAForActionPrediction(OpenVLAConfig.from_dict(config.to_dict()))


def find_free_bytes(device: torch.device) -> int | None:
    """Return what is free on a GPU, or None for a device that cannot say."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0]


def describe_room(estimate: MemoryEstimate, device: torch.device) -> str:
    """Return the estimate beside what is free on a device, in words for people."""
    free = find_free_bytes(device)
    room = "" if free is None else f", of {free / _GIB:.2f} GiB free"
    return f"estimated to take {estimate} on {device}{room}"


def check_room(estimate: MemoryEstimate, device: torch.device) -> None:
    """Log the estimate, and check that the device has room for it.

    A program that is to show the estimate prints `memory_description.describe_memory` beforehand.

    Raises:
        MemoryError: If it has not.
    """
    _LOGGER.info("The model is %s.", describe_room(estimate, device))
    free = find_free_bytes(device)
    if free is not None and estimate.total > free:
        raise MemoryError(
            f"Expected room for {estimate} on {device}, got {free / _GIB:.2f} GiB free. {_REMEDIES}"
        )


def explain_out_of_memory(estimate: MemoryEstimate, device: torch.device) -> MemoryError:
    """Return the error for a device that ran full in spite of the estimate."""
    return MemoryError(f"{device} ran full; the estimate was {estimate}. {_REMEDIES}")
