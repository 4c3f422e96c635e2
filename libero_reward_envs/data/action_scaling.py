"""Actions of other ranges than [-1, 1]."""

from typing import Any

import numpy as np

_ROUNDING = 1e-6

ActionRange = tuple[np.ndarray, np.ndarray]


def check_action_range(action_range: Any) -> ActionRange | None:
    """Return the bounds as float64 arrays of shape () or (a,), None for None.

    Raises:
        ValueError: If it is not two finite bounds, the lower one first.
    """
    if action_range is None:
        return None
    message = (
        "`action_range` must be (low, high), numbers or one a dimension, low below high, got "
        f"{action_range!r}."
    )
    try:
        low, high = (np.asarray(bound, np.float64) for bound in action_range)
        is_valid = np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    if not is_valid or max(low.ndim, high.ndim) > 1:
        raise ValueError(message)
    return low, high


def rescale_actions(actions: np.ndarray, action_range: ActionRange | None) -> np.ndarray:
    """Return actions in [-1, 1], float32; nothing but rounding is clipped.

    Args:
        actions: Shape (T, a).
        action_range: What becomes -1 and 1; None if that is what they are.

    Raises:
        ValueError: If an action lies outside, or the range has another number of dimensions.

    Example:
        >>> rescale_actions(np.array([[0.0], [5.0]]), (np.array(0.0), np.array(10.0))).tolist()
        [[-1.0], [0.0]]
    """
    stored = actions
    if action_range is not None:
        low, high = action_range
        if any(bound.ndim and bound.shape != actions.shape[1:] for bound in action_range):
            raise ValueError(
                f"`action_range` has {max(low.size, high.size)} dimensions, the actions have "
                f"{actions.shape[1]}"
            )
        actions = 2 * (actions.astype(np.float64) - low) / (high - low) - 1
        actions = np.where(np.abs(actions) <= 1 + _ROUNDING, np.clip(actions, -1, 1), actions)
    actions = actions.astype(np.float32)
    if actions.size and np.abs(actions).max() > 1:
        bounds = "[-1, 1]" if action_range is None else "the given `action_range`"
        raise ValueError(
            f"expected actions in {bounds}, got {stored.min():g} to {stored.max():g}. Give the "
            "range that they are in: `action_range=(low, high)`, numbers or one a dimension"
        )
    return actions


def describe_range(action_range: ActionRange | None) -> tuple[float, float] | None:
    """Return the least and the greatest bound, as a provenance holds them."""
    if action_range is None:
        return None
    return float(action_range[0].min()), float(action_range[1].max())
