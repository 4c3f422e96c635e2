"""Whether a task is solved after each step of an episode, as far as the episode tells it."""

import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY


def find_step_success(episode: Episode) -> np.ndarray:
    """Return for each of the T steps whether the task is solved after it, shape (T,), bool.

    The observation "is_success" says it, 0.5 and more counting as solved. Without it an episode
    that is a success says it by its rewards, if they are 0 and 1 and one of them is 1; by any
    other rewards only the outcome is known, which then stands at the last step.

    Raises:
        ValueError: If the observation "is_success" is not one number a step.

    Example:
        >>> arrays = {"state": np.zeros((4, 1))}, np.zeros((3, 1)), np.array([0, 1, 0])
        >>> find_step_success(Episode(*arrays, terminated=False, success=True)).tolist()
        [False, True, False]
    """
    labels = read_step_labels(episode)
    return judge_by_rewards(episode.rewards, episode.success) if labels is None else labels


def read_step_labels(episode: Episode) -> np.ndarray | None:
    """Return what the observation "is_success" says of each step, None where there is none."""
    labels = episode.observations.get(SUCCESS_KEY)
    if labels is None:
        return None
    if labels.ndim != 1:
        raise ValueError(
            f"Expected the observation {SUCCESS_KEY!r} of shape ({len(episode) + 1},), one "
            f"number a step, got {labels.shape}."
        )
    return labels[1:] >= 0.5


def judge_by_rewards(rewards: np.ndarray, success: bool) -> np.ndarray:
    """Return what rewards of shape (T,), and the outcome, say of each step."""
    is_one = rewards == 1
    if not success:
        return np.zeros(len(rewards), bool)
    if is_one.any() and (is_one | (rewards == 0)).all():
        return is_one
    return np.arange(len(rewards)) == len(rewards) - 1
