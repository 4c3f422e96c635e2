"""The `.npy` trajectories of success classifiers as episodes, see `trajectory_files`.

A trajectory is its images after each step, and a label of each: whether the task was solved then.
It has no actions, nothing before the first step, and says nothing of where it comes from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from libero_reward_envs.data.closing import ClosedAtExit
from libero_reward_envs.data.episode_steps import EpisodeSteps, check_steps, make_steps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.data.source_errors import check_on_error
from libero_reward_envs.data.trajectory_files import CHANNELS, TrajectoryFile, write_trajectory

POSITIVE, NEGATIVE = "positive", "negative"
_MAGIC = b"\x93NUMPY"
_PART_BYTES = 2**22  # of the floats that are held while frames become bytes


def is_npy(path: Path) -> bool:
    """Whether a folder, or its folders "positive" and "negative", hold `.npy` files."""
    for folder in _list_folders(path):
        for file in _list_files(folder)[:1]:
            with open(file, "rb") as stream:
                return stream.read(len(_MAGIC)) == _MAGIC
    return False


class NpySource:
    """Trajectories of labelled images as episodes, those with success first, by name.

    o_1 .. o_T are the frames, as (H, W, C) uint8; o_0 repeats o_1, and the provenance says so.
    Rewards are the labels. An episode succeeded if one of them is 0.5 or more, and was terminated
    if the last one is. There are no actions: their shape is (T, 0).

    Args:
        positive_dir: Folder of the trajectories with success; or, if it is the only argument, a
            folder that holds them under "positive" and "negative", or all of them together.
        negative_dir: Folder of those without.
        on_error: "raise", or "skip" to leave out trajectories that are damaged.
        key_map: New names of images.
        task: What the task is, which the files do not say.
        instruction: What the robot was told.

    Attributes:
        skipped: What is wrong with each trajectory that was left out.

    Raises:
        FileNotFoundError: If a folder is not there.
        ValueError: If an argument is not valid, or later if a trajectory is damaged.
    """

    def __init__(
        self,
        positive_dir: str | Path,
        negative_dir: str | Path | None = None,
        *,
        on_error: str = "raise",
        key_map: Mapping[str, str] | None = None,
        task: str = "",
        instruction: str = "",
    ) -> None:
        named = [Path(folder) for folder in (positive_dir, negative_dir) if folder is not None]
        for folder in named:
            if not folder.is_dir():
                raise FileNotFoundError(f"No folder of trajectories at {str(folder)!r}.")
        self._folders = _list_folders(named[0]) if negative_dir is None else named
        self._skips = check_on_error(on_error)
        self._key_map = dict(key_map or {})
        self._task, self._instruction = task, instruction
        self._files: list[Path] | None = None
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self._index())

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read episode `index`, with all images or only those named."""
        file, keys = self._open(index, observation_keys)
        images = {key: _read_frames(file, name, 0, len(file) + 1) for key, name in keys.items()}
        return self._summarize(file).make_episode(images, _no_actions(len(file)), file.labels)

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of episode `index`, and of its images no others."""
        file, keys = self._open(index, observation_keys)
        check_steps(start, stop, len(file))
        images = {key: _read_frames(file, name, start, stop + 1) for key, name in keys.items()}
        summary = self._summarize(file)
        told = {"terminated": summary.terminated, "success": summary.success}
        return make_steps(start, images, _no_actions(stop - start), file.labels, **told)

    def summaries(self) -> list[EpisodeSummary]:
        """Return one summary an episode, without reading images."""
        return [self._summarize(TrajectoryFile(path)) for path in self._index()]

    def _open(
        self, index: int, observation_keys: Sequence[str] | None
    ) -> tuple[TrajectoryFile, dict[str, str]]:
        """Return a file, and the names that the images wanted have there, by their own."""
        file = TrajectoryFile(self._index()[index])
        found = self._find_images(file)
        missing = [key for key in observation_keys or () if key not in found]
        if missing:
            raise ValueError(
                f"No images {missing} in {str(file.path)!r}, it has: {', '.join(found)}."
            )
        return file, {key: found[key] for key in (observation_keys or found)}

    def _index(self) -> list[Path]:
        if self._files is None:
            self.skipped = []
            files = [path for folder in self._folders for path in _list_files(folder)]
            self._files = [path for path in files if not self._skips or self._is_whole(path)]
        return self._files

    def _is_whole(self, path: Path) -> bool:
        try:
            file = TrajectoryFile(path)
            for key in self._find_images(file).values():
                file.check_layout(key)
        except (OSError, ValueError) as error:
            self.skipped.append(str(error))
            return False
        return True

    def _find_images(self, file: TrajectoryFile) -> dict[str, str]:
        """Return the names of images in the file by those that they are to have."""
        found = {self._key_map.get(key, key): key for key in file.image_shapes}
        if len(found) < len(file.image_shapes):
            raise ValueError(f"`key_map` gives two images of {str(file.path)!r} one name.")
        return found

    def _summarize(self, file: TrajectoryFile) -> EpisodeSummary:
        sizes = {shape[2:] for shape in file.image_shapes.values() if len(shape) == 4}
        provenance = Provenance(
            "npy",
            image_size=sizes.pop() if len(sizes) == 1 else None,
            success_source="reward",
            first_observation="repeated",
        )
        return EpisodeSummary(
            length=len(file),
            episode_return=float(file.labels.sum(dtype=np.float64)),
            terminated=bool(file.labels[-1] >= 0.5),
            success=bool((file.labels >= 0.5).any()),
            task=self._task,
            instruction=self._instruction,
            metadata={
                "file": f"{file.path.parent.name}/{file.path.name}",
                PROVENANCE_KEY: provenance.as_json(),
            },
        )


class NpyWriter(ClosedAtExit):
    """Writes episodes as `.npy` trajectories into a folder for successes and one for failures.

    Of an episode only images of o_1 .. o_T stay, and a label of each: the observation "is_success"
    where there is one, else the rewards, which must then be in [0, 1]. Each file appears whole or
    not at all; a second run goes on after the files that are there.

    Args:
        path: Folder that is to hold the folders "positive" and "negative".
        image_keys: The images to write; by default all that are (H, W, C) uint8 with one or three
            channels.

    Raises:
        ValueError: If `image_keys` is empty.

    Example:
        >>> import tempfile
        >>> images = {"agentview_image": np.zeros((3, 8, 8, 3), np.uint8)}
        >>> episode = Episode(images, np.zeros((2, 7)), np.array([0, 1]), True, True)
        >>> with NpyWriter(tempfile.mkdtemp()) as writer:
        ...     writer.append(episode)
        >>> len(writer)
        1
    """

    def __init__(self, path: str | Path, *, image_keys: Sequence[str] | None = None) -> None:
        if image_keys is not None and (isinstance(image_keys, str) or not image_keys):
            raise ValueError(f"Expected `image_keys` as a list of names, got {image_keys!r}.")
        self._folders = {True: Path(path) / POSITIVE, False: Path(path) / NEGATIVE}
        self._image_keys = image_keys
        self._length = sum(len(_list_files(folder)) for folder in self._folders.values())
        self._is_open = True

    def __len__(self) -> int:
        """The number of trajectories there, those of former runs included."""
        return self._length

    def append(self, episode: Episode) -> None:
        """Add one episode; once this returns, a kill or a power cut no longer loses it.

        Raises:
            ValueError: If it has no such images, or no labels that agree with its outcome.
            OSError: If it cannot be written.
            RuntimeError: If the writer is closed.
        """
        if not self._is_open:
            raise RuntimeError("The writer is closed.")
        labels = _find_labels(episode)
        images = {
            key: episode.observations[key][1:].transpose(0, 3, 1, 2)
            for key in self._find_image_keys(episode)
        }
        write_trajectory(self._folders[episode.success], images, labels)
        self._length += 1

    def close(self) -> None:
        """End writing; there is nothing left to do."""
        self._is_open = False

    def _find_image_keys(self, episode: Episode) -> Sequence[str]:
        images = [key for key, value in episode.observations.items() if _is_image(value)]
        wanted = images if self._image_keys is None else self._image_keys
        missing = [key for key in wanted if key not in images]
        if missing or not wanted:
            raise ValueError(
                f"Expected images {missing or ''} as (H, W, C) uint8 with one or three channels, "
                f"the episode has: {', '.join(images) or 'none'}."
            )
        return wanted


def _find_labels(episode: Episode) -> np.ndarray:
    """Return whether the task is solved after each step, shape (T,), in [0, 1]."""
    told = episode.observations.get(SUCCESS_KEY)
    labels = episode.rewards if told is None else told[1:]
    name = "rewards" if told is None else f"observation {SUCCESS_KEY!r}"
    if labels.ndim != 1 or not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            f"Expected labels in [0, 1] in the {name}, got {labels.min():g} to {labels.max():g} of "
            f"shape {labels.shape}. Give each episode an observation {SUCCESS_KEY!r}, of each step "
            "whether the task is solved."
        )
    if bool((labels >= 0.5).any()) != episode.success:
        outcome = "success" if episode.success else "failure"
        raise ValueError(
            f"Expected labels that agree with the episode's outcome, {outcome}; the largest in the "
            f"{name} is {labels.max():g}, and success is 0.5 and more."
        )
    return labels


def _is_image(value: np.ndarray) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] in CHANNELS


def _no_actions(n_steps: int) -> np.ndarray:
    return np.zeros((n_steps, 0), np.float32)


def _read_frames(file: TrajectoryFile, key: str, start: int, stop: int) -> np.ndarray:
    """Return o_start .. o_{stop - 1}, at least two of them, as (n, H, W, C) uint8.

    A few frames at a time are read, as they are larger in the file.
    """
    file.check_layout(key)
    _, channels, height, width = file.image_shapes[key]
    frames = np.empty((stop - start, height, width, channels), np.uint8)
    rows = max(1, _PART_BYTES // (4 * channels * height * width))
    for first in range(max(1, start), stop, rows):  # o_t is frame t - 1 of the file
        part = file.read_images(key, first - 1, min(first + rows, stop) - 1)
        pixels = np.rint(np.multiply(part, 255, out=part), out=part)
        frames[first - start : first - start + len(part)] = pixels.transpose(0, 2, 3, 1)
    if start == 0:
        frames[0] = frames[1]
    return frames


def _list_folders(path: Path) -> list[Path]:
    """Return the folders of trajectories in a folder, or itself."""
    inside = [path / name for name in (POSITIVE, NEGATIVE)]
    return [folder for folder in inside if folder.is_dir()] or [path]


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob("*.npy") if not path.name.startswith("."))
