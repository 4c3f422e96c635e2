"""Minari sets: `data/main_data.hdf5` with groups `episode_<i>`, and `data/metadata.json`.

An episode has `observations` of T + 1 rows, a dataset or, of a `Dict` space, a group; `actions`,
`rewards`, `terminations` and `truncations` of T rows; and `infos`. Minari 0.5.4 and before store
images as JPEG unless told otherwise. The layout is that of Minari's documentation ("Dataset
Standards") and of sets that version 0.5.4 made.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.action_scaling import ActionRange, check_action_range
from libero_reward_envs.data.episode_steps import EpisodeSteps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5_files import Hdf5Files
from libero_reward_envs.data.minari.episode import MinariRules
from libero_reward_envs.data.minari.spaces import parse_space
from libero_reward_envs.data.minari.writer import MAIN_FILE, METADATA_FILE, MinariWriter
from libero_reward_envs.data.safe_hdf5 import describe_error, open_hdf5
from libero_reward_envs.data.source_errors import DAMAGE, SuccessUnknownError, check_on_error

__all__ = ["MinariSource", "MinariWriter", "is_minari"]

_MAX_METADATA_BYTES = 2**27  # the bounds of three cameras of 512 x 512 take 25 MB
_FIRST_BYTES = 4096


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari set, of whatever data format."""
    folder = _find_data(path)
    if (folder / MAIN_FILE).is_file():
        return True
    try:
        with open(folder / METADATA_FILE, "rb") as file:
            return b'"data_format"' in file.read(_FIRST_BYTES)
    except OSError:
        return False


