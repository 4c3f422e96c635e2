"""What a success classifier learns from: images from disk, or a frozen trunk's features of them."""

import logging
import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from libero_reward_envs.data.frame_stream import FrameStream
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.hdf5_frames import OpenFiles
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.frame_draw import Batch, FrameDraw, shift_images
from libero_reward_envs.reward_models.frame_scores import FrameScores

logger = logging.getLogger(__name__)

_MAX_ROWS = 256  # a forward pass without gradients
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)

Features = dict[str, torch.Tensor]  # by key, each (n, 512, h, w)
Labelled = tuple[Features, torch.Tensor, torch.Tensor]  # and labels (n,), trajectories (n,)


class ClassifierBatches:
    """Gives a network features in shuffled batches to learn from, and scores held-out frames.

    A frozen trunk sees every frame once: its features are kept in memory if they fit. Otherwise
    images are read from disk in every epoch, and may be shifted. Trajectories that turn out to be
    damaged are named in the log and left out.

    Args:
        classifier: The network, where it computes.
        train: Frames to learn from.
        holdout: Frames to be scored.
        batch_size: Frames a batch.
        seed: Decides the order, with the epoch.
        n_workers: Processes that read; 0 for this one.
        max_cache_bytes: How much memory features may take.
        draw: Which frames each epoch gives.
        max_shift_px: By how much images are shifted at random in training, in pixels.

    Attributes:
        keeps_features: Whether features are kept in memory.
        draw: As above.
    """

    def __init__(
        self,
        classifier: BinaryRewardClassifier,
        train: RewardDataset,
        holdout: RewardDataset,
        *,
        batch_size: int,
        seed: int,
        n_workers: int,
        max_cache_bytes: int,
        draw: FrameDraw,
        max_shift_px: int = 0,
    ) -> None:
        self._classifier, self._train, self._holdout = classifier, train, holdout
        self._batch_size, self._seed = batch_size, seed
        self.draw, self._max_shift_px = draw, max_shift_px
        self._device = next(classifier.parameters()).device
        blocks = 2 * max(1, 1024 // batch_size)
        stream = FrameStream(
            train, batch_size=batch_size, buffer_frames=blocks * batch_size, seed=seed
        )
        self._stream = stream
        # A generator of its own: the loader would draw from torch's global one.
        generator = torch.Generator().manual_seed(seed)
        self._loader = DataLoader(
            stream, batch_size=None, num_workers=n_workers, generator=generator
        )
        n_bytes = (len(train) + len(holdout)) * _count_bytes(classifier)
        self.keeps_features = (
            classifier.freeze_encoder and n_bytes <= max_cache_bytes and not max_shift_px
        )
        self._kept: tuple[Labelled, Labelled] | None = None

    def iterate(self, epoch: int) -> Iterator[tuple[Features, torch.Tensor]]:
        """Return features and labels, (B,) float32, of an epoch's batches, on the device."""
        rng = np.random.default_rng([self._seed, epoch])
        if not self.keeps_features:
            for images, labels in self._read_images(epoch, rng):
                yield self._compute_features(images), labels.to(self._device)
            return
        features, labels, _ = self._keep()[0]
        order = rng.permutation(len(labels))
        if not self.draw.keeps_all:
            order = order[self.draw.choose(labels[torch.from_numpy(order)], rng).numpy()]
        for rows in torch.from_numpy(order).split(self._batch_size):
            part = {key: value[rows].to(self._device) for key, value in features.items()}
            yield part, labels[rows].to(self._device)

    def _read_images(self, epoch: int, rng: np.random.Generator) -> Iterator[Batch]:
        self._stream.set_epoch(epoch)
        batches: Iterator[Batch] = iter(self._loader)
        if not self.draw.keeps_all:
            batches = self.draw.thin(batches, self._batch_size, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        for images, labels in batches:
            if self._max_shift_px:
                images = shift_images(images, self._max_shift_px, generator)
            yield images, labels

    def score(self) -> FrameScores:
        """Return the logits of all held-out frames, in evaluation mode, whatever it was before."""
        was_training = self._classifier.training
        self._classifier.eval()
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        with torch.no_grad():
            held_out = [self._keep()[1]] if self.keeps_features else self._read(self._holdout)
            for features, labels, trajectories in held_out:
                logits = [
                    self._classifier.classify(self._rows(features, rows)).cpu()
                    for rows in torch.arange(len(labels)).split(_MAX_ROWS)
                ]
                parts.append((torch.cat(logits).numpy(), labels.numpy(), trajectories.numpy()))
        self._classifier.train(was_training)
        logits, labels, trajectories = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return FrameScores(logits.astype(np.float64), labels == 1, trajectories)

    def _rows(self, features: Features, rows: torch.Tensor) -> Features:
        return {key: value[rows].to(self._device) for key, value in features.items()}

    def _keep(self) -> tuple[Labelled, Labelled]:
        if self._kept is None:
            with torch.no_grad():
                self._kept = (
                    _join(self._read(self._train), len(self._train)),
                    _join(self._read(self._holdout), len(self._holdout)),
                )
        return self._kept

    def _compute_features(self, images: dict[str, torch.Tensor]) -> Features:
        return self._classifier.compute_features(
            {key: value.to(self._device) for key, value in images.items()}
        )

    def _read(self, dataset: RewardDataset) -> Iterator[Labelled]:
        """Return features, on the CPU if they are to be kept, in the order of the dataset."""
        files, n_read = OpenFiles(), 0
        target = "cpu" if self.keeps_features else self._device
        try:
            for number, source in enumerate(dataset.sources):
                for start in range(0, len(source.labels), _MAX_ROWS):
                    stop = min(start + _MAX_ROWS, len(source.labels))
                    try:
                        images = source.read(start, stop, files)
                    except _DAMAGE as error:
                        logger.warning(
                            "Frames %d to %d of trajectory %s in %r are left out: %s",
                            *(start, stop - 1, source.name, str(source.path), error),
                        )
                        continue
                    chw = {
                        key: torch.from_numpy(np.ascontiguousarray(value)).permute(0, 3, 1, 2)
                        for key, value in images.items()
                    }
                    features = self._compute_features(chw)
                    labels = torch.from_numpy((source.labels[start:stop] >= 0.5).astype(np.float32))
                    n_read += stop - start
                    features = {key: value.to(target) for key, value in features.items()}
                    yield features, labels, torch.full((stop - start,), number)
        finally:
            files.close()
        if not n_read:
            raise ValueError("No frame could be read, the log names what is damaged.")


def _join(parts: Iterator[Labelled], n_frames: int) -> Labelled:
    """Return all parts in one, without holding them twice."""
    kept: Features = {}
    labels, trajectories = torch.empty(n_frames), torch.empty(n_frames, dtype=torch.int64)
    n = 0
    for features, *rest in parts:
        rows = slice(n, n + len(rest[0]))
        for key, value in features.items():
            if key not in kept:
                kept[key] = value.new_empty((n_frames, *value.shape[1:]))
            kept[key][rows] = value
        labels[rows], trajectories[rows] = rest
        n = rows.stop
    return {key: value[:n] for key, value in kept.items()}, labels[:n], trajectories[:n]


def _count_bytes(classifier: BinaryRewardClassifier) -> int:
    """Return the size of a frame's features and label."""
    kernels = [
        cast("torch.Tensor", classifier.get_parameter(f"encoders.{key}.pooling_layer.kernel"))
        for key in classifier.image_keys
    ]
    return sum(4 * math.prod(kernel.shape[:3]) for kernel in kernels) + 16
