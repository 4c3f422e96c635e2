"""Loading a checkpoint into an OpenVLA model: what is checked before and after transformers."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from libero_reward_envs.openvla.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    check_shapes,
    find_checkpoint,
    list_tensors,
)
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.guard import check_sees_inputs
from libero_reward_envs.openvla.memory import (
    check_room,
    estimate_memory,
    explain_out_of_memory,
    make_meta_model,
)

if TYPE_CHECKING:
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2")
STATISTICS_FILE = "dataset_statistics.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_LOGGER = logging.getLogger(__name__)
_HUB_OPTIONS = ("revision", "local_files_only", "cache_dir", "token", "force_download")
# Settled here: weights are safetensors, and nothing else of the checkpoint is run or loaded.
_DROPPED_OPTIONS = (
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
    "ignore_mismatched_sizes",
    "low_cpu_mem_usage",
)
# Above this a forward pass on a CPU takes a minute rather than a second.
_LARGE_MODEL = 10**9


def load_pretrained(
    cls: "type[OpenVLAForActionPrediction]",
    load: Callable[..., Any],
    name_or_path: str | Path,
    *,
    config: OpenVLAConfig | None,
    attn_implementation: str,
    check: bool | None,
    **kwargs: Any,
) -> "OpenVLAForActionPrediction":
    """Load a checkpoint by `load`, transformers' `from_pretrained`; see that of the model."""
    check_attention(attn_implementation)
    hub_options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
    for name in _DROPPED_OPTIONS:
        kwargs.pop(name, None)
    folder = find_checkpoint(name_or_path, **hub_options)
    config = config or read_config(folder)
    dtype = find_dtype(kwargs.pop("dtype", kwargs.pop("torch_dtype", None)), config)
    expected = make_meta_model(config).state_dict()
    _check_files(folder, config, expected)
    bits = find_quantization_bits(kwargs.get("quantization_config") or config)
    estimate = estimate_memory(config, dtype, parameters=expected, quantization_bits=bits)
    device = find_device(kwargs.get("device_map"))
    check_room(estimate, device)
    wants_info = kwargs.pop("output_loading_info", False)
    try:
        model, info = load(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **kwargs,
        )
    except torch.OutOfMemoryError as error:
        raise explain_out_of_memory(estimate, device) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"Not all weights were taken from {str(folder)!r}: {info}.")
    _check_model(model, check)
    return (model, info) if wants_info else model  # pyright: ignore[reportReturnType] (asked for)


def _check_files(folder: Path, config: OpenVLAConfig, expected: Mapping[str, torch.Tensor]) -> None:
    tensors = list_tensors(folder)
    if getattr(config, "quantization_config", None) is None:  # else names and shapes are others
        unused = check_shapes(tensors, expected, folder)
        if unused:
            _LOGGER.warning("%d tensors in %s are not used: %s", len(unused), folder, unused[:6])
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        raise ValueError(
            f"Expected a whole model in {str(folder)!r}, got a LoRA adapter beside it, which "
            "transformers would add unasked. Keep the adapter in a folder of its own."
        )


def read_config(folder: Path) -> OpenVLAConfig:
    """Read `config.json`, with the statistics of `dataset_statistics.json` if that lies beside it.

    Raises:
        FileNotFoundError: If there is no `config.json`.
        ValueError: If it is not that of an OpenVLA model, or the statistics are not JSON.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No {CONFIG_FILE} in {str(folder)!r}: not an OpenVLA checkpoint.")
    fields = _read_json(path)
    if fields.get("model_type") != OpenVLAConfig.model_type:
        raise ValueError(
            f"Expected `model_type` {OpenVLAConfig.model_type!r} in {str(path)!r}, got "
            f"{fields.get('model_type')!r}. Give the folder of an OpenVLA checkpoint."
        )
    try:
        config = OpenVLAConfig.from_dict(fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} does not describe an OpenVLA model: {error}") from error
    if (folder / STATISTICS_FILE).is_file():
        # Fine-tuned models keep the statistics of their base model in config.json.
        config.norm_stats = _read_json(folder / STATISTICS_FILE)
    return config


def check_attention(implementation: str) -> None:
    """Check that an implementation of attention is known and installed.

    Raises:
        ImportError: If it is not installed.
        ValueError: If it is not known.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown `attn_implementation` {implementation!r}. "
            f"Choose one of: {', '.join(ATTENTION_IMPLEMENTATIONS)}."
        )
    if implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ImportError(
            "`attn_implementation='flash_attention_2'` needs the package flash-attn, which is not "
            "installed. Install it, or use 'sdpa', which gives the same and is about as fast."
        )


def find_dtype(dtype: str | torch.dtype | None, config: OpenVLAConfig | None) -> torch.dtype:
    """Return a precision by name, or that of the checkpoint for None and "auto".

    Raises:
        ValueError: If it is not one of float32, float16 and bfloat16.
    """
    if dtype is None or dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.bfloat16
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"Unknown `dtype` {dtype!r}. Choose one of: {', '.join(DTYPES)}.")
    return found


def find_quantization_bits(source: Any) -> int | None:
    """Return 4 or 8 for weights that bitsandbytes quantises, None for others."""
    if isinstance(source, OpenVLAConfig):
        source = getattr(source, "quantization_config", None)
    for bits in (4, 8):
        name = f"load_in_{bits}bit"
        if source.get(name) if isinstance(source, dict) else getattr(source, name, False):
            return bits
    return None


def find_device(device_map: Any) -> torch.device:
    """Return the one device of a `device_map`, "meta" where several share the model."""
    if isinstance(device_map, dict):
        devices = set(device_map.values())
        device_map = devices.pop() if len(devices) == 1 else "auto"
    if device_map is None:
        return torch.device("cpu")
    if isinstance(device_map, int):
        return torch.device("cuda", device_map)
    if isinstance(device_map, str) and not device_map.startswith(("cuda", "cpu", "mps")):
        return torch.device("meta")
    return torch.device(device_map)


def _check_model(model: "OpenVLAForActionPrediction", check: bool | None) -> None:
    if check is None:
        check = model.device.type != "cpu" or model.num_parameters() < _LARGE_MODEL
        if not check:
            _LOGGER.info("Not checked yet on this CPU: call `check_sees_inputs` on the GPU.")
    if not model.norm_stats:
        warnings.warn(
            "This checkpoint has no `norm_stats`: features and logits can be computed, actions "
            f"cannot. Put the {STATISTICS_FILE} of its training data beside it.",
            stacklevel=4,
        )
    if check:
        check_sees_inputs(model)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}. Download it again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"Expected an object in {str(path)!r}, got {type(fields).__name__}.")
    return fields
