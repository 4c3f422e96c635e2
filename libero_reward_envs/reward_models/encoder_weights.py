"""Pretrained weights of an image trunk: reading them strictly, and telling weights apart."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from libero_reward_envs.reward_models.torch_files import check_state_dict, read_torch_file

# What only torchvision's classifiers end in.
_LAST_LAYER = ("fc.weight", "fc.bias")
_FIRST_TENSORS = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")
# Under these a training program may have put the state dict beside its optimiser's.
_WRAPPERS = ("state_dict", "model_state_dict")


def read_encoder_weights(
    path: str | Path, expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read the weights of a trunk: a state dict in a file of `torch.save` or `.safetensors`.

    A prefix that all names share ("encoder.", "module.") is cut off and the last layer (`fc`) left
    out; anything else must match name by name and shape by shape.

    Args:
        path: The file.
        expected: The state dict of the trunk that is to take them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds objects, or lacks, adds or reshapes a tensor.
    """
    state = read_torch_file(path)
    for name in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    state = check_state_dict(state, path)
    prefix = _find_prefix(state)
    ignored = {prefix + name for name in _LAST_LAYER}
    weights = {
        name.removeprefix(prefix): value for name, value in state.items() if name not in ignored
    }
    for name, value in expected.items():  # files of early torchvision lack these counters
        if name.endswith(".num_batches_tracked"):
            weights.setdefault(name, value)
    weights = check_state_dict(weights, path, expected)
    return {name: value.to(expected[name].dtype) for name, value in weights.items()}


def compute_encoder_hash(trunks: Iterable[torch.nn.Module]) -> str:
    """Return the SHA-256, 64 hex digits, over names, shapes and values of the trunks' tensors."""
    digest = hashlib.sha256()
    for trunk in trunks:
        for name, value in sorted(trunk.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _find_prefix(state: Mapping[str, torch.Tensor]) -> str:
    """Return what stands before "conv1.weight", where one trunk's first tensors stand."""
    for name in state:
        prefix = name.removesuffix(_FIRST_TENSORS[0])
        if prefix != name and all(prefix + tensor in state for tensor in _FIRST_TENSORS):
            return prefix
    return ""
