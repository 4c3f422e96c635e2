"""Demonstrations in HDF5, as LIBERO and robomimic hold them.

Groups `data/demo_<i>` with `actions`, `rewards`, `dones` and `obs/<key>` of T rows each; robomimic
adds `next_obs/<key>`, and lists of episodes' names under `mask/`. LIBERO's files hold 50 successes
of one task, `<task>_demo.hdf5`, a suite is a folder of them; those that were regenerated without
no-ops have no attributes, and gaps in their numbers.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.demonstrations.episode import (
    DemonstrationReader,
)
from libero_reward_envs.data.demonstrations.layout import DemonstrationFile, describe_file
from libero_reward_envs.data.episode_steps import EpisodeSteps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5 import is_demo
from libero_reward_envs.data.hdf5_files import Hdf5Files
from libero_reward_envs.data.safe_hdf5 import describe_error, get_child, open_hdf5
from libero_reward_envs.data.source_errors import DAMAGE, SuccessUnknownError, check_on_error

_SUFFIXES = (".h5", ".hdf5")
_MAX_NAME_BYTES = 256  # of an episode in a list of them, duplicates included


def is_demonstrations(path: Path) -> bool:
    """Whether a file, or a file of a folder, is of LIBERO's or robomimic's layout."""
    return any(_is_demonstration_file(file) for file in _list_files(path))


class DemonstrationSource:
    """The episodes of a file or of all `.hdf5` files of a folder, in the order of their names.

    o_T is the last row of `next_obs`; without it, it repeats o_{T-1}, the last one of `obs`, and
    the provenance says so. LIBERO holds successes only, and its episodes' metadata the simulator's
    first state as "init_state". In other files a step with reward 1 tells success. `dones` end an
    episode only if it succeeded: robomimic marks time-outs with them too.

    Args:
        path: The file or folder.
        on_error: "raise", or "skip" to leave out episodes that are damaged, and files.
        filter_key: Only the episodes that the file lists under `mask/<filter_key>`.
        key_map: New names of observations; by default LIBERO's images get those of `LiberoEnv`.
        task: What the task is; by default what the files say of it. LIBERO's name it by their own
            name, and by that of the BDDL file.
        instruction: What the robot was told; by default LIBERO's words of the task's name.
        assume_success: Whether an episode succeeded that has no reward of 1; not for LIBERO.
        action_range: Least and greatest number of an action in the file, each one number or of
            shape (a,), which become -1 and 1; by default actions must be in [-1, 1].

    Attributes:
        skipped: What is wrong with each episode or file that was left out.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If an argument is not valid, or later if an episode is damaged, it is not known
            whether it succeeded, or its actions are not in the range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        on_error: str = "raise",
        filter_key: str | None = None,
        key_map: Mapping[str, str] | None = None,
        task: str | None = None,
        instruction: str | None = None,
        assume_success: bool | None = None,
        action_range: tuple[Any, Any] | None = None,
    ) -> None:
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"No demonstrations at {str(path)!r}.")
        self._skips = check_on_error(on_error)
        self._filter_key = filter_key
        self._task, self._instruction = task, instruction
        self._reader = DemonstrationReader(key_map, assume_success, action_range)
        self._open_files = Hdf5Files()
        self._files: list[DemonstrationFile] | None = None
        self._ends = np.zeros(0, np.int64)  # of each file, the number of its last episode plus one
        self.skipped: list[str] = []

    def __len__(self) -> int:
        self._index()
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read episode `index`, with all observations or only those named."""
        with self._open(index) as (found, demo):
            return self._reader.read(found, demo, observation_keys)

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of episode `index`; the file stays open for more of them."""
        with self._open(index, keep=True) as (found, demo):
            return self._reader.read_steps(found, demo, start, stop, observation_keys)

    def keep_open(self) -> contextlib.AbstractContextManager[None]:
        """Keep files open until the context ends."""
        return self._open_files.keep()

    def summaries(self) -> list[EpisodeSummary]:
        """Return one summary an episode, without reading observations."""
        summaries = []
        for found in self._index():
            with open_hdf5(found.path) as file:
                data = get_child(file, "data", h5py.Group)
                for number in found.numbers:
                    demo = get_child(data, f"demo_{number}", h5py.Group)
                    summaries.append(self._reader.read_summary(found, demo))
        return summaries

    @contextlib.contextmanager
    def _open(
        self, index: int, *, keep: bool = False
    ) -> Iterator[tuple[DemonstrationFile, h5py.Group]]:
        files = self._index()
        place = int(np.searchsorted(self._ends, index, side="right"))
        found, first = files[place], self._ends[place] - len(files[place].numbers)
        with self._open_files.open(found.path, keep=keep) as file:
            name = f"demo_{found.numbers[index - first]}"
            yield found, get_child(get_child(file, "data", h5py.Group), name, h5py.Group)

    def _index(self) -> list[DemonstrationFile]:
        if self._files is None:
            self.skipped = []
            files = []
            for path in _list_files(self._path):
                try:
                    with open_hdf5(path) as file:
                        files.append(self._index_file(file, path))
                except ValueError as error:
                    if not self._skips or isinstance(error.__cause__, SuccessUnknownError):
                        raise
                    self.skipped.append(str(error))
            self._ends = np.cumsum([len(found.numbers) for found in files], dtype=np.int64)
            self._files = files
        return self._files

    def _index_file(self, file: h5py.File, path: Path) -> DemonstrationFile:
        found = describe_file(file, path)
        provenance = found.provenance
        if self._reader.source_range is not None:
            provenance = dataclasses.replace(provenance, action_range=self._reader.source_range)
        found = dataclasses.replace(
            found,
            numbers=self._filter(file, found.numbers),
            task=found.task if self._task is None else self._task,
            instruction=found.instruction if self._instruction is None else self._instruction,
            provenance=provenance,
        )
        if not self._skips:
            return found
        data = get_child(file, "data", h5py.Group)
        kept = [number for number in found.numbers if self._is_whole(found, data, number)]
        return dataclasses.replace(found, numbers=np.array(kept, np.int32))

    def _filter(self, file: h5py.File, numbers: np.ndarray) -> np.ndarray:
        if self._filter_key is None:
            return numbers
        listed = get_child(get_child(file, "mask", h5py.Group), self._filter_key, h5py.Dataset)
        is_small = listed.ndim == 1 and listed.nbytes <= _MAX_NAME_BYTES * len(numbers)
        if listed.dtype.kind != "S" or not is_small or listed.is_virtual or listed.external:
            raise ValueError(f"{listed.name} is {listed.dtype} of {listed.shape}, not demo names")
        wanted = {name.decode(errors="replace") for name in listed[()]}
        unknown = sorted(wanted - {f"demo_{number}" for number in numbers})
        if unknown:
            raise ValueError(f"{listed.name} lists {unknown[0]!r}, which is not in /data")
        return np.array([number for number in numbers if f"demo_{number}" in wanted], np.int32)

    def _is_whole(self, found: DemonstrationFile, data: h5py.Group, number: int) -> bool:
        try:
            self._reader.check(found, get_child(data, f"demo_{number}", h5py.Group))
        except SuccessUnknownError:  # an argument is missing, the file is not damaged
            raise
        except DAMAGE as error:
            message = describe_error(error).rstrip(".")
            self.skipped.append(f"{str(found.path)!r}, demo_{number}: {message}.")
            return False
        return True


def _list_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _is_demonstration_file(path: Path) -> bool:
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            data = get_child(file, "data", h5py.Group)
            return "format_version" not in data.attrs and any(is_demo(name) for name in data)
    except ValueError:
        return False
