"""One `episode_<i>` group of a Minari set as an episode."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.action_scaling import ActionRange, describe_range, rescale_actions
from libero_reward_envs.data.episode_steps import EpisodeSteps, check_steps, make_steps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.minari.images import count_rows, is_jpeg_rows, read_jpeg_rows
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.data.safe_hdf5 import (
    check_array,
    get_child,
    has_child,
    read_array,
    read_attribute,
    walk_datasets,
)
from libero_reward_envs.data.source_errors import SuccessUnknownError

METADATA_ATTRIBUTE = "metadata"  # of episodes of this package, beside those of Minari
_SUCCESS_INFOS = ("success", "is_success")


@dataclass(frozen=True, eq=False)
class MinariRules:
    """How the episodes of a set are to be read.

    Attributes:
        dataset_id: Minari's name of the set.
        images: Shape of each observation that Minari stores as JPEG, by its name.
        action_range: What becomes -1 and 1; None for actions in [-1, 1].
        is_bounded: Whether the bounds of actions are known.
        key_map: New names of observations.
        task: What the task is, where an episode does not say.
        instruction: What the robot was told, where an episode does not say.
        assume_success: Whether an episode succeeded, where it does not say.
    """

    dataset_id: str
    images: Mapping[str, tuple[int, ...]]
    action_range: ActionRange | None
    is_bounded: bool
    key_map: Mapping[str, str]
    task: str | None
    instruction: str | None
    assume_success: bool | None

    def read(self, file: h5py.File, number: int, keys: Sequence[str] | None) -> Episode:
        """Read an episode, with all observations or only those named.

        Raises:
            ValueError: If it is damaged; the message names what of it.
        """
        group, chosen, summary, rewards = self._choose(file, number, keys)
        arrays = self._read_observations(file, chosen, len(summary))
        return self._make_episode(group, summary, arrays, rewards)

    def read_steps(
        self, file: h5py.File, number: int, start: int, stop: int, keys: Sequence[str] | None
    ) -> EpisodeSteps:
        """Read steps of an episode; of observations that are no JPEG files, no others.

        Raises:
            ValueError: As `read` does.
        """
        group, chosen, summary, rewards = self._choose(file, number, keys)
        check_steps(start, stop, len(summary))
        arrays = self._read_observations(file, chosen, len(summary), start, stop + 1)
        actions = self._read_actions(group, len(summary))[start:stop]
        told = {"terminated": summary.terminated, "success": summary.success}
        return make_steps(start, arrays, actions, rewards, **told)

    def read_summary(self, file: h5py.File, number: int) -> EpisodeSummary:
        """Read what is known without observations and actions; raises as `read` does."""
        group = get_child(file, f"episode_{number}", h5py.Group)
        return self._read_outcome(group, self._find_observations(group))[0]

    def check(self, file: h5py.File, number: int) -> None:
        """Raise ValueError if the episode is damaged, as far as that shows without its images."""
        group = get_child(file, f"episode_{number}", h5py.Group)
        found = self._find_observations(group)
        summary, rewards = self._read_outcome(group, found)
        for name, dataset in found.values():
            if is_jpeg_rows(dataset, in_image_space=name in self.images):
                count_rows(dataset, len(summary) + 1)
            else:
                check_array(dataset, len(summary) + 1)
        self._make_episode(group, summary, {"": np.zeros(len(summary) + 1)}, rewards)

    def _choose(
        self, file: h5py.File, number: int, keys: Sequence[str] | None
    ) -> tuple[h5py.Group, dict[str, tuple[str, h5py.Dataset]], EpisodeSummary, np.ndarray]:
        """Return an episode's group, the observations named or all, its summary and rewards."""
        group = get_child(file, f"episode_{number}", h5py.Group)
        found = self._find_observations(group)
        missing = [key for key in keys or () if key not in found]
        if missing:
            raise ValueError(
                f"no observation {missing} in {group.name}, it has: {', '.join(found)}"
            )
        chosen = {key: found[key] for key in (found if keys is None else keys)}
        return group, chosen, *self._read_outcome(group, found)

    def _read_observations(
        self,
        file: h5py.File,
        chosen: Mapping[str, tuple[str, h5py.Dataset]],
        n_steps: int,
        start: int = 0,
        stop: int | None = None,
    ) -> dict[str, np.ndarray]:
        arrays = {}
        for key, (name, dataset) in chosen.items():
            if is_jpeg_rows(dataset, in_image_space=name in self.images):
                shape = self.images.get(name)
                arrays[key] = read_jpeg_rows(file, dataset, n_steps + 1, shape)[start:stop]
            else:
                arrays[key] = read_array(dataset, n_steps + 1, start, stop)
        return arrays

    def _read_actions(self, group: h5py.Group, n_steps: int) -> np.ndarray:
        actions = read_array(get_child(group, "actions", h5py.Dataset), n_steps)
        try:
            return rescale_actions(actions, self.action_range)
        except ValueError as error:
            raise ValueError(f"{group.name}: {error}") from error

    def _make_episode(
        self,
        group: h5py.Group,
        summary: EpisodeSummary,
        observations: Mapping[str, np.ndarray],
        rewards: np.ndarray,
    ) -> Episode:
        actions = self._read_actions(group, len(summary))
        try:
            return summary.make_episode(observations, actions, rewards)
        except ValueError as error:
            raise ValueError(f"{group.name}: {error}") from error

    def _find_observations(self, group: h5py.Group) -> dict[str, tuple[str, h5py.Dataset]]:
        """Return the observations' own names and datasets by the names that they are to have."""
        stored = get_child(group, "observations")
        parts = [("", stored)] if isinstance(stored, h5py.Dataset) else walk_datasets(stored)
        found: dict[str, tuple[str, h5py.Dataset]] = {}
        for name, dataset in parts:
            key = name or "state"
            key = self.key_map.get(key, key)
            if key in found:
                raise ValueError(f"two observations of {group.name} are called {key!r} now")
            found[key] = (name, dataset)
        return found

    def _read_outcome(
        self, group: h5py.Group, found: Mapping[str, tuple[str, h5py.Dataset]]
    ) -> tuple[EpisodeSummary, np.ndarray]:
        n_steps = _count_steps(group)
        rewards = read_array(get_child(group, "rewards", h5py.Dataset), n_steps)
        ends = read_array(get_child(group, "terminations", h5py.Dataset), n_steps)
        if rewards.ndim != 1 or ends.ndim != 1:
            raise ValueError(f"expected rewards and terminations of shape (T,) in {group.name}")
        success, success_source = self._judge(group, n_steps)
        own = _read_own(group)
        metadata = own.get("metadata")
        if metadata is None:
            metadata = self._describe(group, found, success_source)
        rewards = rewards.astype(np.float32)
        summary = EpisodeSummary(
            length=n_steps,
            episode_return=float(rewards.sum(dtype=np.float64)),
            terminated=bool(ends[-1]),
            success=success,
            task=str(own.get("task", self.dataset_id) if self.task is None else self.task),
            instruction=str(
                own.get("instruction", "") if self.instruction is None else self.instruction
            ),
            metadata=metadata,
        )
        return summary, rewards

    def _describe(
        self,
        group: h5py.Group,
        found: Mapping[str, tuple[str, h5py.Dataset]],
        success_source: str,
    ) -> dict[str, Any]:
        sizes = set()
        for name, dataset in found.values():
            shape = self.images.get(name, dataset.shape[1:])
            if dataset.dtype in (np.uint8, object) and len(shape) == 3:
                sizes.add(tuple(shape[:2]))
        bounds = describe_range(self.action_range)
        provenance = Provenance(
            "minari",
            image_size=sizes.pop() if len(sizes) == 1 else None,
            action_range=(-1.0, 1.0) if bounds is None and self.is_bounded else bounds,
            reward_source="env",
            success_source=success_source,
        )
        told = {"dataset_id": self.dataset_id, "episode": str(group.name).lstrip("/")}
        if "seed" in group.attrs:
            told["seed"] = read_attribute(group, "seed", int)
        return {**told, PROVENANCE_KEY: provenance.as_json()}

    def _judge(self, group: h5py.Group, n_steps: int) -> tuple[bool, str]:
        """Return whether the episode succeeded, and where that comes from."""
        if "success" in group.attrs:
            return bool(read_attribute(group, "success", bool)), "env"
        flags = _find_success_info(group)
        if flags is not None:
            happened = read_array(flags, flags.shape[0] if flags.shape else 0)
            if len(happened) not in (n_steps, n_steps + 1):  # with or without that of `reset`
                raise ValueError(f"{flags.name} has {len(happened)} rows for {n_steps} steps")
            return bool((happened > 0).any()), "env"
        if self.assume_success is None:
            raise SuccessUnknownError(
                str(group.name), f"neither `infos/{'` nor `infos/'.join(_SUCCESS_INFOS)}`"
            )
        return self.assume_success, "demonstration" if self.assume_success else "env"


