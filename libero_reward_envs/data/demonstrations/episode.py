"""One `demo_<i>` group of LIBERO's or robomimic's layout as an episode."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from libero_reward_envs.data.action_scaling import (
    check_action_range,
    describe_range,
    rescale_actions,
)
from libero_reward_envs.data.demonstrations.layout import LIBERO_KEYS, DemonstrationFile
from libero_reward_envs.data.episode_steps import EpisodeSteps, check_steps, make_steps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.data.safe_hdf5 import (
    check_array,
    check_last,
    get_child,
    has_child,
    read_array,
    read_attribute,
    read_rows,
    walk_datasets,
)
from libero_reward_envs.data.source_errors import SuccessUnknownError

_MAX_STATE_SIZE = 2000  # LIBERO's largest scenes have about 120 numbers


class _Observation(NamedTuple):
    rows: h5py.Dataset  # o_0 .. o_{T-1}
    next_rows: h5py.Dataset | None  # o_1 .. o_T

    @property
    def image_size(self) -> tuple[int, int] | None:
        is_image = self.rows.dtype == np.uint8 and self.rows.ndim == 4
        return self.rows.shape[1:3] if is_image else None

    def check(self, n_steps: int) -> None:
        """Raise ValueError unless all of it is there."""
        check_last(self.rows, self.next_rows, n_steps, n_steps)

    def read(self, n_steps: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows of o_0 .. o_T; the last is repeated where the file lacks it."""
        self.check(n_steps)
        return read_rows(self.rows, self.next_rows, start, stop)


