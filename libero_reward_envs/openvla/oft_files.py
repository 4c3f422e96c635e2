"""The files of OpenVLA-OFT's further parts, which lie beside the model's own weights."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from libero_reward_envs.openvla.oft import CHUNK_SIZE, ActionHead, OFTParts, ProprioProjector
from libero_reward_envs.reward_models.torch_files import check_state_dict, read_torch_file

_HEAD, _PROJECTOR = "action_head", "proprio_projector"
_UNKNOWN = ("noisy_action_projector", "vision_backbone")  # of diffusion, and of FiLM
_WRAPPING = "module."  # what training on several GPUs puts before each name
_STEP = re.compile(r"--(\d+|latest)_checkpoint$")

_Part = TypeVar("_Part", bound=nn.Module)


def load_oft_parts(
    folder: str | Path,
    *,
    chunk_size: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OFTParts | None:
    """Read the action head and the projector of the robot's state, where a checkpoint has them.

    They are `action_head--<step>_checkpoint.pt` and `proprio_projector--<step>_checkpoint.pt`, as
    the original writes them, or `action_head.safetensors` and `proprio_projector.safetensors`. Of
    pickles, tensors alone are read.

    Args:
        folder: The checkpoint.
        chunk_size: Actions of a chunk, which the files do not say; `CHUNK_SIZE` if None.
        device: Where they are to compute.
        dtype: In what precision.

    Returns:
        The parts; None if there is no file and no `chunk_size`, for a model that writes one action
        token after the other. With `chunk_size` alone, chunks are read as tokens.

    Raises:
        ValueError: If a file is damaged or of a kind that is not known, there are several of one
            kind, or `chunk_size` is not positive.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    folder = Path(folder)
    for name in _UNKNOWN:
        if (path := _find(folder, name)) is not None:
            raise ValueError(
                f"Expected a checkpoint that is trained with an L1 loss or on tokens, got "
                f"{path.name!r} in {str(folder)!r}: diffusion and FiLM are not supported."
            )
    head, projector = _find(folder, _HEAD), _find(folder, _PROJECTOR)
    if head is None and projector is None and chunk_size is None:
        return None
    return OFTParts(
        None if head is None else _load_head(head).to(device, dtype).eval().requires_grad_(False),
        None
        if projector is None
        else _load_projector(projector).to(device, dtype).eval().requires_grad_(False),
        CHUNK_SIZE if chunk_size is None else chunk_size,
    )


def _find(folder: Path, name: str) -> Path | None:
    """Return the file of a part, None if there is none."""
    found = [
        path
        for path in sorted(folder.glob(f"{name}*"))
        if path.suffix in (".pt", ".safetensors")
        and (path.stem == name or _STEP.sub("", path.stem) == name)
    ]
    if len(found) > 1:
        raise ValueError(
            f"Expected one file {name}* in {str(folder)!r}, got "
            f"{', '.join(path.name for path in found)}. Keep the one that belongs to the weights."
        )
    return found[0] if found else None


def _load_head(path: Path) -> ActionHead:
    state = _read(path)
    first, last = _get_matrix(state, "model.fc1.weight", path), state.get("model.fc2.weight")
    if last is None or last.ndim != 2 or first.shape[1] % len(last):
        raise ValueError(
            f"Expected the action head of an L1 loss in {str(path)!r}, got {sorted(state)[:6]}. "
            "Heads trained by diffusion are not supported."
        )
    action_dim, width = len(last), len(first)
    return _fill(ActionHead(first.shape[1] // action_dim, action_dim, width), state, path)


def _load_projector(path: Path) -> ProprioProjector:
    state = _read(path)
    first = _get_matrix(state, "fc1.weight", path)
    return _fill(ProprioProjector(first.shape[1], first.shape[0]), state, path)


def _read(path: Path) -> dict[str, torch.Tensor]:
    state = check_state_dict(read_torch_file(path), path)
    return {name.removeprefix(_WRAPPING): value for name, value in state.items()}


def _get_matrix(state: Mapping[str, torch.Tensor], name: str, path: Path) -> torch.Tensor:
    matrix = state.get(name)
    if matrix is None or matrix.ndim != 2:
        raise ValueError(
            f"Expected a matrix {name!r} in {str(path)!r}, got {sorted(state)[:6]}. It is no part "
            "of an OpenVLA-OFT checkpoint that is known here."
        )
    return matrix


def _fill(part: _Part, state: Mapping[str, torch.Tensor], path: Path) -> _Part:
    part.load_state_dict(check_state_dict(state, path, part.state_dict()))
    return part
