"""Loads what an OpenVLA policy is made of: model, adapter, further parts, processor, statistics."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from libero_reward_envs.agents.openvla_adapters import load_adapters
from libero_reward_envs.agents.openvla_merging import POLICY_FILE, read_base_name
from libero_reward_envs.agents.openvla_run_files import find_latest
from libero_reward_envs.openvla.action_normalization import (
    ActionStatistics,
    find_statistics,
    normalize,
)
from libero_reward_envs.openvla.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    find_checkpoint,
)
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.fingerprint import fingerprint_folders
from libero_reward_envs.openvla.guard import check_sees_inputs
from libero_reward_envs.openvla.loading import STATISTICS_FILE, read_config
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.oft import OFTParts, check_parts
from libero_reward_envs.openvla.oft_files import load_oft_parts
from libero_reward_envs.openvla.policy_images import CROP_AREA
from libero_reward_envs.openvla.processor import OpenVLAProcessor

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

QUANTIZATIONS = ("4bit", "8bit")
# What fine-tuning notes beside its checkpoints, and what holds for the published ones.
DEFAULTS: dict[str, Any] = {
    "unnorm_key": None,
    "image_keys": ("agentview_image",),
    "jpeg": True,
    "gripper": "libero",
    "normalization": "q99",
    "prompt_version": "v02",
}


class LoadedPolicy(NamedTuple):
    """What a policy is made of.

    Attributes:
        model: On its device, its adapter within.
        processor: Of prompts and images.
        parts: What OFT adds; None for a model that writes one action token after the other.
        unnorm_key: Whose statistics give the actions their unit.
        folders: The checkpoint, and the adapter if there is one.
        fingerprint: SHA-256 of their files.
    """

    model: OpenVLAForActionPrediction
    processor: OpenVLAProcessor
    parts: OFTParts | None
    unnorm_key: str
    folders: tuple[Path, ...]
    fingerprint: str


def find_policy_folders(
    name_or_path: str | Path, adapter: str | Path | None = None, **hub_options: Any
) -> tuple[Path, ...]:
    """Return the folder of a model, and of its adapter if there is one.

    Args:
        name_or_path: A folder, a Hub id, "tiny-random-openvla"; the folder of an adapter that names
            its base, or of a run of fine-tuning, for its latest checkpoint.
        adapter: Folder or Hub id of an adapter.
        hub_options: See `checkpoint_files.find_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If an adapter does not name its base.
    """
    folder = find_checkpoint(name_or_path, **hub_options)
    if not any((folder / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        folder = find_latest(folder) or folder
    is_model = any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE))
    if adapter is None and not is_model and (folder / ADAPTER_CONFIG_FILE).is_file():
        return find_checkpoint(read_base_name(folder), **hub_options), folder
    if adapter is None:
        return (folder,)
    return folder, find_checkpoint(adapter, **hub_options)


def read_policy_config(folders: tuple[Path, ...]) -> OpenVLAConfig:
    """Return the configuration of a model, with the statistics that its adapter brings.

    Raises:
        ValueError: If a file is damaged.
    """
    config = read_config(folders[0])
    for folder in folders[1:]:
        path = folder / STATISTICS_FILE
        if path.is_file():
            config.norm_stats = _read_object(path)
    return config


def choose_settings(folders: tuple[Path, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a policy is to be used: as was given, as its training noted, or as usual.

    Args:
        folders: See `find_policy_folders`; of an adapter's notes and its base's, the adapter's.
        given: Values by the names of `DEFAULTS`; None for what was not given.

    Raises:
        ValueError: If the notes are damaged.
    """
    stored: dict[str, Any] = {}
    for folder in folders:
        path = folder / POLICY_FILE
        if path.is_file():
            stored.update(_read_object(path))
    chosen = {}
    for name, usual in DEFAULTS.items():
        value = given.get(name)
        chosen[name] = stored.get(name, usual) if value is None else value
    if given.get("center_crop") is None:
        # Notes of training without augmentation have no area.
        chosen["crop_area"] = stored.get("crop_area", CROP_AREA)
    else:
        chosen["crop_area"] = CROP_AREA if given["center_crop"] else None
    return chosen


def load_policy_parts(
    folders: tuple[Path, ...],
    *,
    unnorm_key: str | None,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    quantization: str | None,
    attn_implementation: str,
    chunk_size: int | None,
    n_views: int,
    check: bool,
) -> LoadedPolicy:
    """Load all parts; see `OpenVLAPolicy.from_pretrained`. What is cheap is checked first."""
    config = read_policy_config(folders)
    key, statistics = find_statistics(config.norm_stats, unnorm_key)
    device = _find_device(device)
    processor = OpenVLAProcessor.from_pretrained(folders[0])
    model = _load_model(folders[0], config, device, dtype, quantization, attn_implementation)
    for adapter_folder in folders[1:]:
        model = _add_adapter(model, adapter_folder, merge=quantization is None)
    options: dict[str, Any] = {"chunk_size": chunk_size, "device": model.device}
    options["dtype"] = model.get_input_embeddings().weight.dtype
    found = [load_oft_parts(each, **options) for each in reversed(folders)]
    # Those of the adapter, which was trained later, before those of its base.
    parts = next((each for each in found if each is not None and any(each[:2])), found[0])
    if parts is not None:
        check_parts(model, parts, statistics)
    model.eval().requires_grad_(False)
    if check:
        check_sees_inputs(model, n_views=n_views)
    return LoadedPolicy(model, processor, parts, key, folders, fingerprint_folders(folders))


def make_quantization_config(quantization: str | None) -> "BitsAndBytesConfig | None":
    """Return what transformers takes for "4bit", "8bit" or None.

    Raises:
        ImportError: If bitsandbytes is not installed.
        ValueError: If it is none of these.
    """
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be None or one of {', '.join(QUANTIZATIONS)}, got "
            f"{quantization!r}."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(
            f"`quantization={quantization!r}` needs bitsandbytes, which is not installed. Install "
            "it by `pip install bitsandbytes`, or load the model in bfloat16."
        )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"Expected an object in {str(path)!r}, got {type(fields).__name__}.")
    return fields


def _find_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _load_model(
    folder: Path,
    config: OpenVLAConfig,
    device: torch.device,
    dtype: str | torch.dtype | None,
    quantization: str | None,
    attn_implementation: str,
) -> OpenVLAForActionPrediction:
    options: dict[str, Any] = {}
    if (quantization_config := make_quantization_config(quantization)) is not None:
        options["quantization_config"] = quantization_config
    if quantization_config is not None or device.type != "cpu":
        options["device_map"] = {"": str(device)}
    if dtype is None and device.type == "cpu" and quantization is None:
        dtype = "float32"  # bfloat16 is slower on most CPUs, and rounds
    return OpenVLAForActionPrediction.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        check=False,
        **options,
    )


def _add_adapter(
    model: OpenVLAForActionPrediction, folder: Path, *, merge: bool
) -> OpenVLAForActionPrediction:
    """Return the model with an adapter, which changes its layers in place."""
    adapted: Any = load_adapters(model, folder)
    return adapted.merge_and_unload() if merge else adapted.base_model.model


class ProprioNormalizer:
    """Normalises the robot's own state by the statistics that a checkpoint was trained with.

    Args:
        loaded: The checkpoint, which has a projector for the state.
        kind: One of `NORMALIZATIONS`.

    Raises:
        ValueError: If there are no such statistics, or of another length.
    """

    def __init__(self, loaded: LoadedPolicy, kind: str) -> None:
        assert loaded.parts is not None
        assert loaded.parts.proprio_projector is not None
        size = loaded.parts.proprio_projector.proprio_dim
        stored = (loaded.model.norm_stats or {})[loaded.unnorm_key].get("proprio")
        if not isinstance(stored, dict):
            raise ValueError(f"The statistics of {loaded.unnorm_key!r} have no block 'proprio'.")
        self._statistics = ActionStatistics.from_json(stored)
        if self._statistics.mean.size != size:
            raise ValueError(
                f"Expected statistics of a state of {size} numbers for {loaded.unnorm_key!r}, as "
                f"the projector takes it, got {self._statistics.mean.size}. Copy "
                f"{STATISTICS_FILE} of the data that it was trained on."
            )
        self._kind = kind

    def __call__(self, proprio: np.ndarray) -> np.ndarray:
        """Return normalised states, (n, p) float32, clipped to [-1, 1]."""
        return normalize(proprio, self._statistics, self._kind, use_mask=False)
