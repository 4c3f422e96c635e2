"""A tiny OpenVLA with random weights, for examples and tests without a download.

It has every part of the published model under its name, and knows nothing: what comes out of it is
never a result.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from libero_reward_envs.openvla.action_normalization import ActionStatistics
from libero_reward_envs.openvla.checkpoint_files import CONFIG_FILE, TINY_OPENVLA, WEIGHTS_FILE
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.image_processor import OpenVLAImageProcessor
from libero_reward_envs.openvla.loading import STATISTICS_FILE
from libero_reward_envs.openvla.memory import make_meta_model
from libero_reward_envs.openvla.picture_resizer import PictureResizer
from libero_reward_envs.openvla.processor import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from libero_reward_envs.openvla.tiny_tokenizer import (
    BOS,
    BOS_ID,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    UNKNOWN,
    VOCAB_SIZE,
    make_tiny_tokenizer,
)

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_CARD_FILE = "README.md"
_IMAGE_SIZE = 112  # px: 8 x 8 patches
_ADDED_ROWS, _N_BINS = 64, 256
# ImageNet's statistics rounded to bfloat16, as the released checkpoints apply them, and SigLIP's.
_MEANS = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
_STDS = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))
_CARD = f"""# {TINY_OPENVLA}

OpenVLA's architecture at a toy size with **random weights**. It was never trained and knows
nothing: its actions are noise, its features are random projections, and no result with it means
anything. It serves to try out programs, examples and tests without a download.

- Made by `libero_reward_envs.openvla.tiny.make_tiny_openvla`; the seed stands in `config.json`.
- Two vision towers that see {_IMAGE_SIZE} x {_IMAGE_SIZE} pixels, a language model of two layers.
- `norm_stats` and `dataset_statistics.json` hold round numbers of LIBERO's order of magnitude.
  They were **not measured**; their counts of transitions and trajectories are therefore 0.
- The tokenizer is laid out as Llama 2's and knows the words of LIBERO's instructions; most of its
  pieces are placeholders.
"""


def make_tiny_openvla(folder: str | Path, seed: int = 0) -> Path:
    """Write the tiny checkpoint; its folder appears when it is whole.

    5 MB, in a few seconds. The same seed gives the same tensors.

    Args:
        folder: Where it is to be; there must be nothing yet.
        seed: Of the weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: If there is something already.
        ImportError: If timm is not installed, whose models say which tensors there are.
        OSError: If it cannot be written; nothing is left then.
    """
    folder = Path(folder)
    there = f"Expected no {str(folder)!r} yet. Remove it, or choose another name."
    if folder.exists():
        raise FileExistsError(there)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(draft / folder.name, seed)
        try:
            os.rename(draft / folder.name, folder)
        except OSError as error:  # another process was first
            raise FileExistsError(there) if folder.exists() else error from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def make_tiny_config(seed: int = 0) -> OpenVLAConfig:
    """Return its configuration, with statistics of actions for each suite of LIBERO."""
    config = OpenVLAConfig(
        image_sizes=[_IMAGE_SIZE, _IMAGE_SIZE],
        timm_model_kwargs=[
            {"embed_dim": 32, "depth": 4, "num_heads": 2},
            {"embed_dim": 48, "depth": 5, "num_heads": 3},
        ],
        text_config={
            "vocab_size": VOCAB_SIZE + _ADDED_ROWS,
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": PAD_ID,
            "dtype": "bfloat16",
        },
        pad_token_id=PAD_ID,
        pad_to_multiple_of=_ADDED_ROWS,
        n_action_bins=_N_BINS,
        norm_stats=_make_norm_stats(),
        dtype="bfloat16",
        random_weights_seed=seed,
    )
    config.architectures = ["OpenVLAForActionPrediction"]
    return config


def _write(folder: Path, seed: int) -> None:
    config = make_tiny_config(seed)
    config.save_pretrained(folder)
    save_file(_make_weights(config, seed), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _write_json(folder / STATISTICS_FILE, config.norm_stats)
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN, "pad_token": PAD}
    length = {"model_max_length": config.llm_max_length, "padding_side": "right"}
    _write_json(folder / TOKENIZER_CONFIG_FILE, {**special, **length})
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    _write_json(folder / "generation_config.json", ids)
    make_tiny_tokenizer().save(str(folder / TOKENIZER_FILE), pretty=False)
    resizer = PictureResizer.make("resize-naive", (_IMAGE_SIZE, _IMAGE_SIZE), _MEANS[0])
    OpenVLAImageProcessor(resizer, _MEANS, _STDS).save_pretrained(folder)
    (folder / _CARD_FILE).write_text(_CARD, encoding="utf-8")
    assert (folder / CONFIG_FILE).is_file()


def _make_weights(config: OpenVLAConfig, seed: int) -> dict[str, torch.Tensor]:
    """Draw all tensors, of a size at which image and instruction are seen in the outputs."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, tensor in sorted(make_meta_model(config).state_dict().items()):
        values = rng.standard_normal(tuple(tensor.shape), np.float32)
        weights[name] = torch.from_numpy(_scale(name, values)).to(torch.bfloat16)
    return weights


def _scale(name: str, values: np.ndarray) -> np.ndarray:
    """Return normal numbers as the weights of that name."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "scale_factor":
        return 0.8 + 0.3 * values
    if "norm" in name and leaf == "weight":
        return 1 + 0.2 * values
    if leaf == "bias":
        return 0.1 * values
    if values.ndim == 3 or name.endswith("embed_tokens.weight"):  # tokens and positions
        return 0.3 * values
    values *= 1.3 / np.sqrt(values[0].size)
    if name.endswith("lm_head.weight"):
        # What it generates is always an action.
        actions = slice(VOCAB_SIZE - _N_BINS, VOCAB_SIZE)
        values[: actions.start] *= 0.1
        values[actions.stop :] *= 0.1
        values[actions] *= 3
    return values


def _make_norm_stats() -> dict[str, Any]:
    """Return statistics in the published layout: not measured, of LIBERO's order of magnitude."""
    limits = np.array([0.9375] * 3 + [0.375] * 3 + [1.0])
    usual = np.array([0.75] * 3 + [0.15] * 3 + [1.0])
    is_moved = np.array([True] * 6 + [False])  # the gripper is 0 or 1
    action = ActionStatistics(
        mean=np.where(is_moved, 0.0, 0.5),
        std=np.where(is_moved, usual / 2, 0.5),
        min=np.where(is_moved, -limits, 0.0),
        max=limits,
        q01=np.where(is_moved, -usual, 0.0),
        q99=usual,
        mask=is_moved,
    ).as_json()
    proprio = {name: [0.0] * len(limits) for name in action if name != "mask"}
    counts = {"num_transitions": 0, "num_trajectories": 0}
    return {suite: {"action": action, "proprio": proprio, **counts} for suite in SUITES}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
