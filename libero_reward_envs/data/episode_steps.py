"""Some steps of an episode, read without the rest of it where the format allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.step_success import (
    find_step_success,
    judge_by_rewards,
    read_step_labels,
)


@dataclass(frozen=True, eq=False)
class EpisodeSteps:
    """The steps `start` .. `stop` - 1 of an episode, n of its T steps.

    Attributes:
        episode_length: T.
        observations: o_start .. o_stop by key, each (n + 1, ...).
        actions: Shape (n, a), float32.
        rewards: Shape (n,), float32.
        terminated: Whether each step ended the episode, shape (n,), bool.
        success: Whether the task is solved after each, shape (n,), see `find_step_success`.
    """

    episode_length: int
    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    success: np.ndarray

    def __len__(self) -> int:
        """The number of steps n."""
        return len(self.actions)


@runtime_checkable
class StepSource(Protocol):
    """An `EpisodeSource` that can read some steps and not the rest of their episode."""

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of episode `index`, with all observations or only those named.

        Raises:
            ValueError: If there are no such steps, or what is read of them is damaged.
        """
        ...


def has_fast_steps(dataset: EpisodeDataset, index: int) -> bool:
    """Whether steps of an episode are read without the rest of it."""
    return isinstance(dataset.locate(index)[0], StepSource)


def read_steps(
    dataset: EpisodeDataset,
    index: int,
    start: int,
    stop: int,
    observation_keys: Sequence[str] | None = None,
) -> EpisodeSteps:
    """Read some steps of an episode, of a format that cannot do so by reading all of it.

    The numbers are those of the whole episode, but what is damaged elsewhere in it may not show.

    Args:
        dataset: The episodes.
        index: Which.
        start: The first step.
        stop: The one after the last, at most T.
        observation_keys: The observations to read; None for all.

    Raises:
        IndexError: If there is no such episode.
        ValueError: If there are no such steps or observations, or the file is damaged.

    Example:
        >>> arrays = {"state": np.arange(4.0)}, np.zeros((3, 1)), np.array([0, 0, 1])
        >>> dataset = EpisodeDataset([Episode(*arrays, terminated=True, success=True)])
        >>> steps = read_steps(dataset, 0, 1, 3)
        >>> steps.observations["state"].tolist(), steps.success.tolist()
        ([1.0, 2.0, 3.0], [False, True])
    """
    source, position = dataset.locate(index)
    if isinstance(source, StepSource):
        return source.read_steps(position, start, stop, observation_keys)
    return cut_steps(dataset.read(index, observation_keys), start, stop)


def cut_steps(episode: Episode, start: int, stop: int) -> EpisodeSteps:
    """Return some steps of an episode, as views of its arrays."""
    check_steps(start, stop, len(episode))
    steps = slice(start, stop)
    return EpisodeSteps(
        episode_length=len(episode),
        observations={key: rows[start : stop + 1] for key, rows in episode.observations.items()},
        actions=episode.actions[steps],
        rewards=episode.rewards[steps],
        terminated=_mark_end(start, stop, len(episode), episode.terminated),
        success=find_step_success(episode)[steps],
    )


def make_steps(
    start: int,
    observations: Mapping[str, np.ndarray],
    actions: np.ndarray,
    rewards: np.ndarray,
    *,
    terminated: bool,
    success: bool,
) -> EpisodeSteps:
    """Return some steps of an episode, from what a source read; checked as an `Episode` is.

    Args:
        start: The first step.
        observations: o_start .. o_stop by key.
        actions: a_start .. a_{stop - 1}, shape (n, a).
        rewards: Of the whole episode, shape (T,): what they all are tells what one of them means.
        terminated: Whether the episode was.
        success: Whether the task was solved at all.
    """
    stop = start + len(actions)
    part = Episode(observations, actions, rewards[start:stop], terminated, success)
    labels = read_step_labels(part)
    return EpisodeSteps(
        episode_length=len(rewards),
        observations=part.observations,
        actions=part.actions,
        rewards=part.rewards,
        terminated=_mark_end(start, stop, len(rewards), terminated),
        success=judge_by_rewards(rewards, success)[start:stop] if labels is None else labels,
    )


def check_steps(start: int, stop: int, length: int) -> None:
    """Raise ValueError unless an episode of this length has these steps, at least one."""
    if not 0 <= start < stop <= length:
        raise ValueError(f"Expected steps within 0 to {length}, got {start} to {stop}.")


def _mark_end(start: int, stop: int, length: int, terminated: bool) -> np.ndarray:
    return (np.arange(start, stop) == length - 1) & terminated