class MinariSource:
    """The episodes of a Minari set in HDF5.

    A `Box` observation stands under "state", those of a `Dict` inside a `Dict` have names joined by
    slashes. Actions of a bounded `Box` come from its bounds to [-1, 1]. Success is what `infos`
    hold as "success" or "is_success" at some step, or what `MinariWriter` wrote.

    Args:
        path: The folder of the set, or its folder `data`.
        on_error: "raise", or "skip" to leave out episodes that are damaged.
        key_map: New names of observations.
        task: What the task is; by default what an episode says, else the set's name.
        instruction: What the robot was told; by default what an episode says.
        assume_success: Whether an episode succeeded that does not say it.
        action_range: Least and greatest number of an action, each one number or of shape (a,),
            which become -1 and 1; by default the bounds of the action space, if it has some.

    Attributes:
        skipped: What is wrong with each episode that was left out.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If an argument is not valid; later, if the set is not in HDF5, actions are of
            another space than `Box`, an episode is damaged, or whether it succeeded is not known.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        on_error: str = "raise",
        key_map: Mapping[str, str] | None = None,
        task: str | None = None,
        instruction: str | None = None,
        assume_success: bool | None = None,
        action_range: tuple[Any, Any] | None = None,
    ) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"No Minari set at {str(path)!r}.")
        self._folder = _find_data(Path(path))
        self._skips = check_on_error(on_error)
        self._arguments: dict[str, Any] = {
            "key_map": dict(key_map or {}),
            "task": task,
            "instruction": instruction,
            "assume_success": assume_success,
        }
        self._action_range = check_action_range(action_range)
        self._files = Hdf5Files()
        self._rules: MinariRules | None = None
        self._numbers: Sequence[int] | np.ndarray = range(0)
        self.skipped: list[str] = []

    def __len__(self) -> int:
        self._index()
        return len(self._numbers)

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read episode `index`, with all observations or only those named."""
        rules = self._index()
        with self._files.open(self._folder / MAIN_FILE) as file:
            return rules.read(file, int(self._numbers[index]), observation_keys)

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of episode `index`; the file stays open for more of them."""
        rules = self._index()
        with self._files.open(self._folder / MAIN_FILE, keep=True) as file:
            number = int(self._numbers[index])
            return rules.read_steps(file, number, start, stop, observation_keys)

    def keep_open(self) -> contextlib.AbstractContextManager[None]:
        """Keep the file open until the context ends."""
        return self._files.keep()

    def summaries(self) -> list[EpisodeSummary]:
        """Return one summary an episode, without reading observations."""
        rules = self._index()
        if not len(self._numbers):
            return []
        with open_hdf5(self._folder / MAIN_FILE) as file:
            return [rules.read_summary(file, int(number)) for number in self._numbers]

    def _index(self) -> MinariRules:
        if self._rules is None:
            metadata = read_metadata(self._folder)
            try:
                rules = self._make_rules(metadata)
            except ValueError as error:
                path = str(self._folder / METADATA_FILE)
                raise ValueError(f"Cannot read {path!r}: {error}.") from error
            self.skipped = []
            try:
                with open_hdf5(self._folder / MAIN_FILE) as file:
                    self._numbers = self._list_episodes(file, rules, metadata.get("total_episodes"))
            except ValueError as error:
                if not self._skips or isinstance(error.__cause__, SuccessUnknownError):
                    raise
                self.skipped.append(str(error))
            self._rules = rules
        return self._rules

    def _make_rules(self, metadata: Mapping[str, Any]) -> MinariRules:
        data_format = metadata.get("data_format")
        if data_format != "hdf5":
            raise ValueError(
                f"the data format {data_format!r} is not supported, only 'hdf5'. Let Minari write "
                "the set again with data_format='hdf5'"
            )
        observations = metadata.get("observation_space")
        spaces = {} if observations is None else parse_space(observations)
        action_range, is_bounded = self._find_range(metadata.get("action_space"))
        return MinariRules(
            dataset_id=str(metadata.get("dataset_id", "")),
            images={name: space.shape for name, space in spaces.items() if space.is_image},
            action_range=action_range,
            is_bounded=is_bounded,
            **self._arguments,
        )

    def _find_range(self, action_space: Any) -> tuple[ActionRange | None, bool]:
        """Return what becomes -1 and 1, None for no change, and whether that is known."""
        if action_space is None:  # Minari then asks the environment, which may not be installed
            return self._action_range, self._action_range is not None
        spaces = parse_space(action_space)
        space = spaces.get("")
        if space is None or space.kind != "Box" or len(space.shape) != 1:
            kinds = ", ".join(f"{part.kind} {part.shape}" for part in spaces.values())
            raise ValueError(f"expected actions of a Box space of shape (a,), got {kinds}")
        if self._action_range is not None:
            return self._action_range, True
        assert space.low is not None
        assert space.high is not None
        is_bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
        if not is_bounded or ((space.low == -1).all() and (space.high == 1).all()):
            return None, is_bounded
        return check_action_range((space.low, space.high)), True

    def _list_episodes(
        self, file: h5py.File, rules: MinariRules, told: Any
    ) -> Sequence[int] | np.ndarray:
        if isinstance(told, bool) or not isinstance(told, int) or not 0 <= told <= len(file):
            message = f"{METADATA_FILE} tells of {told!r} episodes, {len(file)} are there"
            if not self._skips:
                raise ValueError(message)
            self.skipped.append(f"{str(self._folder)!r}: {message}.")
            told = len(file)
        if not self._skips:
            return range(told)
        kept = [number for number in range(told) if self._is_whole(file, rules, number)]
        return np.array(kept, np.int64)

    def _is_whole(self, file: h5py.File, rules: MinariRules, number: int) -> bool:
        try:
            rules.check(file, number)
        except SuccessUnknownError:  # an argument is missing, the file is not damaged
            raise
        except DAMAGE as error:
            path = str(self._folder / MAIN_FILE)
            message = describe_error(error).rstrip(".")
            self.skipped.append(f"{path!r}, episode_{number}: {message}.")
            return False
        return True


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what `metadata.json` of a set's folder `data` holds.

    Raises:
        ValueError: If it is not there, or damaged.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise ValueError(
            f"No {METADATA_FILE} in {str(folder)!r}. Sets of Minari before 0.5 have none: load and "
            "save them with a later Minari. Else the set is not finished."
        )
    if path.stat().st_size > _MAX_METADATA_BYTES:
        raise ValueError(f"Cannot read {str(path)!r}: more than {_MAX_METADATA_BYTES} bytes.")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Cannot read {str(path)!r}: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Cannot read {str(path)!r}: expected a JSON object.")
    return found


def _find_data(path: Path) -> Path:
    inside = path / "data"
    return inside if any((inside / name).exists() for name in (METADATA_FILE, MAIN_FILE)) else path
