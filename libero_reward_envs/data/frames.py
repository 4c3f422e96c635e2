"""Labelled frames for success classifiers, as torch data sets."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from libero_reward_envs.data.frame_reader import FrameReader
from libero_reward_envs.data.frame_sources import FrameSource, find_sources

_MAX_REASONS = 3
_OF = (": failures", ": successes")  # parts of a mixed file


class FolderStatistics(NamedTuple):
    """What a folder holds; labels of 0.5 and more count as 1."""

    folder: str
    n_trajectories: int
    n_frames: int
    n_label_1: int
    n_label_0: int
    n_skipped: int


class RewardDataset(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """Frames of trajectories with their labels, in any order.

    Item i is (images by key, each (C, H, W) uint8; label, a float32 scalar, 1 for success at this
    frame). Kept in memory are the labels and the last part of a file that was read. To train on
    shuffled frames of more than a small set, use `FrameStream`, which reads each part once.

    A folder holds `.npy` trajectories, HDF5 episodes or both. The positive folder's trajectories
    also have frames of label 0: the label decides, the folder only what `split_trajectories`
    keeps in proportion. Damaged trajectories are named in the log, skipped and counted. For one
    file of successes and failures there is `from_episodes`.

    Args:
        positive_dir: Folder, or HDF5 file, of trajectories with success.
        negative_dir: Folder, or HDF5 file, of those without.
        image_keys: The images to read, one name or several.
        image_size: Their (C, H, W); None for the size of the first trajectory.

    Attributes:
        image_keys: As a tuple.
        image_sizes: (C, H, W) of each key.
        labels: Of all frames, shape (n,), float32 0 or 1.
        skipped: What is wrong with each trajectory that was skipped.

    Raises:
        FileNotFoundError: If a folder is not there.
        ValueError: If keys, sizes or the channel order of a trajectory do not match, no trajectory
            can be read, or all labels are the same.
    """

    def __init__(
        self,
        positive_dir: str | Path,
        negative_dir: str | Path,
        *,
        image_keys: str | Sequence[str],
        image_size: Sequence[int] | None = None,
    ) -> None:
        if Path(positive_dir).resolve() == Path(negative_dir).resolve():
            raise ValueError(
                f"Both folders are {str(positive_dir)!r}. Give two, or use `from_episodes`."
            )
        self.image_keys = (image_keys,) if isinstance(image_keys, str) else tuple(image_keys)
        sources, classes, self.skipped = [], [], []
        self._folders: list[tuple[str, int]] = []  # name, how many were skipped
        for folder in (negative_dir, positive_dir):
            found, skipped = find_sources(Path(folder), self.image_keys)
            classes += [len(self._folders)] * len(found)
            sources += found
            self.skipped += skipped
            self._folders.append((str(folder), len(skipped)))
        self._begin(sources, classes, image_size)

    @classmethod
    def from_episodes(
        cls,
        path: str | Path,
        *,
        image_keys: str | Sequence[str],
        image_size: Sequence[int] | None = None,
    ) -> "RewardDataset":
        """Read one mixed HDF5 file, as `collect_episodes` writes it, or a folder of trajectories.

        The class of a trajectory is that of its labels: successful if one of them is. Damaged
        ones, whose class is not known, count as skipped among those without success.

        Args:
            path: The file or folder.
            image_keys: See the class.
            image_size: See the class.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: As for the class.
        """
        dataset = cls.__new__(cls)
        dataset.image_keys = (image_keys,) if isinstance(image_keys, str) else tuple(image_keys)
        sources, dataset.skipped = find_sources(Path(path), dataset.image_keys)
        classes = [int(source.labels.max() >= 0.5) for source in sources]
        n_skipped = len(dataset.skipped)
        dataset._folders = [(f"{path}{_OF[0]}", n_skipped), (f"{path}{_OF[1]}", 0)]
        dataset._begin(sources, classes, image_size)
        return dataset

    def _begin(
        self,
        sources: Sequence[FrameSource],
        classes: Sequence[int],
        image_size: Sequence[int] | None,
    ) -> None:
        self._reader = FrameReader()
        self._take(sources, classes)
        self._check(image_size)

    def _take(self, sources: Sequence[FrameSource], classes: Sequence[int]) -> None:
        self.sources = list(sources)
        self.classes = np.array(classes, np.int64)  # 0 and 1: of the negative, positive folder
        lengths = [len(source.labels) for source in self.sources]
        self._starts = np.cumsum([0, *lengths])
        labels = [source.labels for source in self.sources]
        self.labels = (np.concatenate([*labels, np.empty(0)]) >= 0.5).astype(np.float32)

    def _check(self, image_size: Sequence[int] | None) -> None:
        names = dict.fromkeys(
            folder.removesuffix(_OF[kind]) for kind, (folder, _) in enumerate(self._folders)
        )
        folders = " and ".join(map(repr, names))
        if not self.sources:
            reasons = "".join(f" {reason}" for reason in self.skipped[:_MAX_REASONS])
            raise ValueError(
                f"No trajectory to read in {folders}, {len(self.skipped)} skipped.{reasons}"
            )
        self.image_sizes = self.sources[0].check_layout(image_size)
        for source in self.sources[1:]:
            sizes = source.check_layout(image_size)
            if sizes != self.image_sizes:
                raise ValueError(
                    f"Expected images {self.image_keys} of (C, H, W) = {self.image_sizes} as in "
                    f"{str(self.sources[0].path)!r}, got {sizes} in {str(source.path)!r}."
                )
        n_negative, n_positive = self.class_counts()
        if not n_negative or not n_positive:
            raise ValueError(
                f"Expected frames of both labels in {folders}, got {n_positive} of label 1 and "
                f"{n_negative} of label 0. Collect trajectories of the other outcome too."
            )

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Read one frame."""
        trajectory, frame = self.locate(index)
        images = self._reader.read(self.sources[trajectory], frame)
        chw = {
            key: torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            for key, image in images.items()
        }
        return chw, torch.tensor(self.labels[index])

    def locate(self, index: int) -> tuple[int, int]:
        """Return the position of a frame's trajectory in `sources`, and its step there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Frame {index} of {len(self)}.")
        index = index % len(self)
        trajectory = int(np.searchsorted(self._starts, index, side="right")) - 1
        return trajectory, index - int(self._starts[trajectory])

    def class_counts(self) -> tuple[int, int]:
        """Return the numbers of frames of label 0 and of label 1."""
        n_positive = int(self.labels.sum(dtype=np.float64))
        return len(self.labels) - n_positive, n_positive

    def pos_weight(self) -> float:
        """Return what makes both labels weigh the same as `pos_weight` of a logistic loss."""
        n_negative, n_positive = self.class_counts()
        return n_negative / n_positive

    def sample_weights(self) -> np.ndarray:
        """Return weights, shape (n,), with which a random sampler draws both labels as often."""
        n_negative, n_positive = self.class_counts()
        return np.where(self.labels == 1, 0.5 / n_positive, 0.5 / n_negative)

    def subset(self, trajectories: Sequence[int] | np.ndarray) -> "RewardDataset":
        """Return the dataset of some trajectories, given by their positions in `sources`.

        Raises:
            ValueError: If all their labels are the same.
        """
        part = copy.copy(self)
        part._reader = FrameReader()
        part._take(
            [self.sources[i] for i in trajectories], self.classes[list(trajectories)].tolist()
        )
        if 0 in part.class_counts():
            raise ValueError(
                f"Expected frames of both labels in {len(part.sources)} trajectories, got only one."
            )
        return part

    def statistics(self) -> list[FolderStatistics]:
        """Return what each folder holds, the negative one first."""
        rows = []
        for kind, (folder, n_skipped) in enumerate(self._folders):
            mine = [s.labels for s, c in zip(self.sources, self.classes, strict=True) if c == kind]
            n_frames = sum(map(len, mine))
            n_label_1 = int(sum((labels >= 0.5).sum() for labels in mine))
            counts = (len(mine), n_frames, n_label_1, n_frames - n_label_1, n_skipped)
            rows.append(FolderStatistics(folder, *counts))
        return rows

    def describe(self) -> str:
        """Return the statistics as a table of text."""
        names = ("folder", "trajectories", "frames", "label 1", "label 0", "skipped")
        table = [names, *(tuple(map(str, row)) for row in self.statistics())]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for folder, *counts in table:
            cells = [f"{cell:>{n}}" for cell, n in zip(counts, widths[1:], strict=True)]
            lines.append("  ".join([f"{folder:<{widths[0]}}", *cells]))
        return "\n".join(lines)


def split_trajectories(
    dataset: RewardDataset, holdout_fraction: float = 0.2, seed: int = 0
) -> tuple[RewardDataset, RewardDataset]:
    """Split into two datasets that share no trajectory, each with its part of both folders.

    Frames of one trajectory resemble each other: were they on both sides, held-out scores would
    tell nothing.

    Args:
        dataset: The dataset.
        holdout_fraction: Share of each folder's trajectories that is held out, in (0, 1), rounded,
            and at least one on either side.
        seed: Decides which.

    Returns:
        The dataset to train on, and the held-out one.

    Raises:
        ValueError: If the fraction is not in (0, 1), a folder has fewer than two trajectories, or
            one side would have frames of one label only.
    """
    if not 0 < holdout_fraction < 1:
        raise ValueError(f"`holdout_fraction` must be in (0, 1), got {holdout_fraction}.")
    rng = np.random.default_rng(seed)
    sides: tuple[list[int], list[int]] = ([], [])
    for kind, statistics in enumerate(dataset.statistics()):
        members = rng.permutation(np.flatnonzero(dataset.classes == kind))
        if len(members) < 2:
            raise ValueError(
                f"Expected at least two trajectories in {statistics.folder!r}, one to train on and "
                f"one to hold out, got {len(members)}. Collect more."
            )
        n_held_out = min(max(1, round(holdout_fraction * len(members))), len(members) - 1)
        sides[1].extend(members[:n_held_out].tolist())
        sides[0].extend(members[n_held_out:].tolist())
    return dataset.subset(sorted(sides[0])), dataset.subset(sorted(sides[1]))
