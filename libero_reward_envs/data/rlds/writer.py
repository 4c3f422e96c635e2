"""Writing RLDS sets that TensorFlow Datasets reads, so that a kill loses nothing."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.file_locks import lock_folder
from libero_reward_envs.data.rlds.features import STEPS, TENSOR_TYPES, Leaf, describe_tensor
from libero_reward_envs.data.rlds.files import VERSION
from libero_reward_envs.data.rlds.images import FORMATS
from libero_reward_envs.data.rlds.roles import (
    FINAL,
    INSTRUCTION,
    METADATA,
    OBSERVATION,
    SUCCESS,
    TASK,
)
from libero_reward_envs.data.rlds.staging import StagedSet
from libero_reward_envs.data.rlds.tf_example import serialize_example
from libero_reward_envs.data.rlds.values import encode_rows

_DESCRIPTION = "Episodes with observations, actions and rewards, written by libero_reward_envs."
_SHARD_BYTES = 2**28
_FLAGS = ("is_first", "is_last", "is_terminal")


class RldsWriter(ClosedAtExit):
    """Writes an RLDS set, `<folder>/<version>/`, that TensorFlow Datasets reads.

    The steps are laid out as in `openvla/modified_libero_rlds`, which has no observation after the
    last action. That one, task, success and metadata stand under `episode_metadata`, where programs
    that do not know them pass over them, and `RldsSource` reads the episode back whole. Images
    (H, W, 1 or 3) of uint8 are JPEG, which loses a little, or PNG, which loses nothing; all other
    numbers are exact.

    Each episode is forced to disk when it is appended; `close` makes the set, which appears whole
    under its version's name. After a kill the next writer goes on with the episodes that were
    appended, and it also goes on with a finished set, which stays as it is until `close`.

    Args:
        folder: The set's folder; made if it is not there.
        name: What TensorFlow Datasets is to call it; by default the folder's name.
        version: Name of the folder inside, three numbers with dots.
        image_format: "jpeg" of quality 95, or "png".
        key_map: The name in the set of an observation by its name here; others keep theirs.
            OpenVLA's loaders look for `image`, `wrist_image` and `state`.
        keep_final_observation: Whether to write the observation after the last action; without it
            readers repeat the one before.
        shard_bytes: Size from which a shard is followed by another.

    Raises:
        ValueError: If an argument is not valid, or what is there is damaged or has another name.
        RuntimeError: If another writer has the folder open.

    Example:
        >>> import tempfile
        >>> episode = Episode({"state": np.zeros((2, 1))}, np.zeros((1, 1)), np.ones(1), True, True)
        >>> with RldsWriter(tempfile.mkdtemp() + "/my_set") as writer:
        ...     writer.append(episode)
        >>> len(writer)
        1
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        version: str = "1.0.0",
        image_format: str = "jpeg",
        key_map: Mapping[str, str] | None = None,
        keep_final_observation: bool = True,
        shard_bytes: int = _SHARD_BYTES,
    ) -> None:
        if image_format not in FORMATS:
            listed = ", ".join(map(repr, FORMATS))
            raise ValueError(f"`image_format` must be one of {listed}, got {image_format!r}.")
        if not VERSION.fullmatch(version):
            raise ValueError(f"`version` must be three numbers such as '1.0.0', got {version!r}.")
        self._folder = Path(folder)
        if name is not None and not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
            raise ValueError(f"`name` must be letters, digits and '_', got {name!r}.")
        self._format = image_format
        self._key_map = dict(key_map or {})
        self._keeps_final = keep_final_observation
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self._folder)
        self._is_open = True
        try:
            self._staged = StagedSet(self._folder, version, shard_bytes)
            self._name = name or self._staged.name or _make_name(self._folder)
            if self._staged.name not in (None, self._name):
                raise ValueError(f"Expected `name` {self._staged.name!r} as before, got {name!r}.")
        except BaseException:
            self._release()
            raise

    def __len__(self) -> int:
        """The number of episodes, those of former runs included."""
        return len(self._staged)

    def append(self, episode: Episode) -> None:
        """Add one episode; once this returns, a kill or a power cut no longer loses it.

        Raises:
            OSError: If it cannot be written. What was written before stays, and the writer can be
                used on.
            ValueError: If its observations or actions are not of the names, shapes and types of
                those before it, or cannot be stored.
        """
        if not self._is_open:
            raise RuntimeError(f"The writer of {str(self._folder)!r} is closed.")
        if not episode.actions.shape[1]:  # readers count the steps by them
            raise ValueError("Expected actions of at least one number, the episode has none.")
        values = self._collect(episode)
        leaves = {leaf.path: leaf for leaf, _ in values}
        if self._staged.leaves is not None:
            _check_same(self._staged.leaves, leaves)
        features = {
            leaf.path: rows if isinstance(rows, list) else encode_rows(leaf, rows)
            for leaf, rows in values
        }
        self._staged.append(serialize_example(features), leaves)

    def close(self) -> None:
        """Make the set of what was appended. Calling it again does nothing.

        Raises:
            OSError: If it cannot be written. Nothing is lost: the next writer goes on from there.
        """
        if self._is_open:
            try:
                self._staged.finish(self._name, _DESCRIPTION)
            finally:
                self._staged.close()
                self._release()

    def _collect(self, episode: Episode) -> list[tuple[Leaf, np.ndarray | list[bytes]]]:
        """Return each leaf with its rows, those of texts encoded."""
        n_steps = len(episode)
        steps = np.arange(n_steps)
        flags = (steps == 0, steps == n_steps - 1, (steps == n_steps - 1) & episode.terminated)
        found: list[tuple[Leaf, np.ndarray | list[bytes]]] = []
        for path, rows in self._name_observations(episode).items():
            leaf = self._describe(path, rows)
            found.append((leaf, rows[:-1]))
            if self._keeps_final:
                found.append(
                    (self._describe(FINAL + path.removeprefix(OBSERVATION), rows), rows[-1:])
                )
        arrays = {
            "action": episode.actions,
            "reward": episode.rewards,
            "discount": np.ones(n_steps, np.float32),
            **dict(zip(_FLAGS, flags, strict=True)),
        }
        for name, rows in arrays.items():
            found.append((describe_tensor(f"{STEPS}/{name}", rows.shape[1:], rows.dtype), rows))
        success = np.array([episode.success])
        found.append((describe_tensor(SUCCESS, (), success.dtype), success))
        metadata = json.dumps(dict(episode.metadata), sort_keys=True)
        found.append((Leaf(INSTRUCTION, "text"), [episode.instruction.encode()] * n_steps))
        found.append((Leaf(TASK, "text"), [episode.task.encode()]))
        found.append((Leaf(METADATA, "text"), [metadata.encode()]))
        return found

    def _name_observations(self, episode: Episode) -> dict[str, np.ndarray]:
        named: dict[str, np.ndarray] = {}
        for key, rows in episode.observations.items():
            path = f"{OBSERVATION}/{self._key_map.get(key, key)}"
            if path in named or not all(path.split("/")):
                raise ValueError(f"The observation {key!r} cannot be written as {path!r}.")
            named[path] = rows
        for path in named:
            if any(other.startswith(f"{path}/") for other in named):
                raise ValueError(
                    f"Both {path!r} and what is below it are observations. Use `key_map`."
                )
        return named

    def _describe(self, path: str, rows: np.ndarray) -> Leaf:
        shape = rows.shape[1:]
        if rows.dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3) and rows.size:
            return Leaf(path, "image", shape, "uint8", self._format)
        if rows.dtype.name not in TENSOR_TYPES:
            raise ValueError(
                f"Numbers of type {rows.dtype} cannot be written, as {path!r} has them."
            )
        return describe_tensor(path, shape, rows.dtype)

    def _release(self) -> None:
        self._is_open = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make_name(folder: Path) -> str:
    name = re.sub(r"\W+", "_", folder.resolve().name, flags=re.ASCII).lower()
    return name if re.match(r"[a-z_]", name) else f"set_{name}"


def _check_same(before: Mapping[str, Leaf], now: Mapping[str, Leaf]) -> None:
    for path in dict.fromkeys([*before, *now]):
        first, second = before.get(path), now.get(path)
        if first != second:
            raise ValueError(
                f"Expected {_name(first)} for `{path}` as in the episodes before, got "
                f"{_name(second)}. Write it to another set."
            )


def _name(leaf: Leaf | None) -> str:
    return f"{leaf.kind} {leaf.shape} {leaf.dtype} {leaf.encoding}".strip() if leaf else "nothing"