def _count_steps(group: h5py.Group) -> int:
    shape = get_child(group, "rewards", h5py.Dataset).shape
    if not shape or shape[0] == 0:
        raise ValueError(f"no step in {group.name}: its rewards are of shape {shape}")
    if "total_steps" in group.attrs:
        told = read_attribute(group, "total_steps", int)
        if told != shape[0]:
            raise ValueError(f"{group.name} has {shape[0]} rewards, `total_steps` is {told}")
    return shape[0]


def _read_own(group: h5py.Group) -> dict[str, Any]:
    """Return what `MinariWriter` keeps beside Minari's own, nothing for an episode of others."""
    if "episode_id" not in group.attrs:
        return {}
    metadata = json.loads(read_attribute(group, METADATA_ATTRIBUTE, str))
    if not isinstance(metadata, dict):
        raise ValueError(f"expected a JSON object in `metadata` of {group.name}")
    told = {name: read_attribute(group, name, str) for name in ("task", "instruction")}
    return {"metadata": metadata, **told}


def _find_success_info(group: h5py.Group) -> h5py.Dataset | None:
    if not has_child(group, "infos"):
        return None
    infos = get_child(group, "infos", h5py.Group)
    names = [name for name in _SUCCESS_INFOS if has_child(infos, name)]
    return get_child(infos, names[0], h5py.Dataset) if names else None
