"""Shuffled batches of labelled frames, streamed from disk."""

import logging
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.hdf5_frames import OpenFiles

logger = logging.getLogger(__name__)

_WINDOW = 64  # trajectories whose datasets are open at once
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class FrameStream(IterableDataset[Batch]):
    """Yields every frame of a dataset once an epoch, in shuffled batches.

    Trajectories are taken in a shuffled order, 64 at a time; the parts in which their files are
    stored are shuffled too, and each is read once. Frames are shuffled within blocks of
    `buffer_frames`; memory holds about two of them, whatever the size of the data, and keeps them
    for the next pass, because touching new memory takes time. Give it to
    `DataLoader(stream, batch_size=None, num_workers=...)`; workers share the trajectories, and a
    seed, an epoch and a number of workers always give the same batches.

    A batch is (images by key, (B, C, H, W) uint8; labels, (B,) float32). Images lie in memory with
    the channels last. Parts that turn out to be damaged are named in the log and skipped.

    Args:
        dataset: Where the frames are.
        batch_size: B; the last batch of an epoch may be smaller.
        buffer_frames: Frames that are shuffled together, in each worker.
        seed: Decides the order, with the epoch.
        drop_last: Whether to leave out batches of fewer than `batch_size` frames, of which there
            is at most one a worker.

    Raises:
        ValueError: If a number is not positive, or the buffer is smaller than a batch.

    Example:
        stream = FrameStream(dataset, batch_size=128)
        for epoch in range(10):
            stream.set_epoch(epoch)
            for images, labels in DataLoader(stream, batch_size=None, num_workers=2):
                ...
    """

    def __init__(
        self,
        dataset: RewardDataset,
        *,
        batch_size: int = 32,
        buffer_frames: int = 1024,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if not 1 <= batch_size <= buffer_frames:
            raise ValueError(
                f"Expected 1 <= `batch_size` <= `buffer_frames`, got {batch_size}, {buffer_frames}."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.buffer_frames = buffer_frames
        self.seed = seed
        self.drop_last = drop_last
        # Shared, so that workers which outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._spare_blocks: list[_Block] = []

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_spare_blocks": []}  # a worker process makes its own

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; without it every pass has the same."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """Read the frames of this worker, or all without workers."""
        info = get_worker_info()
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        entropy = [self.seed, int(self._epoch)]
        order = np.random.default_rng(entropy).permutation(len(self.dataset.sources))
        rng = np.random.default_rng([*entropy, n_workers, worker])
        mine = order[worker::n_workers]
        n_left = sum(len(self.dataset.sources[index].labels) for index in mine.tolist())
        # In whole batches, so that only the last batch of the epoch is a smaller one.
        capacity = min(self.buffer_frames, len(self.dataset) + self.batch_size)
        capacity = capacity // self.batch_size * self.batch_size
        blocks = [self._take_block(capacity) for _ in range(2)]
        blocks[0].empty(rng, n_left)
        for images, labels in self._read(mine, rng):
            taken = 0
            while taken < len(labels):
                rest = {key: pixels[taken:] for key, pixels in images.items()}
                n_added = blocks[0].add(rest, labels[taken:])
                taken, n_left = taken + n_added, n_left - n_added
                if blocks[0].is_full:
                    yield from self._cut(blocks[0])
                    blocks.reverse()
                    if not blocks[0].is_free:  # somebody keeps batches of it
                        blocks[0] = _Block(self.dataset, capacity)
                    blocks[0].empty(rng, n_left)
        yield from self._cut(blocks[0])  # what damaged parts left unfilled
        self._spare_blocks = blocks

    def _take_block(self, capacity: int) -> "_Block":
        """Return a block of the pass before, unless its batches are in use, or a new one."""
        while self._spare_blocks:
            block = self._spare_blocks.pop()
            if block.is_free and block.capacity == capacity:
                return block
        return _Block(self.dataset, capacity)

    def _cut(self, block: "_Block") -> Iterator[Batch]:
        for images, labels in block.batches(self.batch_size):
            if len(labels) == self.batch_size or not self.drop_last:
                yield images, labels
            del images, labels

    def _read(
        self, trajectories: np.ndarray, rng: np.random.Generator
    ) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        files = OpenFiles()  # opened here, in the process that reads
        n_read = 0
        try:
            for first in range(0, len(trajectories), _WINDOW):
                parts = self._list_parts(trajectories[first : first + _WINDOW])
                for index, start, stop in rng.permutation(parts).tolist():
                    source = self.dataset.sources[index]
                    try:
                        images = source.read(start, stop, files)
                    except (OSError, RuntimeError, KeyError, ValueError) as error:
                        logger.warning(
                            "Frames %d to %d of trajectory %s in %r are skipped: %s",
                            *(start, stop - 1, source.name, str(source.path), error),
                        )
                        continue
                    n_read += stop - start
                    yield images, source.labels[start:stop] >= 0.5
        finally:
            files.close()
        if len(trajectories) and not n_read:
            raise ValueError("No part of the data could be read, the log names what is damaged.")

    def _list_parts(self, trajectories: np.ndarray) -> np.ndarray:
        """Return (trajectory, first frame, frame after the last) of each part, shape (p, 3)."""
        parts = []
        for index in trajectories.tolist():
            source = self.dataset.sources[index]
            starts = source.part_starts
            stops = np.append(starts[1:], len(source.labels))
            parts.append(np.stack([np.full(len(starts), index), starts, stops], axis=1))
        return np.concatenate(parts)


class _Block:
    """As many frames as are shuffled together, each put where its batch will be.

    Blocks are used again: touching new memory costs more than copying the frames into it.
    """

    def __init__(self, dataset: RewardDataset, capacity: int) -> None:
        self._images = {
            key: np.empty((capacity, height, width, channels), np.uint8)
            for key, (channels, height, width) in zip(
                dataset.image_keys, dataset.image_sizes, strict=True
            )
        }
        self._labels = np.empty(capacity, np.float32)
        self._views: list[weakref.ref[np.ndarray]] = []
        self._slots = np.empty(0, np.int64)
        self._length = 0

    @property
    def capacity(self) -> int:
        return len(self._labels)

    def empty(self, rng: np.random.Generator, n_frames: int) -> None:
        """Begin anew, with other places for the next `n_frames`, or as many as there is room."""
        self._slots = rng.permutation(min(n_frames, self.capacity))
        self._length = 0
        self._views.clear()

    @property
    def is_free(self) -> bool:
        """Whether all batches that share its memory are gone; a tensor keeps its array alive."""
        return all(view() is None for view in self._views)

    @property
    def is_full(self) -> bool:
        return self._length == len(self._slots)

    def add(self, images: dict[str, np.ndarray], labels: np.ndarray) -> int:
        """Take as many of the frames as there is room for, and return their number."""
        slots = self._slots[self._length : self._length + len(labels)]
        for key, target in self._images.items():
            target[slots] = images[key][: len(slots)]
        self._labels[slots] = labels[: len(slots)]
        self._length += len(slots)
        return len(slots)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return views of the frames, in the order of their slots."""
        n = len(self._slots)
        images, labels = {key: pixels[:n] for key, pixels in self._images.items()}, self._labels[:n]
        if not self.is_full:
            used = np.sort(self._slots[: self._length])
            images = {key: pixels[used] for key, pixels in images.items()}
            labels = labels[used]
        self._slots, self._length = self._slots[:0], 0
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            parts = {key: array[rows] for key, array in {**images, "": labels}.items()}
            self._views += [weakref.ref(part) for part in parts.values()]
            batch_labels = torch.from_numpy(parts.pop(""))
            batch = {key: torch.from_numpy(a).permute(0, 3, 1, 2) for key, a in parts.items()}
            parts.clear()
            yield batch, batch_labels
            del batch, batch_labels
