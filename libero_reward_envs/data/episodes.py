"""Episodes and sequences of them, the only data types of the package."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from libero_reward_envs.data.array_checks import check_array, check_observations
from libero_reward_envs.data.chained_source import ChainedSource
from libero_reward_envs.data.episode_source import EpisodeSource
from libero_reward_envs.reward_models.base import (
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    Transitions,
)

_WHOLE_EPISODE_KEYS = (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """One episode of T steps: T actions and rewards, and the T + 1 observations around them.

    Arrays are taken over without a copy where their type allows it, and checked once, here.

    Args:
        observations: o_0 .. o_T by key, each of shape (T + 1, ...), numeric. The observation of an
            env with a Box space stands under "state".
        actions: Shape (T, a), cast to float32, in [-1, 1].
        rewards: The env's own rewards, shape (T,), cast to float32.
        terminated: Whether the last step ended the episode. A time-out is not an end.
        success: Whether the task was solved.
        task: Suite and name, e.g. "libero_object/pick_up_the_milk_and_place_it_in_the_basket".
        instruction: What a language-conditioned policy is told.
        metadata: Where the episode comes from (suite, initial state, seed, assets, versions, how
            it was made), as JSON would hold it.

    Raises:
        ValueError: If the episode has no step, lengths disagree, an array is not numeric or holds
            NaN or infinity, an action lies outside [-1, 1], or `metadata` is not JSON.

    Example:
        >>> episode = Episode(
        ...     {"state": np.zeros((4, 2), np.float32)}, np.zeros((3, 1)), np.array([0, 0, 1]),
        ...     terminated=True, success=True,
        ... )
        >>> len(episode), episode.episode_return
        (3, 1.0)
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    success: bool
    task: str = ""
    instruction: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        actions = check_array("actions", self.actions, np.float32)
        if actions.ndim != 2 or len(actions) == 0:
            raise ValueError(f"Expected `actions` of shape (T, a) with T > 0, got {actions.shape}.")
        if actions.size and np.abs(actions).max() > 1:
            raise ValueError(
                f"Expected `actions` in [-1, 1], got a magnitude of {np.abs(actions).max():g}. "
                "Rescale them, for example with gymnasium.wrappers.RescaleAction."
            )
        rewards = check_array("rewards", self.rewards, np.float32)
        if rewards.shape != (len(actions),):
            raise ValueError(
                f"Expected `rewards` of shape {actions.shape[:1]}, got {rewards.shape}."
            )
        observations = check_observations(self.observations, len(actions) + 1)
        try:
            metadata = json.loads(json.dumps(dict(self.metadata), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`metadata` must be what JSON can hold: {error}.") from error
        checked = {"observations": observations, "actions": actions, "rewards": rewards}
        flags = {"terminated": bool(self.terminated), "success": bool(self.success)}
        vars(self).update(checked, metadata=metadata, **flags)  # frozen forbids plain assignment

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.actions)

    def __repr__(self) -> str:
        outcome = "success" if self.success else "failure"
        end = "terminated" if self.terminated else "not terminated"
        shapes = ", ".join(f"{key} {value.shape[1:]}" for key, value in self.observations.items())
        return (
            f"Episode({self.task or 'no task'!r}: {len(self)} steps, return "
            f"{self.episode_return:g}, {outcome}, {end}; {shapes})"
        )

    @property
    def episode_return(self) -> float:
        """The undiscounted sum of the env's own rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    def transitions(self) -> Transitions:
        """Return the T transitions; observations are views of this episode's arrays.

        With them stand "episode/return" and "episode/length", for rewards that read those.
        """
        terminated = np.zeros(len(self), bool)
        terminated[-1] = self.terminated
        known = {EPISODE_RETURN_KEY: self.episode_return, EPISODE_LENGTH_KEY: len(self)}
        whole = {key: np.full(len(self), value, np.float32) for key, value in known.items()}
        return Transitions(
            observations={**{k: v[:-1] for k, v in self.observations.items()}, **whole},
            actions=self.actions,
            next_observations={**{k: v[1:] for k, v in self.observations.items()}, **whole},
            terminated=terminated,
        )

    def select(self, observation_keys: Sequence[str]) -> "Episode":
        """Return the episode with only the observations named.

        Raises:
            ValueError: If one of them is not in the episode.
        """
        missing = [key for key in observation_keys if key not in self.observations]
        if missing:
            raise ValueError(
                f"No observation {', '.join(map(repr, missing))} in the episode. "
                f"It has: {', '.join(self.observations)}."
            )
        kept = {key: self.observations[key] for key in observation_keys}
        return replace(self, observations=kept)

    def summary(self) -> "EpisodeSummary":
        """Return what is known without the arrays."""
        names = EpisodeSummary.__dataclass_fields__.keys() - {"length"}
        return EpisodeSummary(len(self), **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class EpisodeSummary:
    """What an episode is, without its arrays; the names are those of `Episode`."""

    length: int
    episode_return: float
    terminated: bool
    success: bool
    task: str
    instruction: str
    metadata: Mapping[str, Any]

    def __len__(self) -> int:
        """The number of steps T."""
        return self.length

    def make_episode(
        self, observations: Mapping[str, np.ndarray], actions: np.ndarray, rewards: np.ndarray
    ) -> Episode:
        """Return the episode with its arrays; for what is checked see `Episode`."""
        told = ("terminated", "success", "task", "instruction", "metadata")
        values = {name: getattr(self, name) for name in told}
        return Episode(observations, actions, rewards, **values)


class EpisodeDataset(Sequence[Episode]):
    """A lazy sequence of episodes; slices, filters and sums are views that read nothing.

    Args:
        source: Episodes in memory, or any `EpisodeSource` such as that of `load_episodes`.

    Example:
        >>> ones = Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.ones(1), True, True)
        >>> dataset = EpisodeDataset([ones, ones])
        >>> len(dataset[1:]), len(dataset.filter(lambda summary: not summary.success))
        (1, 0)
    """

    def __init__(self, source: Sequence[Episode] | EpisodeSource) -> None:
        # Views of views stay one level deep: they share the source and hold their own indices.
        self._source: EpisodeSource = (
            _MemorySource(source) if isinstance(source, Sequence) else source
        )
        self._indices: Sequence[int] | None = None

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self._source if self._indices is None else self._indices)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> "EpisodeDataset": ...
    def __getitem__(self, index: int | slice) -> "Episode | EpisodeDataset":
        """Read one episode, or return a view of several."""
        if isinstance(index, slice):
            return self._view(self._positions()[index])
        return self.read(index)

    def __iter__(self) -> Iterator[Episode]:
        """Read the episodes one after the other; files may stay open in between."""
        with getattr(self._source, "keep_open", contextlib.nullcontext)():
            for index in range(len(self)):
                yield self.read(index)

    def __add__(self, other: "EpisodeDataset") -> "EpisodeDataset":
        """Return a view of this dataset's episodes followed by the other's."""
        return chain_datasets([self, other])

    def __repr__(self) -> str:
        return f"EpisodeDataset({len(self)} episodes)"

    @property
    def skipped(self) -> list[str]:
        """What is wrong with each episode that `on_error="skip"` left out."""
        len(self)  # a source may look for them only now
        return list(getattr(self._source, "skipped", ()))

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read one episode, with all observations or only those named.

        "episode/return" and "episode/length" need no reading, see `Episode.transitions`; where
        nothing else is named, all observations are read.

        Raises:
            IndexError: If there is no episode `index`.
            ValueError: If an observation key is not in the episode, or its file is damaged.
        """
        source, position = self.locate(index)
        stored = [key for key in observation_keys or () if key not in _WHOLE_EPISODE_KEYS]
        return source.read(position, stored or None)

    def locate(self, index: int) -> tuple[EpisodeSource, int]:
        """Return the source that an episode is read from, and its number there.

        Raises:
            IndexError: If there is no episode `index`.
        """
        positions = self._positions()
        if not -len(positions) <= index < len(positions):
            raise IndexError(f"Episode {index} of a dataset of {len(positions)}.")
        found = positions[index]
        source = self._source
        return source.locate(found) if isinstance(source, ChainedSource) else (source, found)

    def summaries(self) -> list[EpisodeSummary]:
        """Return length, return, outcome and task of each episode, without its observations."""
        summaries = self._source.summaries()
        return [summaries[position] for position in self._positions()]

    def filter(self, predicate: Callable[[EpisodeSummary], bool]) -> "EpisodeDataset":
        """Return a view of the episodes whose summary passes."""
        kept = zip(self._positions(), self.summaries(), strict=True)
        return self._view([position for position, summary in kept if predicate(summary)])

    def _positions(self) -> Sequence[int]:
        return range(len(self._source)) if self._indices is None else self._indices

    def _view(self, indices: Sequence[int]) -> "EpisodeDataset":
        view = EpisodeDataset(self._source)
        view._indices = indices
        return view


class _MemorySource:
    def __init__(self, episodes: Sequence[Episode]) -> None:
        self._episodes = list(episodes)
        for index, episode in enumerate(self._episodes):
            if not isinstance(episode, Episode):
                raise TypeError(f"Expected Episode at index {index}, got {type(episode).__name__}.")

    def __len__(self) -> int:
        return len(self._episodes)

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        episode = self._episodes[index]
        return episode if observation_keys is None else episode.select(observation_keys)

    def summaries(self) -> list[EpisodeSummary]:
        return [episode.summary() for episode in self._episodes]


def chain_datasets(parts: Sequence[EpisodeDataset]) -> EpisodeDataset:
    """Return a view of the episodes of several datasets, one after the other.

    Args:
        parts: The datasets, at least one; sums among them are taken apart, so that chains of
            chains stay one level deep.
    """
    flat: list[EpisodeDataset] = []
    for part in parts:
        source = part._source if part._indices is None else None
        flat += source.parts if isinstance(source, ChainedSource) else [part]
    return flat[0] if len(flat) == 1 else EpisodeDataset(ChainedSource(flat))
