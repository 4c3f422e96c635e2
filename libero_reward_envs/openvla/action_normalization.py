"""From physical actions to [-1, 1] and back, by the statistics that a checkpoint carries."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Name of a kind: the statistics that become -1 and 1, None for mean 0 and standard deviation 1.
_BOUNDS = {"q99": ("q01", "q99"), "bounds": ("min", "max"), "normal": None}
NORMALIZATIONS = tuple(_BOUNDS)
_FIELDS = ("mean", "std", "min", "max", "q01", "q99")
_NO_NOOPS = "_no_noops"  # ending of the sets from which idle steps were taken
_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class ActionStatistics:
    """Statistics of the actions, or of the proprioception, of a data set.

    Args:
        mean: Shape (a,), as all of them; the unit is that of the data.
        std: Of the whole population.
        min: Smallest value.
        max: Largest value.
        q01: 1st percentile.
        q99: 99th percentile.
        mask: Which dimensions are normalised, (a,) bool; the others, such as a gripper that is 0
            or 1, stay as they are.
    """

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ActionStatistics":
        """Read the "action" or "proprio" block of one data set in `norm_stats`.

        Raises:
            ValueError: If a statistic is missing, not finite, or of another length than the others.
        """
        missing = [name for name in _FIELDS if name not in stored]
        if missing:
            raise ValueError(
                f"Expected statistics {', '.join(_FIELDS)}, got {', '.join(stored) or 'none'}; "
                f"{', '.join(missing)} missing. `compute_statistics` makes them from data."
            )
        values = {name: np.asarray(stored[name], np.float64) for name in _FIELDS}
        size = values["mean"].size
        mask = np.asarray(stored.get("mask", np.ones(size, bool)), bool)
        shapes = {name: array.shape for name, array in {**values, "mask": mask}.items()}
        if not size or set(shapes.values()) != {(size,)}:
            raise ValueError(f"Expected statistics of one length, as flat lists, got {shapes}.")
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise ValueError(f"Expected finite statistics, got {name} = {array.tolist()}.")
        return cls(**values, mask=mask)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)
        }


def normalize(
    values: np.ndarray, statistics: ActionStatistics, kind: str = "q99", *, use_mask: bool = True
) -> np.ndarray:
    """Return values as OpenVLA is trained on them, shape (..., a) float32.

    "q99" and "bounds" map [low, high], the percentiles or the extremes, to [-1, 1] and clip;
    dimensions that never change become 0, masked or not. "normal" gives (x - mean) / std. All
    divisors are increased by 1e-8, as in the original.

    Args:
        values: Shape (..., a), physical.
        statistics: Those of the data set.
        kind: One of `NORMALIZATIONS`.
        use_mask: False for proprioception, all of which is normalised.

    Raises:
        ValueError: If the kind is unknown or the number of dimensions another.
    """
    values = np.asarray(values, np.float32)
    bounds = _find_bounds(values, statistics, kind)
    if bounds is None:
        mean, std = np.float32(statistics.mean), np.float32(statistics.std)
        normalized = (values - mean) / (std + np.float32(_EPSILON))
    else:
        low, high = np.float32(bounds[0]), np.float32(bounds[1])
        normalized = 2 * (values - low) / (high - low + np.float32(_EPSILON)) - 1
        normalized = np.clip(normalized, -1, 1)
    if use_mask:
        normalized = np.where(statistics.mask, normalized, values)
    if bounds is not None:
        constant = np.float32(statistics.min) == np.float32(statistics.max)
        normalized = np.where(constant, np.float32(0), normalized)
    return normalized


def unnormalize(
    values: np.ndarray, statistics: ActionStatistics, kind: str = "q99", *, use_mask: bool = True
) -> np.ndarray:
    """Return physical values, shape (..., a) float64: low + (v + 1) (high - low) / 2.

    Without the 1e-8 of `normalize`, as in the original; "normal" gives v std + mean.

    Args:
        values: Shape (..., a), as the model gives them.
        statistics: Those of the data set.
        kind: One of `NORMALIZATIONS`.
        use_mask: False for proprioception.

    Raises:
        ValueError: If the kind is unknown or the number of dimensions another.
    """
    values = np.asarray(values, np.float64)
    bounds = _find_bounds(values, statistics, kind)
    if bounds is None:
        physical = values * statistics.std + statistics.mean
    else:
        low, high = bounds
        physical = 0.5 * (values + 1) * (high - low) + low
    return np.where(statistics.mask, physical, values) if use_mask else physical


def find_statistics(
    norm_stats: Mapping[str, Any] | None, unnorm_key: str | None = None
) -> tuple[str, ActionStatistics]:
    """Return the data set's name and the statistics of its actions.

    Args:
        norm_stats: Statistics by data set, as a checkpoint's `config.json` holds them.
        unnorm_key: The data set; with or without "_no_noops" at its end. None where there is one.

    Raises:
        ValueError: If there are none, the key is unknown, or it is None and there are several; the
            message lists those that there are.
    """
    if not norm_stats:
        raise ValueError(
            "Expected `norm_stats` in the checkpoint's config.json or dataset_statistics.json, "
            "found none: its actions have no unit. Copy the statistics of the data that it was "
            "trained on beside it as dataset_statistics.json."
        )
    known = ", ".join(sorted(norm_stats))
    if unnorm_key is None:
        if len(norm_stats) > 1:
            raise ValueError(f"Say by `unnorm_key` whose statistics are meant. Known: {known}.")
        (unnorm_key,) = norm_stats
    stem = unnorm_key.removesuffix(_NO_NOOPS)
    found = next((key for key in (unnorm_key, stem, stem + _NO_NOOPS) if key in norm_stats), None)
    if found is None:
        near = difflib.get_close_matches(unnorm_key, norm_stats, n=3, cutoff=0.5)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise ValueError(f"Unknown `unnorm_key` {unnorm_key!r}.{hint} Known: {known}.")
    stored = norm_stats[found]
    if not isinstance(stored, Mapping) or not isinstance(stored.get("action"), Mapping):
        raise ValueError(f"The statistics of {found!r} have no block 'action'.")
    return found, ActionStatistics.from_json(stored["action"])


def compute_statistics(
    episodes: Iterable[np.ndarray], mask: np.ndarray | None = None
) -> ActionStatistics:
    """Compute statistics over all steps of all episodes.

    Percentiles are interpolated linearly. Held in memory: 4 bytes a number.

    Args:
        episodes: Actions or proprioception, each (T, a).
        mask: Which dimensions to normalise, (a,) bool; all if None.

    Raises:
        ValueError: If there is no step, a value is not finite, or the dimensions differ.
    """
    arrays = [np.asarray(episode, np.float32) for episode in episodes]
    shapes = sorted({array.shape[1:] for array in arrays})
    if not sum(map(len, arrays)) or len(shapes) != 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"Expected at least one step, episodes of shape (T, a) with one a, got rows of {shapes}"
            f" in {len(arrays)} episodes."
        )
    steps = np.concatenate(arrays)
    if not np.isfinite(steps).all():
        row, column = np.argwhere(~np.isfinite(steps))[0]
        raise ValueError(f"Expected finite values, got {steps[row, column]} in dimension {column}.")
    mask = np.ones(steps.shape[1], bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != steps.shape[1:]:
        raise ValueError(f"Expected a mask of shape {steps.shape[1:]}, got {mask.shape}.")
    q01, q99 = np.quantile(steps, [0.01, 0.99], axis=0)
    return ActionStatistics(
        mean=steps.mean(axis=0, dtype=np.float64),
        std=steps.std(axis=0, dtype=np.float64),
        min=steps.min(axis=0).astype(np.float64),
        max=steps.max(axis=0).astype(np.float64),
        q01=q01.astype(np.float64),
        q99=q99.astype(np.float64),
        mask=mask,
    )


def _find_bounds(
    values: np.ndarray, statistics: ActionStatistics, kind: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what becomes -1 and 1, None for "normal", after checking both arguments."""
    if kind not in _BOUNDS:
        raise ValueError(f"Unknown kind {kind!r}. Choose one of: {', '.join(NORMALIZATIONS)}.")
    if values.shape[-1:] != statistics.mean.shape:
        raise ValueError(
            f"Expected values of shape (..., {statistics.mean.size}), as many as the statistics "
            f"have, got {values.shape}."
        )
    names = _BOUNDS[kind]
    return names and (getattr(statistics, names[0]), getattr(statistics, names[1]))
