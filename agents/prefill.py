"""Puts recorded episodes into a replay buffer before an agent learns."""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from libero_reward_envs.agents.episode_replay_buffer import EpisodeReplayBuffer
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.reward_models.base import (
    BOX_OBSERVATION_KEY,
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    RewardModel,
    check_rewards,
)
from libero_reward_envs.wrappers.episode_rewards import compute_episode_rewards
from libero_reward_envs.wrappers.lazy_reward_model import check_action_space
from libero_reward_envs.wrappers.reward_mix import RewardMix

_KNOWN_LATE = (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)


class _Row(NamedTuple):
    observation: dict[str, np.ndarray]
    next_observation: dict[str, np.ndarray]
    action: np.ndarray
    reward: float
    done: bool
    truncated: bool


def fill_replay_buffer(
    buffer: ReplayBuffer,
    dataset: EpisodeDataset | Sequence[Episode],
    reward_model: RewardModel | None = None,
    *,
    reward_mix: RewardMix | None = None,
) -> int:
    """Add all transitions of recorded episodes to a replay buffer of Stable-Baselines3.

    A last step that is not `terminated` is added as a time-out. A `RelabelReplayBuffer` is given
    the env's own rewards, as it computes its model's itself; any other buffer those of
    `reward_model`, where there is one.

    With several envs, each episode goes whole into the column that has the fewest steps so far.
    SB3 adds one step of all envs at a time, so shorter columns are then filled up with the
    beginnings of episodes that are in the buffer already, starting over from the first one. The
    cut is no end: to a buffer that knows its episodes it is an episode that never finished, to
    any other a time-out.

    Fill before the agent learns, or between episodes: a running episode of an env is cut in two.

    Args:
        buffer: A `ReplayBuffer`, `DictReplayBuffer`, `NStepReplayBuffer` or
            `RelabelReplayBuffer`. A Box observation is taken from "state", a Dict's from its keys;
            images are turned to (C, H, W) where the buffer wants them so.
        dataset: The episodes.
        reward_model: Computes the rewards, unless the buffer does.
        reward_mix: How they join the env's own, see `RewardMix`; without it they replace them.

    Returns:
        The number of transitions added.

    Raises:
        TypeError: If `buffer` is not a replay buffer.
        ValueError: If there is no episode, an observation is missing or of another shape or kind
            than the buffer's, actions are, or the buffer has a reward model of its own.
    """
    if not isinstance(buffer, ReplayBuffer):
        raise TypeError(
            f"Expected a replay buffer of Stable-Baselines3, got {type(buffer).__name__}."
        )
    _check_rewards_wanted(buffer, reward_model, reward_mix)
    check_action_space(buffer.action_space)
    source = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
    if not len(source):
        raise ValueError("Expected at least one episode, got an empty dataset.")
    columns, n_rows = _assign([summary.length for summary in source.summaries()], buffer.n_envs)
    if n_rows > buffer.buffer_size:
        warnings.warn(
            f"The episodes take {n_rows} rows of {buffer.n_envs} transitions, the buffer has "
            f"{buffer.buffer_size}: it keeps only the last ones. Give it a larger `buffer_size`.",
            stacklevel=2,
        )
    if isinstance(buffer, RelabelReplayBuffer):
        reward_model = None  # its own, which it applies to what it samples
    streams = [
        _stream(buffer, source, column, n_rows, reward_model, reward_mix) for column in columns
    ]
    if isinstance(buffer, EpisodeReplayBuffer):
        buffer.abandon_episodes()
    for rows in zip(*streams, strict=True):
        _add(buffer, rows)
    if isinstance(buffer, EpisodeReplayBuffer):
        buffer.abandon_episodes()
    return n_rows * buffer.n_envs


def _assign(lengths: Sequence[int], n_columns: int) -> tuple[list[list[int]], int]:
    """Return the episodes of each column, and the steps of the longest column."""
    columns: list[list[int]] = [[] for _ in range(n_columns)]
    filled = [0] * n_columns
    for episode, length in enumerate(lengths):
        shortest = filled.index(min(filled))
        columns[shortest].append(episode)
        filled[shortest] += length
    return columns, max(filled)


