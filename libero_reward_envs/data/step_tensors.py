"""Steps of episodes as torch tensors."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

Batch = dict[str, Any]


def to_tensors(batch: Mapping[str, Any], image_keys: Collection[str]) -> Batch:
    """Return what was gathered as tensors, images as (C, H, W) with channels last in memory."""
    tensors = map_leaves(torch.from_numpy, batch)
    for name in {"observations", "next_observations"} & tensors.keys():
        for key in image_keys:
            tensors[name][key] = tensors[name][key].movedim(-1, -3)
    return tensors


def map_leaves(function: Callable[[Any], Any], batch: Mapping[str, Any]) -> Batch:
    """Return a batch of which a function changed every array."""
    return {
        name: map_leaves(function, value) if isinstance(value, Mapping) else function(value)
        for name, value in batch.items()
    }
