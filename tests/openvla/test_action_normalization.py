import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.openvla.action_normalization import (
    ActionStatistics,
    compute_statistics,
    find_statistics,
    normalize,
    unnormalize,
)

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing"
FIELDS = ("mean", "std", "min", "max", "q01", "q99")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file if key.startswith("norm/")}


def read_statistics(inputs: dict[str, np.ndarray], part: str) -> ActionStatistics:
    prefix = f"norm/stats/{part}/"
    return ActionStatistics.from_json(
        {key.removeprefix(prefix): inputs[key] for key in inputs if key.startswith(prefix)}
    )


def make_stored(size: int = 2, **changes: Any) -> dict[str, Any]:
    stored: dict[str, Any] = {name: [float(index)] * size for index, name in enumerate(FIELDS)}
    return {**stored, **changes}


@pytest.mark.parametrize("part", ["action", "proprio"])
@pytest.mark.parametrize(
    ("kind", "name"), [("q99", "BOUNDS_Q99"), ("bounds", "BOUNDS"), ("normal", "NORMAL")]
)
def test_normalised_values_are_the_golden_ones(kind: str, name: str, part: str) -> None:
    inputs, expected = load("eval_inputs"), load("eval_expected")
    statistics = read_statistics(inputs, part)
    normalized = normalize(inputs[f"norm/{part}"], statistics, kind, use_mask=part == "action")
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, expected[f"norm/{name}/{part}"])


def test_constant_dimensions_become_zero_even_where_not_normalised() -> None:
    stored = make_stored(min=[0.5, 0.0], max=[0.5, 1.0], q01=[0.5, 0.0], q99=[0.5, 1.0])
    statistics = ActionStatistics.from_json({**stored, "mask": [False, False]})
    assert normalize(np.array([[0.5, 0.3]]), statistics)[0].tolist() == [0, pytest.approx(0.3)]
    assert normalize(np.array([[0.5, 0.3]]), statistics, "normal")[0, 0] == 0.5


def test_unnormalising_follows_the_formula_and_leaves_what_is_not_masked() -> None:
    stored = make_stored(q01=[-2.0, -2.0], q99=[4.0, 4.0])
    statistics = ActionStatistics.from_json({**stored, "mask": [True, False]})
    physical = unnormalize(np.array([[0.5, 0.5]], np.float32), statistics)
    assert physical.dtype == np.float64
    assert physical.tolist() == [[2.5, 0.5]]
    assert unnormalize(np.array([[0.5, 0.5]]), statistics, use_mask=False).tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize("kind", ["q99", "bounds", "normal"])
def test_values_inside_the_bounds_come_back(kind: str) -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(500, 3))
    statistics = compute_statistics([steps])
    inside = np.clip(steps, statistics.q01, statistics.q99)
    restored = unnormalize(normalize(inside, statistics, kind), statistics, kind)
    np.testing.assert_allclose(restored, inside, atol=1e-6)


def test_statistics_are_those_of_all_steps() -> None:
    rng = np.random.default_rng(1)
    episodes = [rng.normal(size=(length, 2)).astype(np.float32) for length in (5, 1, 30)]
    steps = np.concatenate(episodes).astype(np.float64)
    statistics = compute_statistics(iter(episodes), mask=np.array([True, False]))
    np.testing.assert_allclose(statistics.mean, steps.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(statistics.std, steps.std(axis=0), atol=1e-7)
    np.testing.assert_allclose(statistics.q01, np.quantile(steps, 0.01, axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.q99, np.quantile(steps, 0.99, axis=0), atol=1e-6)
    again = ActionStatistics.from_json(json.loads(json.dumps(statistics.as_json())))
    np.testing.assert_array_equal(again.max, steps.max(axis=0))
    np.testing.assert_array_equal(again.mask, [True, False])


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "at least one step"),
        ([np.zeros((0, 2))], "at least one step"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], "one a"),
        ([np.zeros(3)], "shape"),
        ([np.array([[0.0, np.nan]])], "nan in dimension 1"),
    ],
)
def test_episodes_without_statistics_are_refused(episodes: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_statistics(episodes)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of shape"):
        compute_statistics([np.zeros((3, 2))], mask=np.ones(3, bool))


@pytest.mark.parametrize("function", [normalize, unnormalize])
def test_unknown_kinds_and_other_dimensions_are_refused(function: Any) -> None:
    statistics = ActionStatistics.from_json(make_stored())
    with pytest.raises(ValueError, match=r"'q98'.*q99, bounds, normal"):
        function(np.zeros((1, 2)), statistics, "q98")
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        function(np.zeros((1, 7)), statistics)


def test_no_key_is_needed_where_there_is_one_data_set() -> None:
    name, statistics = find_statistics({"mine": {"action": make_stored()}})
    assert name == "mine"
    assert statistics.mask.tolist() == [True, True]  # without a mask all are normalised


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("libero_goal_no_noops", "libero_goal"), ("libero_goal", "libero_goal_no_noops")],
)
def test_the_ending_of_sets_without_idle_steps_may_differ(stored: str, asked: str) -> None:
    stats = {stored: {"action": make_stored()}, "other": {"action": make_stored()}}
    assert find_statistics(stats, asked)[0] == stored


def test_the_exact_key_comes_first() -> None:
    stats = {name: {"action": make_stored()} for name in ("a", "a_no_noops")}
    assert find_statistics(stats, "a")[0] == "a"
    assert find_statistics(stats, "a_no_noops")[0] == "a_no_noops"


@pytest.mark.parametrize(
    ("norm_stats", "key", "message"),
    [
        (None, None, "dataset_statistics.json"),
        ({}, "a", "dataset_statistics.json"),
        ({"a": {}, "b": {}}, None, "Known: a, b"),
        (
            {"libero_goal": {}, "bridge": {}},
            "libero_gaol",
            "Nearest: libero_goal. Known: bridge, l",
        ),
        ({"a": {}}, "a", "no block 'action'"),
        ({"a": {"action": {"mean": [0]}}}, "a", "std, min, max, q01, q99 missing"),
        ({"a": {"action": make_stored(q99=[1.0])}}, "a", "one length"),
        ({"a": {"action": make_stored(mask=[True])}}, "a", "one length"),
        ({"a": {"action": make_stored(q99=[1.0, float("inf")])}}, "a", "finite"),
    ],
)
def test_missing_statistics_are_explained(norm_stats: Any, key: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_statistics(norm_stats, key)
