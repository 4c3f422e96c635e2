"""What loading a checkpoint will take, in a line that a program can show before it loads."""

from pathlib import Path
from typing import Any

import torch

from libero_reward_envs.openvla.checkpoint_files import find_checkpoint
from libero_reward_envs.openvla.feature_extractor import find_extractor_dtype, make_meta_parts
from libero_reward_envs.openvla.loading import find_dtype, find_quantization_bits, read_config
from libero_reward_envs.openvla.memory import (
    describe_room,
    estimate_extractor_memory,
    estimate_memory,
)


def describe_memory(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    features_only: bool = False,
    quantization_bits: int | None = None,
    n_rows: int = 1,
    n_views: int = 1,
    **hub_options: Any,
) -> str:
    """Return the estimate for a checkpoint, beside what is free on the device.

    Of the Hub only the files that describe the model are downloaded; no weights are read.

    Args:
        name_or_path: A folder, a Hub id, or `checkpoint_files.TINY_OPENVLA`; of an adapter the
            base model.
        device: Where it is to be loaded; "auto" for a GPU if there is one.
        dtype: Precision; as in loading if None.
        features_only: For an `OpenVLAFeatureExtractor` instead of the whole model.
        quantization_bits: 4 or 8 for weights quantised when loading; as the checkpoint has it if
            None. Not for features.
        n_rows: Moments a batch: prompts of the model, images of each camera for features.
        n_views: Cameras.
        hub_options: As of `checkpoint_files.find_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If its configuration is damaged.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    config = read_config(find_checkpoint(name_or_path, weights=False, **hub_options))
    if features_only:
        _, _, expected = make_meta_parts(config)
        precision = find_extractor_dtype(dtype, config, device)
        estimate = estimate_extractor_memory(expected, precision, n_rows, n_views)
    else:
        bits = quantization_bits or find_quantization_bits(config)
        estimate = estimate_memory(
            config,
            find_dtype(dtype, config),
            quantization_bits=bits,
            n_rows=n_rows,
            n_views=n_views,
        )
    part = "The features of" if features_only else "The model"
    return f"{part} {str(name_or_path)!r}: {describe_room(estimate, device)}."
