"""Which parts of OpenVLA are trained: LoRA adapters, also on a 4-bit model, or all of it."""

import difflib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from libero_reward_envs.openvla.checkpoint_files import ADAPTER_CONFIG_FILE

if TYPE_CHECKING:
    from peft import PeftModel

    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

ADAPTER_FILE = "adapter_model.safetensors"
# Named targets, as last parts of names. "all-linear" is every linear layer and both patch
# embeddings: what PEFT 0.11.1, with which the published adapters were made, found under that name.
_LANGUAGE_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LANGUAGE = (*_LANGUAGE_ATTENTION, "gate_proj", "up_proj", "down_proj")
_TARGETS = {
    "all-linear": (*_LANGUAGE, "fc1", "fc2", "fc3", "qkv", "proj", "q", "kv", "lm_head"),
    "attention": (*_LANGUAGE_ATTENTION, "attn.qkv", "attn.proj"),
    "language": _LANGUAGE,
}
TARGETS = tuple(_TARGETS)


def find_targets(model: nn.Module, target: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the ends of names that PEFT is given, and the layers that these are.

    Args:
        model: The model, on any device.
        target: "all-linear", every layer that multiplies with a matrix, convolutions of patches
            included; "attention", the attention of language model and towers; "language", all
            layers of the language model's blocks, which is what many call all attention layers; or
            ends of layers' names.

    Raises:
        ValueError: If a name is that of no such layer.
    """
    layers = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    named = isinstance(target, str) and target in _TARGETS
    asked = [target] if isinstance(target, str) else list(target)
    endings = list(_TARGETS[asked[0]]) if named else asked
    kept = []
    for ending in endings:
        if any(_ends_with(name, ending) for name in layers):
            kept.append(ending)
        elif not named:
            known = sorted({*_TARGETS, *(name.rsplit(".", 1)[-1] for name in layers)})
            near = difflib.get_close_matches(ending, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"No layer of the model is called {ending!r}. {hint}")
    return kept, [name for name in layers if any(_ends_with(name, part) for part in kept)]


def count_adapter_parameters(model: nn.Module, target: str | Sequence[str], r: int) -> int:
    """Return how many numbers LoRA of rank `r` trains: r (inputs + outputs) of each layer."""
    _, layers = find_targets(model, target)
    shapes = [_weight_shape(model.get_submodule(name)) for name in layers]
    return sum(r * (shape[0] + shape[1:].numel()) for shape in shapes)


def add_adapters(
    model: "OpenVLAForActionPrediction",
    *,
    r: int = 32,
    alpha: int | None = None,
    dropout: float = 0.0,
    target: str | Sequence[str] = "all-linear",
    dtype: torch.dtype = torch.float32,
    base_name: str | None = None,
) -> "PeftModel":
    """Put LoRA adapters on a model, W + alpha / r B A (Hu et al. 2021); all else is frozen.

    A is drawn from a normal distribution of standard deviation 1 / r, B is 0, so that nothing
    changes at first.

    Args:
        model: The model, which is changed.
        r: Rank of the adapters.
        alpha: See above; the smaller of r and 16 if None, as published.
        dropout: Share of an adapter's inputs that is dropped in training.
        target: See `find_targets`.
        dtype: Of the adapters. Published ones were trained in bfloat16; float32 keeps small steps.
        base_name: Name of the model that is kept with the adapters.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If a target is unknown.
    """
    peft = import_peft()
    endings, _ = find_targets(model, target)
    settings = peft.LoraConfig(
        r=r,
        lora_alpha=min(r, 16) if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=endings,
        init_lora_weights="gaussian",
        bias="none",
    )
    with warnings.catch_warnings():
        # peft calls transformers by a name that is to go; output layer and embeddings are not tied.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    for name, value in adapted.named_parameters():
        if ".lora_" in name:
            value.data = value.data.to(dtype)
    if base_name is not None:  # where peft put the folder that the model was loaded from
        adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def save_adapters(model: "PeftModel", folder: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, by PEFT's own names."""
    # Layers themselves are frozen: unlike PEFT of old, which stored the whole output layer again.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form that nobody filled in


def load_adapters(
    model: "OpenVLAForActionPrediction", folder: str | Path, *, trainable: bool = False
) -> "PeftModel":
    """Put saved adapters on a model: those of this package, or of the original project.

    Args:
        model: The model that they were trained on.
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        trainable: Whether they are to be trained on.

    Raises:
        FileNotFoundError: If there are none.
        ImportError: If peft is not installed.
        ValueError: If they do not fit the model.
    """
    peft = import_peft()
    folder = Path(folder)
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"No {name} in {str(folder)!r}: not a folder of adapters.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            return peft.PeftModel.from_pretrained(
                model, str(folder), is_trainable=trainable, autocast_adapter_dtype=False
            )
    except (RuntimeError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"The adapters in {str(folder)!r} do not fit this model: {error}. Give the model that "
            "they were trained on."
        ) from error


def make_trainable(model: nn.Module) -> None:
    """Let all parts be trained that the actions depend on.

    The last block of each tower, its norm and its pooling are not: features are taken before them.
    """
    model.requires_grad_(True)
    for name, value in model.named_parameters():
        value.requires_grad_(not is_unused(model, name))


def is_unused(model: nn.Module, name: str) -> bool:
    """Whether a parameter of OpenVLA takes no part in anything."""
    parts = name.split(".")
    if parts[0] != "vision_backbone":
        return False
    tower: Any = model.get_submodule(".".join(parts[:2]))
    if parts[2] == "blocks":
        return int(parts[3]) > len(tower.blocks) - 2
    return parts[2] in ("norm", "attn_pool")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many numbers there are, and how many of them are trained.

    Numbers that bitsandbytes packed count as what they were packed from.
    """
    total = trained = 0
    for value in model.parameters():
        shape = getattr(getattr(value, "quant_state", None), "shape", value.shape)
        n = torch.Size(shape).numel()
        total += n
        trained += n * value.requires_grad
    return total, trained


def prepare_quantized(
    model: "OpenVLAForActionPrediction", *, gradient_checkpointing: bool
) -> "OpenVLAForActionPrediction":
    """Freeze a model in 4 bits, and keep its other numbers in float32, as PEFT prepares it."""
    peft = import_peft()
    return peft.prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )


def keep_layers_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes on a CPU from packing 4-bit layers for inference, for good, in eval mode.

    It does so on some CPUs when a layer is first used in eval mode; gradients are lost then.
    """
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def import_peft() -> Any:
    """Return the package peft.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "LoRA needs peft. Install it by `pip install 'libero-reward-envs[openvla]'`."
        ) from error
    return peft


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _weight_shape(module: nn.Module) -> torch.Size:
    weight: Any = module.weight
    return weight.shape
