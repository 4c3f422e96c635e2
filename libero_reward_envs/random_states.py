"""Random states as JSON and arrays, so that a resumed run draws the numbers it would have drawn."""

import logging
import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_logger = logging.getLogger(__name__)


def pack_random_state(rng: np.random.Generator | None) -> dict[str, Any] | None:
    """Return the state of a generator as JSON holds it, None for None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> packed = pack_random_state(rng)
        >>> rng.random() == unpack_random_state(packed).random()
        True
    """
    return None if rng is None else _pack(rng.bit_generator.state)


def unpack_random_state(packed: Mapping[str, Any] | None) -> np.random.Generator | None:
    """Return a generator that goes on where the one given to `pack_random_state` stood.

    Raises:
        ValueError: If `packed` is not what `pack_random_state` returns.
    """
    if packed is None:
        return None
    name = packed.get("bit_generator")
    if name not in _BIT_GENERATORS:
        raise ValueError(
            f"Expected the state of one of {', '.join(_BIT_GENERATORS)}, got one of {name!r}."
        )
    bit_generator = getattr(np.random, name)()
    try:
        bit_generator.state = _unpack(packed)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"Expected the state of a {name} generator: {error!r}.") from error
    return np.random.Generator(bit_generator)


def get_global_random_state() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the state of the global generators of Python, NumPy and torch.

    Torch counts if it was imported before, its CUDA generators if CUDA was used.

    Returns:
        Arrays by name, and values as JSON holds them.
    """
    version, numbers, gauss = random.getstate()
    values = {
        "python": [version, list(numbers), gauss],
        "numpy": _pack(np.random.get_state(legacy=False)),  # noqa: NPY002 (SB3 draws from it)
    }
    arrays = {}
    if "torch" in sys.modules:
        import torch

        arrays["torch"] = torch.get_rng_state().numpy().copy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for index, state in enumerate(torch.cuda.get_rng_state_all()):
                arrays[f"torch_cuda_{index}"] = state.numpy().copy()
    return arrays, values


def set_global_random_state(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
    """Set the global generators to what `get_global_random_state` returned.

    CUDA devices that are not there are passed over.

    Raises:
        ValueError: If the state is not of these generators.
    """
    try:
        version, numbers, gauss = values["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(_unpack(values["numpy"]))  # noqa: NPY002 (SB3 draws from it)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected the global random state of a run: {error!r}.") from error
    if "torch" not in arrays:
        return
    import torch

    torch.set_rng_state(torch.from_numpy(arrays["torch"].copy()))
    saved = sum(name.startswith("torch_cuda_") for name in arrays)
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if saved > present:
        _logger.warning(
            "The random state is of %d CUDA devices, %d are here: the numbers drawn on the others "
            "will differ.",
            saved,
            present,
        )
    for index in range(min(saved, present)):
        state = torch.from_numpy(arrays[f"torch_cuda_{index}"].copy())
        torch.cuda.set_rng_state(state, index)


def _pack(state: Any) -> Any:
    """Turn the arrays and NumPy numbers in a state into JSON."""
    if isinstance(state, Mapping):
        return {name: _pack(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.name, "array": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _unpack(packed: Any) -> Any:
    if not isinstance(packed, Mapping):
        return packed
    if packed.keys() == {"dtype", "array"}:
        if packed["dtype"] not in ("uint32", "uint64"):
            raise ValueError(f"an array of {packed['dtype']!r}")
        return np.array(packed["array"], dtype=packed["dtype"])
    return {name: _unpack(value) for name, value in packed.items()}
