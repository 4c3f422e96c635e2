"""From the features of an RLDS episode to an `Episode`."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.action_scaling import (
    check_action_range,
    describe_range,
    rescale_actions,
)
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.data.rlds.features import STEPS, Leaf
from libero_reward_envs.data.rlds.images import decode_images
from libero_reward_envs.data.rlds.libero import (
    KEY_MAP,
    describe_published,
    find_suite,
    is_published_layout,
    parse_task,
)
from libero_reward_envs.data.rlds.roles import (
    EPISODE,
    FINAL,
    METADATA,
    OBSERVATION,
    TASK,
    find_action,
    find_instruction,
    find_observations,
)
from libero_reward_envs.data.rlds.tf_example_places import locate_bytes, locate_features
from libero_reward_envs.data.rlds.values import decode_rows, decode_texts
from libero_reward_envs.data.source_errors import SuccessUnknownError

NO_SUCCESS = "there is no reward of 1"


class EpisodeLayout:
    """Which feature becomes which part of an episode; the arguments are those of `RldsSource`."""

    def __init__(
        self,
        leaves: Mapping[str, Leaf],
        folder: Path,
        name: str,
        *,
        key_map: Mapping[str, str] | None,
        action_key: str,
        action_range: tuple[Any, Any] | None,
        instruction_key: str | None,
        assume_success: bool | None,
        last_step_is_observation: bool,
    ) -> None:
        suite = find_suite(folder, name)
        self._is_ours = METADATA in leaves and leaves[METADATA].kind == "text"
        self._suite = suite or ""
        self._assumed = assume_success
        self._trim = last_step_is_observation
        self._leaves = dict(leaves)
        if key_map is None:
            key_map = KEY_MAP if suite else {}
        self.observations = find_observations(leaves, key_map)
        self._final = {
            name: leaves[FINAL + leaf.path.removeprefix(OBSERVATION)]
            for name, leaf in self.observations.items()
            if FINAL + leaf.path.removeprefix(OBSERVATION) in leaves
        }
        self._action = find_action(leaves, action_key)
        self._range = check_action_range(action_range)
        self._instruction = find_instruction(leaves, instruction_key)
        self._published = bool(suite) and not self._is_ours and is_published_layout(leaves)
        self._provenance = self._describe(folder).as_json()

    @property
    def summary_paths(self) -> list[str]:
        """The features that `summarize` reads: none with pictures or observations."""
        own = [self._action.path, f"{STEPS}/reward", f"{STEPS}/is_terminal", self._instruction]
        episode = [leaf.path for leaf in self._episode_leaves()]
        return [path for path in dict.fromkeys([*own, *episode, TASK, METADATA]) if path]

    def summarize(self, features: Mapping[str, memoryview]) -> EpisodeSummary:
        """Return what an episode is from those of its features that `summary_paths` names."""
        n_steps = self._count_steps(features)
        values = self._read_outcome(features, n_steps)
        rewards = values.pop("rewards")
        return EpisodeSummary(
            length=len(rewards), episode_return=float(rewards.sum(dtype=np.float64)), **values
        )

    def decode(self, features: Mapping[str, memoryview], keys: Sequence[str] | None) -> Episode:
        """Return the episode, with the observations named, or all."""
        chosen = self._choose(keys)
        n_steps = self._count_steps(features)
        observations = {}
        for key, leaf in chosen.items():
            spare = 0 if self._trim else 1
            rows = decode_rows(leaf, features, n_steps, spare_rows=spare)
            if spare:
                final = self._final.get(key)
                rows[-1:] = rows[-2:-1] if final is None else decode_rows(final, features, 1)
            observations[key] = rows
        actions = self._read_actions(features, n_steps)
        values = self._read_outcome(features, n_steps)
        return Episode(observations, actions, **values)

    def decode_image(
        self, read: Callable[[int, int], bytes], length: int, key: str, step: int
    ) -> np.ndarray:
        """Return one image of an example that is not in memory, shape (H, W, C)."""
        leaf = self._choose([key])[key]
        places = locate_features(read, length) or {}
        if leaf.kind != "image" or leaf.path not in places:
            raise ValueError(f"no single images {key!r} can be read. Read the episode")
        place = locate_bytes(read, *places[leaf.path], step)
        if place is None:
            raise ValueError(f"no single images {key!r} can be read. Read the episode")
        return decode_images([read(*place)], leaf.shape, np.dtype(leaf.dtype))[0]

    def check(self, features: Mapping[str, memoryview]) -> None:
        """Do what `decode` does, but for the pixels: of pictures only the headers are read."""
        n_steps = self._count_steps(features)
        for key, leaf in self.observations.items():
            decode_rows(leaf, features, n_steps, check_only=True)
            if key in self._final:
                decode_rows(self._final[key], features, 1, check_only=True)
        actions = self._read_actions(features, n_steps)
        values = self._read_outcome(features, n_steps)
        dummy = {"": np.zeros(n_steps - self._trim + 1)}
        Episode(dummy, actions, **values)

    def _choose(self, keys: Sequence[str] | None) -> dict[str, Leaf]:
        if keys is None:
            return self.observations
        missing = [key for key in keys if key not in self.observations]
        if missing:
            raise ValueError(
                f"no observation {', '.join(map(repr, missing))}, it has: "
                f"{', '.join(self.observations)}"
            )
        return {key: self.observations[key] for key in keys}

    def _count_steps(self, features: Mapping[str, memoryview]) -> int:
        n_steps = len(decode_rows(self._action, features, None))
        if n_steps <= self._trim:
            raise ValueError("an episode without a step")
        return n_steps

    def _read_actions(self, features: Mapping[str, memoryview], n_steps: int) -> np.ndarray:
        stored = decode_rows(self._action, features, n_steps).reshape(n_steps, -1)
        try:
            return rescale_actions(stored[: n_steps - self._trim], self._range)
        except ValueError as error:
            raise ValueError(f"`{self._action.path}`: {error}") from error

    def _read_outcome(self, features: Mapping[str, memoryview], n_steps: int) -> dict[str, Any]:
        """Return rewards, outcome, names and metadata, as the arguments of `Episode`."""
        rewards = np.zeros(n_steps, np.float32)
        if f"{STEPS}/reward" in self._leaves:
            stored = decode_rows(self._leaves[f"{STEPS}/reward"], features, n_steps)
            if stored.size != n_steps:
                raise ValueError(
                    f"`{STEPS}/reward`: expected one number a step, got {stored.shape}"
                )
            rewards = stored.reshape(n_steps).astype(np.float32)
        rewards = rewards[: n_steps - self._trim]
        terminal = self._leaves.get(f"{STEPS}/is_terminal")
        metadata = self._read_metadata(features)
        stated = metadata.pop("success", None)
        success, source = self._judge(rewards, stated)
        task = metadata.pop("task", "")
        if self._suite and not self._is_ours:
            task = parse_task(self._suite, str(metadata.get("file_path", "")))
        if self._is_ours:
            metadata = self._read_own_metadata(features)
        return {
            "rewards": rewards,
            "terminated": terminal is not None
            and bool(decode_rows(terminal, features, n_steps)[-1].all()),
            "success": success,
            "task": str(task),
            "instruction": self._read_instruction(features, n_steps),
            "metadata": {PROVENANCE_KEY: {**self._provenance, **source}, **metadata},
        }

    def _judge(self, rewards: np.ndarray, stated: Any) -> tuple[bool, dict[str, str]]:
        """Return whether an episode succeeded, and what its provenance says of that."""
        if stated is not None:
            return bool(stated), {}
        if (rewards == 1).any() or self._published:
            return bool((rewards == 1).any()), {"success_source": "reward"}
        if self._assumed is None:
            raise SuccessUnknownError("the episode", NO_SUCCESS)
        return self._assumed, {"success_source": "demonstration" if self._assumed else "reward"}

    def _read_instruction(self, features: Mapping[str, memoryview], n_steps: int) -> str:
        if not self._instruction:
            return ""
        leaf = self._leaves[self._instruction]
        texts = decode_texts(leaf, features, n_steps if leaf.path.startswith(STEPS) else 1)
        if len(set(texts)) > 1:
            raise ValueError(
                f"`{leaf.path}`: expected one instruction an episode, got {texts[0]!r} and others. "
                'Name another feature by `instruction_key`, or none by ""'
            )
        return texts[0]

    def _read_metadata(self, features: Mapping[str, memoryview]) -> dict[str, Any]:
        """Return single texts and numbers of the episode by name."""
        found: dict[str, Any] = {}
        for leaf in self._episode_leaves():
            name = leaf.path.removeprefix(f"{EPISODE}/")
            if leaf.path not in features:
                continue
            if leaf.kind == "text":
                found[name] = decode_texts(leaf, features, 1)[0]
            else:
                value = decode_rows(leaf, features, 1)[0].item()
                found[name] = value if math.isfinite(value) else str(value)
        return found

    def _read_own_metadata(self, features: Mapping[str, memoryview]) -> dict[str, Any]:
        text = decode_texts(self._leaves[METADATA], features, 1)[0]
        try:
            metadata = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{METADATA}`: not JSON ({error})") from error
        if not isinstance(metadata, dict):
            raise ValueError(f"`{METADATA}`: expected an object, got {type(metadata).__name__}")
        provenance = metadata.get(PROVENANCE_KEY)
        if isinstance(provenance, dict) and not self._has_final():
            metadata[PROVENANCE_KEY] = {**provenance, "final_observation": "repeated"}
        return metadata

    def _episode_leaves(self) -> list[Leaf]:
        return [
            leaf
            for path, leaf in self._leaves.items()
            if path.startswith(f"{EPISODE}/")
            and not path.startswith(FINAL)
            and path != METADATA
            and (leaf.kind == "text" or (leaf.kind == "tensor" and leaf.shape == ()))
        ]

    def _has_final(self) -> bool:
        return self._trim or set(self._final) == set(self.observations)

    def _describe(self, folder: Path) -> Provenance:
        images = [leaf for leaf in self.observations.values() if leaf.kind == "image"]
        sizes = {leaf.shape[:2] for leaf in images}
        (size,) = sizes if len(sizes) == 1 else (None,)
        known = None if size is None or None in size else (int(size[0] or 0), int(size[1] or 0))
        action_range = describe_range(self._range)
        if self._published:
            published = describe_published(folder, known)
            return dataclasses.replace(
                published, action_range=action_range or published.action_range
            )
        return Provenance(
            "rlds",
            image_size=known,
            action_range=action_range,
            reward_source=None if f"{STEPS}/reward" in self._leaves else "none",
            final_observation="recorded" if self._has_final() else "repeated",
        )
