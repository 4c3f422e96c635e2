"""What the arrays of an episode must be."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_observations(observations: Mapping[str, Any], n_rows: int) -> dict[str, np.ndarray]:
    """Return observations by key as arrays, each of `n_rows` rows of numbers.

    Raises:
        ValueError: If there are none, they are not numeric or finite, or of another length.
    """
    if not isinstance(observations, Mapping) or not observations:
        raise ValueError("Expected `observations` as a mapping with at least one key.")
    checked = {}
    for key, value in observations.items():
        array = check_array(f"observations[{key!r}]", value)
        if array.ndim == 0 or len(array) != n_rows:
            raise ValueError(
                f"Expected `observations[{key!r}]` of {n_rows} rows, one more than actions, "
                f"got shape {array.shape}."
            )
        checked[key] = array
    return checked


def check_array(name: str, value: Any, dtype: Any = None) -> np.ndarray:
    """Return a value as an array, copied only where `dtype` asks for it.

    Raises:
        ValueError: If it is not numeric, or holds NaN or infinity.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected numbers in `{name}`, got dtype {array.dtype}.")
    array = array if dtype is None else array.astype(dtype, copy=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"Expected finite numbers in `{name}`, got {array[tuple(bad)]} at {bad}.")
    return array