def _stream(
    buffer: ReplayBuffer,
    source: EpisodeDataset,
    episodes: Sequence[int],
    n_rows: int,
    reward_model: RewardModel | None,
    reward_mix: RewardMix | None,
) -> Iterator[_Row]:
    """Yield the rows of one column, one episode in memory at a time."""
    wanted = _spaces(buffer)
    read_too = () if reward_model is None else reward_model.observation_keys
    keys = [*wanted, *(key for key in read_too if key not in {*wanted, *_KNOWN_LATE})]
    n_left = n_rows
    for index in itertools.chain(episodes, itertools.cycle(range(len(source)))):
        episode = source.read(index, keys)  # images that nobody reads stay on the disk
        observations = _fit_observations(buffer, episode, index)
        rewards = _compute_rewards(episode, reward_model, reward_mix)
        for step in range(min(len(episode), n_left)):
            ends = step == len(episode) - 1
            n_left -= 1
            cut = not ends and n_left == 0 and not isinstance(buffer, EpisodeReplayBuffer)
            yield _Row(
                observation={key: value[step] for key, value in observations.items()},
                next_observation={key: value[step + 1] for key, value in observations.items()},
                action=episode.actions[step],
                reward=rewards[step],
                done=ends or cut,
                truncated=cut or (ends and not episode.terminated),
            )
        if n_left == 0:
            return


def _add(buffer: ReplayBuffer, rows: Sequence[_Row]) -> None:
    """Add one row of each column."""
    first, second = (
        {key: np.stack([side[key] for side in sides]) for key in sides[0]}
        for sides in ([row.observation for row in rows], [row.next_observation for row in rows])
    )
    sides: list[Any] = [first, second]
    if not isinstance(buffer.observation_space, spaces.Dict):
        sides = [side[BOX_OBSERVATION_KEY] for side in sides]
    buffer.add(
        sides[0],
        sides[1],
        np.stack([row.action for row in rows]),
        np.array([row.reward for row in rows], np.float32),
        np.array([row.done for row in rows]),
        [{"TimeLimit.truncated": row.truncated} for row in rows],
    )


def _fit_observations(buffer: ReplayBuffer, episode: Episode, index: int) -> dict[str, np.ndarray]:
    """Return the observations that the buffer holds, of its shapes."""
    if episode.actions.shape[1] != buffer.action_dim:
        raise ValueError(
            f"Expected {buffer.action_dim} actions, got {episode.actions.shape[1]} in episode "
            f"{index}. Make the agent's env as the one that the episodes were recorded in."
        )
    return {
        key: _fit(episode.observations[key], part, f"{key!r} in episode {index}")
        for key, part in _spaces(buffer).items()
    }


def _spaces(buffer: ReplayBuffer) -> Mapping[str, spaces.Space]:
    space = buffer.observation_space
    return space.spaces if isinstance(space, spaces.Dict) else {BOX_OBSERVATION_KEY: space}


def _fit(array: np.ndarray, space: spaces.Space, name: str) -> np.ndarray:
    shape = space.shape
    if shape is not None and array.shape[1:] != shape and array.ndim == 4:
        array = np.moveaxis(array, -1, 1)  # an image, which SB3 has as (C, H, W)
    if array.shape[1:] != shape or not np.can_cast(array.dtype, space.dtype or object, "same_kind"):
        raise ValueError(
            f"Expected {shape} {space.dtype} of {name}, got {array.shape[1:]} {array.dtype}. "
            "Make the agent's env as the one that the episodes were recorded in."
        )
    return array


def _compute_rewards(
    episode: Episode, reward_model: RewardModel | None, reward_mix: RewardMix | None
) -> np.ndarray:
    if reward_model is None:
        return episode.rewards
    n = len(episode)
    known: Mapping[str, np.ndarray] = {
        EPISODE_RETURN_KEY: np.full(n, episode.episode_return, np.float32),
        EPISODE_LENGTH_KEY: np.full(n, n, np.float32),
    }
    transitions = episode.transitions()
    transitions = transitions._replace(
        observations={**transitions.observations, **known},
        next_observations={**transitions.next_observations, **known},
    )
    if reward_mix is None:
        return check_rewards(reward_model.compute_reward(transitions), n, reward_model)
    return compute_episode_rewards(reward_mix, reward_model, transitions, episode.rewards)


def _check_rewards_wanted(
    buffer: ReplayBuffer, reward_model: RewardModel | None, reward_mix: RewardMix | None
) -> None:
    if isinstance(buffer, RelabelReplayBuffer):
        foreign = reward_model is not None and reward_model is not buffer.reward_model
        if foreign or reward_mix is not None:
            raise ValueError(
                "A RelabelReplayBuffer computes rewards itself, with its own `reward_model` and "
                "`reward_mix`. Leave both away here."
            )
    elif reward_mix is not None and reward_model is None:
        raise ValueError("Expected a `reward_model` for `reward_mix`, got none.")
