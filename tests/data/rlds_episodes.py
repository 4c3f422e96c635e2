"""Episodes that tests of RLDS sets write and compare."""

from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data import Episode
from libero_reward_envs.data.provenance import Provenance
from libero_reward_envs.data.rlds import RldsSource, RldsWriter


def make_episode(seed: int = 0, n_steps: int = 4, **changes: Any) -> Episode:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "observations": {
            "agentview_image": rng.integers(0, 256, (n_steps + 1, 12, 16, 3), dtype=np.uint8),
            "state": rng.normal(size=(n_steps + 1, 5)).astype(np.float32),
        },
        "actions": rng.uniform(-1, 1, (n_steps, 7)),
        "rewards": rng.normal(size=n_steps),
        "terminated": bool(seed % 2),
        "success": bool(seed % 3),
        "task": f"suite/task_{seed}",
        "instruction": f"do {seed}, größer",
        "metadata": {"seed": seed, "provenance": Provenance("test", (12, 16)).as_json()},
    }
    return Episode(**{**values, **changes})


def write(folder: Path, *episodes: Episode, **keywords: Any) -> RldsSource:
    with RldsWriter(folder, **{"image_format": "png", **keywords}) as writer:
        for episode in episodes:
            writer.append(episode)
    return RldsSource(folder)


def assert_same(got: Episode, expected: Episode) -> None:
    assert set(got.observations) == set(expected.observations)
    for key, array in expected.observations.items():
        assert got.observations[key].dtype == array.dtype, key
        np.testing.assert_array_equal(got.observations[key], array, err_msg=key)
    np.testing.assert_array_equal(got.actions, expected.actions)
    np.testing.assert_array_equal(got.rewards, expected.rewards)
    for name in ("terminated", "success", "task", "instruction"):
        assert getattr(got, name) == getattr(expected, name)
    assert {**got.metadata, **expected.metadata} == got.metadata
    assert got.metadata.keys() - expected.metadata.keys() <= {"provenance"}
