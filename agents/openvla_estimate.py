"""What fine-tuning takes, said before anything is loaded."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from libero_reward_envs.agents.openvla_adapters import (
    count_adapter_parameters,
    count_parameters,
    is_unused,
)
from libero_reward_envs.agents.openvla_config import FinetuneConfig
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.memory import estimate_memory, make_meta_model

_GIB = 2**30
_PROMPT_TOKENS = 40  # of LIBERO's longer instructions, action included
# Numbers that a block keeps for the backward pass, in units of its width, of 2 bytes each; those
# kept in float32 count twice. Language model: two norms with float32 copies, queries, keys and
# values before and after rotation, attention's output; and four of the MLP's width. Towers: norms,
# queries, keys, values, outputs, and twice an MLP of four times the width.
_LANGUAGE_WIDTHS, _LANGUAGE_MLP_WIDTHS, _TOWER_WIDTHS = 16, 4, 16
# Logits are made for the end of each row only, where prompts differ in length and labels are.
_LOGIT_ROWS = 16
_LOGIT_COPIES = 3  # in float32: logits, their softmax and its gradient
_ADAM_MOMENTS = 2
_MOST_REMEDIES = 5


class FinetuneEstimate(NamedTuple):
    """What a training step takes on one device, in bytes, but for the first two.

    Attributes:
        n_parameters: Numbers of the model, adapters included.
        n_trained: How many of them are trained.
        weights: All of them.
        gradients: Of those that are trained.
        optimizer: AdamW's two moments.
        activations: What the forward pass keeps for the backward pass.
        overhead: What libraries take.
    """

    n_parameters: int
    n_trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self[2:])

    def __str__(self) -> str:
        parts = self._asdict()
        del parts["n_parameters"], parts["n_trained"]
        listed = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in parts.items())
        share = 100 * self.n_trained / self.n_parameters
        return (
            f"{self.n_trained:,} of {self.n_parameters:,} parameters are trained ({share:.4g} %). "
            f"Memory: {self.total / _GIB:.2f} GiB ({listed})"
        )


def estimate_finetuning(
    model_config: OpenVLAConfig,
    config: FinetuneConfig,
    device: torch.device,
    *,
    model: nn.Module | None = None,
    n_tokens: int = _PROMPT_TOKENS,
) -> FinetuneEstimate:
    """Estimate what a training step takes; nothing is loaded.

    Several processes take as much each, unless FSDP shares weights, gradients and moments.

    Args:
        model_config: The model's.
        config: Of the run.
        device: Where it is to run.
        model: The model on "meta", if it is at hand.
        n_tokens: Tokens of a row, without patches.
    """
    model = make_meta_model(model_config) if model is None else model
    assert model is not None
    dtype = find_training_dtype(config, device)
    bits = 4 if config.use_quantization else None
    acting = estimate_memory(
        model_config, dtype, parameters=model.state_dict(), quantization_bits=bits
    )
    n_model, _ = count_parameters(model)
    weights, n_adapters = acting.weights, 0
    if config.use_quantization:  # all that is not quantised is kept in float32
        weights += _count_unquantized(model) * (4 - dtype.itemsize)
    if config.training_mode == "lora":
        target = config.lora_target
        n_adapters = count_adapter_parameters(
            model, target[0] if len(target) == 1 else target, config.lora_r
        )
        adapter_bytes = 4 if config.adapter_dtype == "float32" else 2
        weights += n_adapters * adapter_bytes
        n_trained, trained_bytes = n_adapters, n_adapters * adapter_bytes
    else:
        n_trained = sum(v.numel() for n, v in model.named_parameters() if not is_unused(model, n))
        trained_bytes = n_trained * dtype.itemsize
    return FinetuneEstimate(
        n_parameters=n_model + n_adapters,
        n_trained=n_trained,
        weights=weights,
        gradients=trained_bytes,
        optimizer=_ADAM_MOMENTS * trained_bytes,
        activations=_estimate_activations(model_config, config, device, model, n_tokens),
        overhead=acting.overhead,
    )


def find_training_dtype(config: FinetuneConfig, device: torch.device) -> torch.dtype:
    """Return the type of the weights that are loaded.

    On a GPU bfloat16 for LoRA, whose layers are frozen, and float32 for what is trained in full,
    which computes in bfloat16; float32 on a CPU.
    """
    if config.dtype != "auto":
        return torch.float32 if config.dtype == "float32" else torch.bfloat16
    if device.type == "cpu" or config.training_mode == "full":
        return torch.float32
    return torch.bfloat16


def find_room(device: torch.device) -> tuple[int, str]:
    """Return the bytes that a device can give, and what it is; 0 where it cannot say.

    Of a GPU that is what is free; of a CPU all of its memory, since what others hold comes and
    goes.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return free, f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0, "the CPU"
    return total, f"the CPU, {total / _GIB:.1f} GiB of memory"


