"""Reading weights that others wrote, without letting a file run code or ask for memory."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: str | Path) -> Any:
    """Read a file of `torch.save`, or a `.safetensors`, onto the CPU.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or a pickle that asks for more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {str(path)!r} with weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected only tensors and plain values in {str(path)!r}, got a file that is damaged "
            f"or asks for other objects, which could run code: {_first_line(error)} "
            "Save a `state_dict` anew with `torch.save`."
        ) from error
    except Exception as error:  # a damaged file can raise anything at all
        raise ValueError(f"{str(path)!r} is damaged or of no known format: {error}") from error


def check_state_dict(
    state: Any, source: str | Path, expected: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Return `state` if it is finite tensors by name, with the names and shapes of `expected`.

    Raises:
        ValueError: If something differs, naming `source` and the tensor.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"Expected tensors by name in {str(source)!r}, got {type(state)}.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"Expected tensors by name in {str(source)!r}, got {type(value)} under {name!r}."
            )
        _check_tensor(name, value, source)
    if expected is not None:
        missing = sorted(expected.keys() - state.keys())
        unexpected = sorted(state.keys() - expected.keys())
        if missing or unexpected:
            raise ValueError(
                f"Wrong tensors in {str(source)!r}: missing {_shorten(missing)}, "
                f"unexpected {_shorten(unexpected)}."
            )
        for name, value in state.items():
            if value.shape != expected[name].shape:
                raise ValueError(
                    f"Expected tensor {name!r} of shape {tuple(expected[name].shape)}, "
                    f"got {tuple(value.shape)} in {str(source)!r}."
                )
    return dict(state)


def _check_tensor(name: str, value: torch.Tensor, source: str | Path) -> None:
    is_plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    # A view can repeat a few stored bytes to any size: what is not in the file is not taken.
    if not is_plain or value.nbytes > value.untyped_storage().nbytes():
        raise ValueError(
            f"Expected tensor {name!r} in {str(source)!r} stored in full, got "
            f"{tuple(value.shape)} {value.dtype} of layout {value.layout}."
        )
    if value.is_complex() or not (value.is_floating_point() or value.dtype == torch.int64):
        raise ValueError(f"Expected tensor {name!r} in {str(source)!r} as floats: {value.dtype}.")
    if not torch.isfinite(value).all():
        raise ValueError(f"Tensor {name!r} in {str(source)!r} holds NaN or infinity.")


def _shorten(names: list[str]) -> str:
    return f"{names}" if len(names) <= 8 else f"{names[:8]} and {len(names) - 8} more"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
