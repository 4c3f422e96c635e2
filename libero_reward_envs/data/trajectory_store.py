"""Folders of successful and failed trajectories, filled as episodes end."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY
from libero_reward_envs.data.trajectory_files import CHANNELS, write_trajectory

logger = logging.getLogger(__name__)

STORAGES = ("auto", "npy", "hdf5")
LARGE_SET = 1000  # trajectories, above which "auto" means "hdf5"
_HDF5_NAME = re.compile(r"(\d{6,})\.hdf5(\.pending)?")
_TOLD = ("init_state_id", "assets")  # of the last info, kept as metadata


@dataclass
class OpenEpisode:
    """The steps so far of an episode that is going on.

    `frames` is None where no limit leaves room for it: then only its outcome is kept.
    """

    frames: dict[str, list[np.ndarray]] | None  # o_0 .. o_t by key, (H, W, C) uint8
    labels: list[float] = field(default_factory=list)  # of o_1 .. o_t
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success_once: bool = False

    @property
    def is_positive(self) -> bool:
        """Whether a step was labelled 0.5 or more, or the env said `success_once`."""
        return self.success_once or max(self.labels, default=0.0) >= 0.5


@dataclass
class CollectionCounts:
    """What became of the episodes of a collection."""

    positive_saved: int = 0
    negative_saved: int = 0
    positive_dropped: int = 0  # beyond `max_positive_trajectories`
    negative_dropped: int = 0
    unfinished: int = 0  # reset or closed before their end


class TrajectoryStore:
    """Saves whole trajectories into a folder for successes and one for failures.

    Nothing that lies in the folders is changed: numbers continue after the highest one present.
    Limits count what this object saves. What is beyond them is dropped, counted, and logged once.

    Args:
        positive_dir: Folder of trajectories with success; made with the first of them.
        negative_dir: Folder of those without.
        image_keys: The images to save.
        max_positive_trajectories: How many successes to save; None for all.
        max_negative_trajectories: How many failures.
        storage: "npy" for one `.npy` file a trajectory, see `write_trajectory`; "hdf5" for episodes
            as `EpisodeWriter` writes them, one file a run; "auto" for "npy" if both limits are set
            and add up to at most 1000, else "hdf5".
        metadata: Kept with every HDF5 episode, as JSON would hold it.

    Attributes:
        storage: "npy" or "hdf5".
        counts: What became of the episodes so far.

    Raises:
        ValueError: If an argument is not one of these.
    """

    def __init__(
        self,
        positive_dir: str | Path,
        negative_dir: str | Path,
        image_keys: Sequence[str],
        *,
        max_positive_trajectories: int | None = None,
        max_negative_trajectories: int | None = None,
        storage: str = "auto",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        limits = (max_negative_trajectories, max_positive_trajectories)
        for name, limit in zip(("negative", "positive"), limits, strict=True):
            if limit is not None and limit < 0:
                raise ValueError(f"`max_{name}_trajectories` must be at least 0, got {limit}.")
        if storage not in STORAGES:
            raise ValueError(f"Unknown storage {storage!r}. Choose one of: {', '.join(STORAGES)}.")
        if not image_keys or isinstance(image_keys, str):
            raise ValueError(f"Expected `image_keys` as a list of names, got {image_keys!r}.")
        self._folders = (Path(negative_dir), Path(positive_dir))
        if self._folders[0].resolve() == self._folders[1].resolve():
            raise ValueError(f"Both folders are {str(positive_dir)!r}. Give two.")
        self.image_keys = tuple(image_keys)
        if storage == "auto":
            known = [limit for limit in limits if limit is not None]
            storage = "npy" if len(known) == 2 and sum(known) <= LARGE_SET else "hdf5"
        self.storage = storage
        self.counts = CollectionCounts()
        self._limits = limits
        self._metadata = dict(metadata or {})
        self._writers: list[EpisodeWriter | None] = [None, None]

    @property
    def is_full(self) -> bool:
        """Whether both limits are reached, so that nothing more will be saved."""
        return not any(self._has_room(positive) for positive in (False, True))

    def begin(self, first_images: Mapping[str, np.ndarray]) -> OpenEpisode:
        """Begin an episode at its first observation."""
        frames = {key: [image] for key, image in first_images.items()}
        return OpenEpisode(None if self.is_full else frames)

    def count_unfinished(self, episode: OpenEpisode | None) -> None:
        """Count an episode that was given up before its end."""
        self.counts.unfinished += episode is not None and len(episode.labels) > 0

    def save(self, episode: OpenEpisode, *, terminated: bool, info: Mapping[str, Any]) -> None:
        """Save an episode that has ended, unless its class is full.

        Raises:
            OSError: If it cannot be written; those before it are safe.
        """
        positive = episode.is_positive
        if not self._has_room(positive) or episode.frames is None:
            self._drop(positive)
        elif self.storage == "npy":
            images = {
                key: np.stack(frames[1:]).transpose(0, 3, 1, 2)
                for key, frames in episode.frames.items()
            }
            write_trajectory(self._folders[positive], images, np.array(episode.labels, np.float32))
            self._count(positive, "saved")
        else:
            self._open_writer(positive).append(self._make_episode(episode, terminated, info))
            self._count(positive, "saved")

    def close(self) -> None:
        """Finish the HDF5 files, and log what was saved and dropped."""
        for index, writer in enumerate(self._writers):
            if writer is not None:
                writer.close()
            self._writers[index] = None
        logger.info("Reward data: %s", self.counts)

    def _has_room(self, positive: bool) -> bool:
        limit = self._limits[positive]
        saved = self.counts.positive_saved if positive else self.counts.negative_saved
        return limit is None or saved < limit

    def _count(self, positive: bool, what: str) -> None:
        name = f"{'positive' if positive else 'negative'}_{what}"
        setattr(self.counts, name, getattr(self.counts, name) + 1)

    def _drop(self, positive: bool) -> None:
        self._count(positive, "dropped")
        dropped = self.counts.positive_dropped if positive else self.counts.negative_dropped
        if dropped == 1:
            kind = "positive" if positive else "negative"
            limit = self._limits[positive]
            logger.warning(
                "All %s %s trajectories are saved in %r; further ones are dropped and counted.",
                *(limit, kind, str(self._folders[positive])),
            )

    def _open_writer(self, positive: bool) -> EpisodeWriter:
        """Return the writer of this run's own file, whose merging then copies no other run's."""
        if (writer := self._writers[positive]) is not None:
            return writer
        folder = self._folders[positive]
        folder.mkdir(parents=True, exist_ok=True)
        matches = [_HDF5_NAME.fullmatch(path.name) for path in folder.iterdir()]
        number = 1 + max((int(match[1]) for match in matches if match), default=-1)
        while True:
            try:
                writer = EpisodeWriter(folder / f"{number:06d}.hdf5")
            except RuntimeError:  # another run was faster
                number += 1
            else:
                self._writers[positive] = writer
                return writer

    def _make_episode(
        self, episode: OpenEpisode, terminated: bool, info: Mapping[str, Any]
    ) -> Episode:
        assert episode.frames is not None
        observations = {key: np.stack(frames) for key, frames in episode.frames.items()}
        # The first observation comes before any step and is not a frame; its label is unused.
        observations[SUCCESS_KEY] = np.array([0, *episode.labels], np.float32)
        return Episode(
            observations,
            np.stack(episode.actions),
            np.array(episode.rewards, np.float32),
            terminated=terminated,
            success=episode.is_positive,
            task=str(info.get("task", "")),
            instruction=str(info.get("instruction", "")),
            metadata={**{name: info[name] for name in _TOLD if name in info}, **self._metadata},
        )


def as_frame(key: str, image: Any) -> np.ndarray:
    """Return a copy of an image as (H, W, C) uint8.

    Args:
        key: Its name, for errors.
        image: (H, W, C) or (C, H, W) with one or three channels, uint8 or floats in [0, 1], which
            are rounded to multiples of 1 / 255.

    Raises:
        ValueError: If it is anything else.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or not {pixels.shape[0], pixels.shape[-1]} & set(CHANNELS):
        raise ValueError(
            f"Expected image {key!r} of shape (H, W, C) or (C, H, W) with one or three channels, "
            f"got {pixels.shape}. Collect before frames are stacked."
        )
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN is neither
            raise ValueError(
                f"Expected image {key!r} as uint8 or as floats in [0, 1], got {pixels.dtype} from "
                f"{pixels.min():g} to {pixels.max():g}."
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"Expected image {key!r} as uint8 or floats, got {pixels.dtype}.")
    if pixels.shape[-1] not in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    return np.array(pixels, order="C")