class DemonstrationReader:
    """Reads episodes as `DemonstrationSource` describes it.

    Args:
        key_map: New names of observations; None for LIBERO's images as `LiberoEnv` calls them.
        assume_success: Whether an episode succeeded that has no reward of 1.
        action_range: What becomes -1 and 1, each one number or of shape (a,); None for no change.

    Raises:
        ValueError: If `action_range` is not two finite numbers, the lesser one first.
    """

    def __init__(
        self,
        key_map: Mapping[str, str] | None = None,
        assume_success: bool | None = None,
        action_range: tuple[Any, Any] | None = None,
    ) -> None:
        self._key_map = None if key_map is None else dict(key_map)
        self._assume_success = assume_success
        self._range = check_action_range(action_range)

    @property
    def source_range(self) -> tuple[float, float] | None:
        """Least and greatest number of an action in the file, if the argument tells it."""
        return describe_range(self._range)

    def read(
        self, found: DemonstrationFile, demo: h5py.Group, keys: Sequence[str] | None
    ) -> Episode:
        """Read an episode, with all observations or only those named.

        Raises:
            ValueError: If it is damaged; the message names what of it.
        """
        chosen, summary, rewards = self._choose(found, demo, keys)
        arrays = {key: value.read(len(summary)) for key, value in chosen.items()}
        return self._make_episode(demo, summary, arrays, rewards)

    def read_steps(
        self,
        found: DemonstrationFile,
        demo: h5py.Group,
        start: int,
        stop: int,
        keys: Sequence[str] | None,
    ) -> EpisodeSteps:
        """Read steps of an episode, and of its observations no others; raises as `read` does."""
        chosen, summary, rewards = self._choose(found, demo, keys)
        check_steps(start, stop, len(summary))
        arrays = {key: value.read(len(summary), start, stop + 1) for key, value in chosen.items()}
        actions = self._read_actions(demo, len(summary))[start:stop]
        told = {"terminated": summary.terminated, "success": summary.success}
        with _name_group(demo):
            return make_steps(start, arrays, actions, rewards, **told)

    def read_summary(self, found: DemonstrationFile, demo: h5py.Group) -> EpisodeSummary:
        """Read what is known without observations and actions; raises as `read` does."""
        return self._read_outcome(found, demo, self._find_observations(found, demo))[0]

    def check(self, found: DemonstrationFile, demo: h5py.Group) -> None:
        """Raise ValueError if the episode is damaged, as far as that shows without its images."""
        observations = self._find_observations(found, demo)
        summary, rewards = self._read_outcome(found, demo, observations)
        for observation in observations.values():
            observation.check(len(summary))
        self._make_episode(demo, summary, {"": np.zeros(len(summary) + 1)}, rewards)

    def _choose(
        self, found: DemonstrationFile, demo: h5py.Group, keys: Sequence[str] | None
    ) -> tuple[dict[str, _Observation], EpisodeSummary, np.ndarray]:
        """Return the observations named, or all, and the summary and rewards of an episode."""
        observations = self._find_observations(found, demo)
        missing = [key for key in keys or () if key not in observations]
        if missing:
            raise ValueError(f"no {missing} in {demo.name}/obs, it has: {', '.join(observations)}")
        chosen = {key: observations[key] for key in (observations if keys is None else keys)}
        return chosen, *self._read_outcome(found, demo, observations)

    def _read_actions(self, demo: h5py.Group, n_steps: int) -> np.ndarray:
        actions = read_array(get_child(demo, "actions", h5py.Dataset), n_steps)
        with _name_group(demo):
            return rescale_actions(actions, self._range)

    def _make_episode(
        self,
        demo: h5py.Group,
        summary: EpisodeSummary,
        observations: Mapping[str, np.ndarray],
        rewards: np.ndarray,
    ) -> Episode:
        actions = self._read_actions(demo, len(summary))
        with _name_group(demo):
            return summary.make_episode(observations, actions, rewards)

    def _find_observations(
        self, found: DemonstrationFile, demo: h5py.Group
    ) -> dict[str, _Observation]:
        if not has_child(demo, "obs"):
            raise ValueError(
                f"no 'obs' in {demo.name}. A file of states alone has no observations: let "
                "robomimic's dataset_states_to_obs.py, or a regeneration, make them"
            )
        names = {} if not found.is_libero else LIBERO_KEYS
        names = names if self._key_map is None else self._key_map
        later: dict[str, h5py.Dataset] = {}
        if has_child(demo, "next_obs"):
            later = dict(walk_datasets(get_child(demo, "next_obs", h5py.Group)))
        observations: dict[str, _Observation] = {}
        for name, rows in walk_datasets(get_child(demo, "obs", h5py.Group)):
            key = names.get(name, name)
            if key in observations:
                raise ValueError(f"two observations of {demo.name} are called {key!r} now")
            observations[key] = _Observation(rows, later.get(name))
        return observations

    def _read_outcome(
        self,
        found: DemonstrationFile,
        demo: h5py.Group,
        observations: Mapping[str, _Observation],
    ) -> tuple[EpisodeSummary, np.ndarray]:
        n_steps = count_steps(demo)
        rewards = self._read_rewards(demo, n_steps)
        success, success_source = True, "demonstration"
        if not found.is_libero:
            success, success_source = self._judge(demo, rewards)
        reward_source = found.provenance.reward_source
        if rewards is None:  # as LIBERO's are: 1 at the last step of a success
            rewards, reward_source = np.zeros(n_steps, np.float32), "last_step"
            rewards[-1] = success
        ended = False
        if has_child(demo, "dones"):
            dones = read_array(get_child(demo, "dones", h5py.Dataset), n_steps)
            ended = bool(np.ravel(dones)[-1])
        sizes = {observation.image_size for observation in observations.values()} - {None}
        recorded = all(observation.next_rows is not None for observation in observations.values())
        provenance = _complete_provenance(
            found.provenance,
            image_size=sizes.pop() if len(sizes) == 1 else None,
            reward_source=reward_source,
            success_source=success_source,
            final_observation="recorded" if recorded else "repeated",
        )
        metadata: dict[str, Any] = {
            "file": found.path.name,
            "episode": str(demo.name).rpartition("/")[2],
            PROVENANCE_KEY: provenance.as_json(),
        }
        if found.is_libero and has_child(demo, "states"):
            metadata["init_state"] = _read_first_state(demo, n_steps)
        summary = EpisodeSummary(
            length=n_steps,
            episode_return=float(rewards.sum(dtype=np.float64)),
            terminated=ended and success,
            success=success,
            task=found.task,
            instruction=found.instruction,
            metadata=metadata,
        )
        return summary, rewards

    def _read_rewards(self, demo: h5py.Group, n_steps: int) -> np.ndarray | None:
        if self._assume_success is not None and not has_child(demo, "rewards"):
            return None
        rewards = read_array(get_child(demo, "rewards", h5py.Dataset), n_steps)
        if rewards.shape != (n_steps,):
            raise ValueError(
                f"expected rewards of shape ({n_steps},) in {demo.name}, got {rewards.shape}"
            )
        return rewards.astype(np.float32)

    def _judge(self, demo: h5py.Group, rewards: np.ndarray | None) -> tuple[bool, str]:
        """Return whether the episode succeeded, and where that comes from."""
        if rewards is not None and (rewards == 1).any():
            return True, "reward"
        if self._assume_success is None:
            raise SuccessUnknownError(str(demo.name), "no step has reward 1")
        return self._assume_success, "demonstration" if self._assume_success else "reward"


@functools.lru_cache  # that of the next episode is the same
def _complete_provenance(provenance: Provenance, **known: Any) -> Provenance:
    return dataclasses.replace(provenance, **known)


@contextlib.contextmanager
def _name_group(demo: h5py.Group) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{demo.name}: {error}") from error


def count_steps(demo: h5py.Group) -> int:
    """Return T, from the actions; where `num_samples` says it too, they must agree."""
    shape = get_child(demo, "actions", h5py.Dataset).shape
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"expected actions of shape (T, a) with T > 0 in {demo.name}, got {shape}")
    if "num_samples" in demo.attrs:
        told = read_attribute(demo, "num_samples", int)
        if told != shape[0]:
            raise ValueError(f"{demo.name} has {shape[0]} actions, `num_samples` is {told}")
    return shape[0]


def _read_first_state(demo: h5py.Group, n_steps: int) -> list[float]:
    """Return the simulator's flattened state before the first action, from which to replay."""
    states = get_child(demo, "states", h5py.Dataset)
    check_array(states, n_steps)
    first = np.asarray(states[0], np.float64)
    if first.ndim != 1 or len(first) > _MAX_STATE_SIZE or not np.isfinite(first).all():
        raise ValueError(f"expected finite numbers of shape (T, D) in {states.name}")
    return first.tolist()
