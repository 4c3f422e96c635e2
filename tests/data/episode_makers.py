"""Episodes for tests of formats and conversions."""

from typing import Any

import numpy as np

from libero_reward_envs.data import Episode
from libero_reward_envs.data.provenance import Provenance


def make_episode(seed: int = 0, n_steps: int = 3, **provenance: Any) -> Episode:
    """Return a success with pictures, a state and actions drawn by `seed`."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (n_steps, 7)).astype(np.float32)
    actions[:, -1] = np.sign(actions[:, -1])
    return Episode(
        {
            "agentview_image": rng.integers(0, 256, (n_steps + 1, 4, 6, 3), dtype=np.uint8),
            "state": rng.normal(size=(n_steps + 1, 5)).astype(np.float32),
        },
        actions,
        np.eye(n_steps, dtype=np.float32)[-1],
        terminated=True,
        success=True,
        instruction=f"do {seed}",
        metadata={"provenance": Provenance("test", **provenance).as_json()} if provenance else {},
    )
