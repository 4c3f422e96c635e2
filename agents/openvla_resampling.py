"""Episodes with more steps a second than wanted: which steps are left, and what they do."""

import numpy as np

from libero_reward_envs.data.episodes import EpisodeSummary
from libero_reward_envs.data.provenance import read_provenance

_TOLERANCE = 1e-6  # of frequencies, as parts of them


def find_resampling_factor(summary: EpisodeSummary, wanted_hz: float | None, resample: bool) -> int:
    """Return how many steps of an episode become one.

    Args:
        summary: Of the episode.
        wanted_hz: Steps a second that are wanted; None for those of the episode.
        resample: Whether another number of steps a second is allowed.

    Raises:
        ValueError: If the episode has another number, or does not say how many, and resampling is
            not allowed or not possible.
    """
    if wanted_hz is None:
        return 1
    provenance = read_provenance(summary.metadata)
    found_hz = None if provenance is None else provenance.control_freq_hz
    if found_hz is None:
        raise ValueError(
            f"Expected episodes of {wanted_hz:g} Hz, got one ({summary.task or 'no task'}) that "
            "does not say. Leave `control_freq_hz` out, or convert with "
            "`--assume control_freq_hz=...`."
        )
    factor = found_hz / wanted_hz
    if abs(factor - 1) < _TOLERANCE:
        return 1
    if not resample:
        raise ValueError(
            f"Expected episodes of {wanted_hz:g} Hz, got {found_hz:g} Hz "
            f"({summary.task or 'no task'}). Set `resample` to thin them."
        )
    if round(factor) < 1 or abs(factor - round(factor)) > _TOLERANCE * factor:
        raise ValueError(
            f"Episodes of {found_hz:g} Hz cannot become {wanted_hz:g} Hz: only every second, third "
            "and so on of their steps can be kept."
        )
    return round(factor)


def join_steps(
    actions: np.ndarray, factor: int, *, is_delta: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first step of each group of `factor` steps, (n,), and what the group does, (n, a).

    Displacements add up, and may then lie outside [-1, 1]; poses, and the gripper, which is the
    last number, are those of the group's last step. Steps that do not fill a group are left out.

    Args:
        actions: Shape (T, a).
        factor: Steps of a group.
        is_delta: Whether actions are displacements.

    Example:
        >>> steps, joined = join_steps(np.array([[0.1, -1], [0.2, 1], [0.3, 1]]), 2, is_delta=True)
        >>> steps.tolist(), joined.round(3).tolist()
        ([0], [[0.3, 1.0]])
    """
    n = len(actions) // factor
    groups = actions[: n * factor].reshape(n, factor, actions.shape[1])
    joined = groups[:, -1].copy()
    if is_delta:
        joined[:, :-1] = groups[:, :, :-1].sum(axis=1)
    return np.arange(n) * factor, joined
