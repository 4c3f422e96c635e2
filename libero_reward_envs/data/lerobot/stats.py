"""Least, greatest, mean and standard deviation of columns, as LeRobotDatasets keep them.

v3 has quantiles besides. Those of an episode are exact; those of a set are the means of its
episodes', as lerobot makes them, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.data.lerobot.info import Feature

_MAX_FRAMES = 100  # of an episode, spread evenly
_MAX_SIDE = 150  # pixels; larger images are thinned out
COUNT = "count"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

FeatureStats = dict[str, Any]


def compute_stats(
    features: Sequence[Feature], columns: Mapping[str, np.ndarray], *, quantiles: bool
) -> dict[str, FeatureStats]:
    """Return the statistics of each column, as JSON holds them.

    Those of images are taken of some pixels, by channel, divided by 255, in shape (3, 1, 1).

    Args:
        features: The columns.
        columns: T rows of each, by the feature's name.
        quantiles: Whether to do it as lerobot does it for v3: with quantiles, and with one number
            for each index of the last dimension, not for each of an array's numbers.
    """
    return {f.name: _compute(f, columns[f.name], quantiles) for f in features}


def join_stats(
    first: Mapping[str, FeatureStats], second: Mapping[str, FeatureStats]
) -> dict[str, FeatureStats]:
    """Return the statistics of two sets together."""
    return {name: _join(first[name], second[name]) for name in second} if first else dict(second)


def _compute(feature: Feature, values: np.ndarray, quantiles: bool) -> FeatureStats:
    count, shape = len(values), feature.shape
    if feature.is_image:
        chosen = np.unique(np.linspace(0, len(values) - 1, _MAX_FRAMES).round().astype(int))
        step = max(1, -(-max(feature.shape[:2]) // _MAX_SIDE))
        values = values[chosen, ::step, ::step].reshape(-1, feature.shape[2]) / 255.0
        count, shape = len(chosen), (feature.shape[2], 1, 1)
    elif quantiles:
        shape = feature.shape[-1:]
        values = values.astype(np.float64).reshape(-1, *shape)
    else:
        values = values.astype(np.float64).reshape(count, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        found = {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
        }
        if quantiles:
            levels = np.quantile(values, list(QUANTILES.values()), axis=0)
            found.update(zip(QUANTILES, levels, strict=True))
    listed = {name: _as_list(value.reshape(shape)) for name, value in found.items()}
    return {**listed, COUNT: [count]}


def _join(first: FeatureStats, second: FeatureStats) -> FeatureStats:
    a, b = ({k: np.asarray(v, np.float64) for k, v in part.items()} for part in (first, second))
    share = b[COUNT] / (a[COUNT] + b[COUNT])
    apart = b["mean"] - a["mean"]
    with np.errstate(over="ignore", invalid="ignore"):
        between = apart**2 * share * (1 - share)
        variance = a["std"] ** 2 * (1 - share) + b["std"] ** 2 * share + between
        mean = a["mean"] + apart * share
        quantiles = {
            name: a[name] * (1 - share) + b[name] * share for name in a if name in QUANTILES
        }
    found = {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        **quantiles,
    }
    listed = {name: _as_list(value) for name, value in found.items()}
    return {**listed, COUNT: [first[COUNT][0] + second[COUNT][0]]}


def _as_list(values: np.ndarray) -> list[Any]:
    return np.nan_to_num(values).tolist()  # JSON has no infinity, at which huge numbers arrive
