"""Beginning an episode as a recorded one began."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

INIT_STATE_KEY = "init_state"  # of an episode's metadata: the simulator's state before it


def reset_as_recorded(
    env: gym.Env[Any, Any], metadata: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Reset an env of a task as it was reset for a recorded episode.

    A seed decides the initial state and where the fixtures stand, and naming the state as well
    draws other places; so the seed alone is tried first. An episode that was reset with a seed and
    the very state that this seed draws is taken for one of the seed alone: its fixtures may stand
    elsewhere. With "init_state" the fixtures are drawn by the seed too, which is 0 where none is
    recorded, so that two resets are alike.

    Args:
        env: A `LiberoEnv` of the episode's task, made with its `init_states`.
        metadata: The episode's: "init_state", the simulator's own numbers, or what
            `RecordEpisodes` keeps, "seed" and "init_state_id".

    Returns:
        What `reset` returns.

    Raises:
        ValueError: If the metadata has none of these, or the env cannot begin so.
    """
    if INIT_STATE_KEY in metadata:
        state = np.asarray(metadata[INIT_STATE_KEY], np.float64)
        return env.reset(seed=int(metadata.get("seed") or 0), options={"init_state": state})
    seed, init_state_id = metadata.get("seed"), metadata.get("init_state_id")
    if seed is None and init_state_id is None:
        raise ValueError(
            f"Expected {INIT_STATE_KEY!r}, or 'seed' or 'init_state_id' in the episode's metadata, "
            f"got {', '.join(metadata) or 'nothing'}."
        )
    if seed is not None:
        observation, info = env.reset(seed=int(seed))
        if info.get("init_state_id") == init_state_id:
            return observation, info
        if init_state_id is None:
            raise ValueError(
                "Expected an env with init_states='sampled', as the episode was recorded in, got "
                f"one that began at stored state {info.get('init_state_id')}."
            )
    return env.reset(seed=seed, options={"init_state_id": int(init_state_id or 0)})
