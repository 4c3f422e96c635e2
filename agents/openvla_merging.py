"""Adapters merged into their model, as a plain checkpoint that needs no adapters."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from libero_reward_envs.agents.openvla_adapters import load_adapters
from libero_reward_envs.openvla.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    find_checkpoint,
)
from libero_reward_envs.openvla.loading import STATISTICS_FILE, find_dtype, read_config
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

POLICY_FILE = "openvla_policy.json"  # how a policy is to be used, see `openvla_run_files`
_SHARD_SIZE = "7GB"  # as published
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".index.json")


def merge_adapters(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
    device: str = "cpu",
) -> Path:
    """Write a checkpoint of W + alpha / r B A, under the names of the model that was adapted.

    Configuration, tokenizer and image processor are copied from that model. The statistics of the
    adapters' training data become `dataset_statistics.json`, and stand in `config.json` beside the
    model's own, so that the original project finds them as well.

    Args:
        adapter: Folder of the adapters, such as `latest` of a run.
        out: Folder to write; there must be nothing yet. It appears when it is whole.
        base: The model; the one that the adapters name if None.
        dtype: Of the weights; "auto" for that of the model.
        device: Where to multiply.

    Returns:
        The folder.

    Raises:
        FileExistsError: If there is something at `out`.
        FileNotFoundError: If there are no adapters, or their model is not found.
        ValueError: If they do not fit, or do not name their model.
        OSError: If it cannot be written; nothing is left then.
    """
    adapter, out = Path(adapter), Path(out)
    if out.exists():
        raise FileExistsError(f"{str(out)!r} is there already. Choose another folder.")
    folder = find_checkpoint(base if base is not None else read_base_name(adapter))
    config = read_config(folder)
    model: Any = OpenVLAForActionPrediction.from_pretrained(
        folder, dtype=find_dtype(dtype, config), check=False
    )
    model.to(torch.device(device))
    norm_stats = dict(model.norm_stats or {})
    adapted = load_adapters(model, adapter)
    merged: Any = adapted.merge_and_unload()
    statistics = _read_json(adapter / STATISTICS_FILE)
    merged.config.norm_stats = {**norm_stats, **statistics} or None
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        merged.to("cpu").save_pretrained(draft / out.name, max_shard_size=_SHARD_SIZE)
        copy_other_files(folder, draft / out.name)
        _keep_code_map(folder, draft / out.name)
        for name in (STATISTICS_FILE, POLICY_FILE):
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, draft / out.name / name)
        os.rename(draft / out.name, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def read_base_name(adapter: str | Path) -> str:
    """Return the name of the model that adapters were trained on.

    Raises:
        FileNotFoundError: If there are no adapters.
        ValueError: If they do not name it.
    """
    path = Path(adapter) / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {str(path.parent)!r}: no folder of adapters.")
    name = _read_json(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{str(path)!r} does not name the model. Give it by `base` (--base).")
    return name


def copy_other_files(base: Path, folder: Path) -> None:
    """Copy what a checkpoint has beside weights and configuration: tokenizer, processor, code."""
    folder.mkdir(parents=True, exist_ok=True)
    skipped = (CONFIG_FILE, INDEX_FILE, STATISTICS_FILE, ADAPTER_CONFIG_FILE)
    for path in sorted(base.iterdir()):
        is_weights = path.name.endswith(_WEIGHT_SUFFIXES)
        is_kept = path.suffix in (".json", ".model", ".py", ".jinja") and not is_weights
        if path.is_file() and is_kept and path.name not in skipped:
            shutil.copyfile(path, folder / path.name)


def _keep_code_map(base: Path, folder: Path) -> None:
    """Put `auto_map` back, by which the original's code is found; this package ignores it."""
    stored = _read_json(base / CONFIG_FILE)
    if "auto_map" in stored:
        path = folder / CONFIG_FILE
        fields = {**_read_json(path), "auto_map": stored["auto_map"]}
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}
