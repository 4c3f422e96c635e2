"""What every reward model must keep to, as one function for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.reward_models.base import (
    REWARD_MODEL_CLASSES,
    RewardModel,
    Transitions,
    check_rewards,
    load_reward_model,
)


def check_reward_model(
    model: RewardModel, transitions: Transitions, folder: str | Path | None
) -> None:
    """Check that a reward model does what the wrappers, buffers and tools rely on.

    Rewards have the right shape and type and are finite; computed twice they are equal, and row by
    row equal to the batch within float32 rounding; only `observation_keys` are read and nothing is
    changed; a saved and loaded model gives the same rewards.

    Args:
        model: The model.
        transitions: At least two of them.
        folder: Where the model is saved; None leaves saving unchecked.

    Raises:
        ValueError: If the model breaks a rule, saying which.
    """
    name, keys = type(model).__name__, model.observation_keys
    if not isinstance(keys, tuple) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"Expected `observation_keys` of {name} as a tuple of names, got {keys!r}."
        )
    n = len(transitions.actions)
    if n < 2:
        raise ValueError(f"The check needs at least 2 transitions, got {n}.")
    read = transitions._replace(
        observations={key: transitions.observations[key] for key in keys},
        next_observations={key: transitions.next_observations[key] for key in keys},
    )
    before = _copy(read)
    rewards = check_rewards(model.compute_reward(read), n, model).copy()
    if not _equal(read, before):
        raise ValueError(f"{name} changed the transitions it was given.")
    if not np.array_equal(rewards, model.compute_reward(read)):
        raise ValueError(f"{name} gave other rewards for the same transitions the second time.")
    single = [
        check_rewards(model.compute_reward(read.rows(slice(row, row + 1))), 1, model)
        for row in range(n)
    ]
    difference = np.abs(np.concatenate(single) - rewards)
    if (difference > 1e-6 + 1e-5 * np.abs(rewards)).any():
        raise ValueError(f"{name} differs by {difference.max():g} between single rows and a batch.")
    if folder is not None:
        _check_saving(model, read, rewards, Path(folder))


def _check_saving(model: Any, read: Transitions, rewards: np.ndarray, folder: Path) -> None:
    name = type(model).__name__
    if not hasattr(model, "save_pretrained"):
        raise ValueError(f"{name} has no `save_pretrained`. Derive it from PretrainedRewardModel.")
    model.save_pretrained(folder)
    loaded = [type(model).from_pretrained(folder)]
    if name in REWARD_MODEL_CLASSES:
        loaded.append(load_reward_model(folder))
    for other in loaded:
        if other.observation_keys != model.observation_keys:
            raise ValueError(f"{name} reads {other.observation_keys} once saved and loaded.")
        if not np.array_equal(other.compute_reward(read), rewards):
            raise ValueError(f"{name} gives other rewards once saved and loaded.")


def _arrays(transitions: Transitions) -> list[np.ndarray]:
    return [
        *transitions.observations.values(),
        transitions.actions,
        *transitions.next_observations.values(),
        transitions.terminated,
    ]


def _copy(transitions: Transitions) -> Transitions:
    return Transitions(
        {key: value.copy() for key, value in transitions.observations.items()},
        transitions.actions.copy(),
        {key: value.copy() for key, value in transitions.next_observations.items()},
        transitions.terminated.copy(),
    )


def _equal(first: Transitions, second: Transitions) -> bool:
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)