def list_remedies(
    model_config: OpenVLAConfig, config: FinetuneConfig, device: torch.device, free: int
) -> list[str]:
    """Return changes of the settings by which it would fit, each with what it then takes."""
    model = make_meta_model(model_config)
    fitting = []
    for words, changed in _list_changes(config):
        estimate = estimate_finetuning(model_config, changed, device, model=model)
        if estimate.total <= free:
            fitting.append(f"{words}: {estimate.total / _GIB:.1f} GiB")
    return fitting[:_MOST_REMEDIES]


def check_fits(
    estimate: FinetuneEstimate,
    model_config: OpenVLAConfig,
    config: FinetuneConfig,
    device: torch.device,
) -> str:
    """Return the estimate beside what the device has, in words.

    Raises:
        MemoryError: If it does not fit; the message says what to change.
    """
    free, where = find_room(device)
    told = f"{estimate}; on {where}."
    if not free or estimate.total <= free:
        return told
    remedies = list_remedies(model_config, config, device, free)
    hint = "; ".join(remedies) if remedies else "several GPUs with FSDP, or a larger one"
    raise MemoryError(f"{told} That does not fit. What would: {hint}.")


def _list_changes(config: FinetuneConfig) -> Iterator[tuple[str, FinetuneConfig]]:
    """Yield settings that take less, those that change the result least first."""
    changes: dict[str, Any] = {}
    words = []
    if not config.gradient_checkpointing:
        changes["gradient_checkpointing"] = True
        words.append("gradient_checkpointing=true")
        yield words[0], dataclasses.replace(config, **changes)
    batch, accumulate = config.batch_size, config.gradient_accumulate_every
    while batch > 1:
        batch, accumulate = batch // 2, accumulate * 2
        small = {"batch_size": batch, "gradient_accumulate_every": accumulate}
        text = f"batch_size={batch} gradient_accumulate_every={accumulate}"
        if not config.gradient_checkpointing:
            yield text, dataclasses.replace(config, **small)
        yield " ".join([*words, text]), dataclasses.replace(config, **changes, **small)
    if config.training_mode == "full":
        yield (
            " ".join(["dtype=bfloat16", *words]) + " (loses small steps)",
            dataclasses.replace(config, dtype="bfloat16", **changes),
        )
        yield "training_mode=lora", dataclasses.replace(config, training_mode="lora")
        yield (
            " ".join(["training_mode=lora", *words]),
            dataclasses.replace(config, training_mode="lora", **changes),
        )
    if not config.use_quantization:
        quantized = dataclasses.replace(config, training_mode="lora", use_quantization=True)
        lora = ["training_mode=lora"] if config.training_mode == "full" else []
        yield " ".join([*lora, "use_quantization=true"]), quantized
        yield (
            " ".join([*lora, "use_quantization=true", *words, "batch_size=1"]),
            dataclasses.replace(quantized, **{**changes, "batch_size": 1}),
        )


def _estimate_activations(
    model_config: OpenVLAConfig,
    config: FinetuneConfig,
    device: torch.device,
    model: Any,
    n_tokens: int,
) -> int:
    text = model_config.text_config
    n_views = len(config.camera_names)
    length = n_views * model.vision_backbone.n_patches + n_tokens
    # Numbers of 2 bytes under autocast, 4 on a CPU.
    width = 4 if device.type == "cpu" else 2
    layer = _LANGUAGE_WIDTHS * text.hidden_size + _LANGUAGE_MLP_WIDTHS * text.intermediate_size
    stacks = [(text.num_hidden_layers, length, text.hidden_size, layer)]
    for tower in model.vision_backbone.towers:
        n = n_views * (tower.patch_embed.num_patches + tower.num_prefix_tokens)
        stacks.append((len(tower.blocks) - 1, n, tower.embed_dim, _TOWER_WIDTHS * tower.embed_dim))
    total = 0
    for n_blocks, n, hidden, kept in stacks:
        if config.gradient_checkpointing:  # a block's input each, and one block computed again
            total += n * (n_blocks * hidden + kept)
        else:
            total += n * n_blocks * kept
    logits = _LOGIT_ROWS * text.vocab_size * _LOGIT_COPIES * 4
    return config.batch_size * (total * width + logits)


def _count_unquantized(model: nn.Module) -> int:
    """Return how many numbers stay as they are when bitsandbytes quantises."""
    parameters: Mapping[str, torch.Tensor] = model.state_dict()
    return sum(
        value.numel()
        for name, value in parameters.items()
        if value.ndim != 2 or name.endswith(("embed_tokens.weight", "lm_head.weight"))
    )
