"""Which frames an epoch learns from, and from where in them: drawn subsets, shifted images."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]  # images or features by key, labels


class FrameDraw:
    """Draws part of the frames for each epoch, as frames of one episode resemble each other.

    Balanced, half of them are of label 1, or all of that label if there are fewer; otherwise both
    labels are drawn as often as they occur. Each frame is kept or not by itself, so the number
    varies around `frames_per_epoch`.

    Args:
        n_negative: Frames of label 0.
        n_positive: Frames of label 1.
        frames_per_epoch: How many to draw; None for all.
        balance: Whether to draw both labels as often.

    Attributes:
        probabilities: With which a frame of label 0, and of label 1, is kept.
        positive_share: Expected share of label 1 among the frames kept.

    Example:
        >>> draw = FrameDraw(900, 100, frames_per_epoch=400, balance=True)
        >>> [round(p, 3) for p in draw.probabilities], round(draw.positive_share, 3)
        ([0.333, 1.0], 0.25)
    """

    def __init__(
        self, n_negative: int, n_positive: int, frames_per_epoch: int | None, balance: bool
    ) -> None:
        n_all = n_negative + n_positive
        wanted = n_all if frames_per_epoch is None else min(frames_per_epoch, n_all)
        kept_positive = n_positive * wanted / n_all
        if balance and wanted < n_all:
            kept_positive = min(n_positive, max(wanted / 2, wanted - n_negative))
        kept_negative = wanted - kept_positive
        self.probabilities = (kept_negative / n_negative, kept_positive / n_positive)
        self.positive_share = kept_positive / wanted

    @property
    def keeps_all(self) -> bool:
        """Whether every frame is kept."""
        return self.probabilities == (1.0, 1.0)

    def choose(self, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return which of the frames to keep, shape (n,), bool."""
        negative, positive = self.probabilities
        limits = np.where(labels.numpy() == 1, positive, negative)
        return torch.from_numpy(rng.random(len(labels)) < limits)

    def thin(
        self, batches: Iterable[Batch], batch_size: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """Keep the chosen frames of shuffled batches, in batches of `batch_size` again."""
        waiting: list[Batch] = []
        n_waiting = 0
        for images, labels in batches:
            rows = self.choose(labels, rng)
            # Copies by indexing: the memory of a batch is used again for a later one.
            waiting.append(({key: value[rows] for key, value in images.items()}, labels[rows]))
            n_waiting += int(rows.sum())
            while n_waiting >= batch_size:
                whole, rest = _split(_join(waiting), batch_size)
                waiting, n_waiting = [rest], n_waiting - batch_size
                yield whole
        if n_waiting:
            yield _join(waiting)


def shift_images(
    images: dict[str, torch.Tensor], max_shift_px: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return images that are shifted by up to some pixels each way, their edge rows repeated.

    Args:
        images: By key, each (n, C, H, W); those of one row are shifted alike.
        max_shift_px: The largest shift, in pixels.
        generator: Draws the shifts.
    """
    n = len(next(iter(images.values())))
    shifts = torch.randint(-max_shift_px, max_shift_px + 1, (2, n, 1), generator=generator)
    shifted = {}
    for key, value in images.items():
        height, width = value.shape[-2:]
        down, right = shifts.to(value.device)
        rows = (torch.arange(height, device=value.device) + down).clamp(0, height - 1)
        columns = (torch.arange(width, device=value.device) + right).clamp(0, width - 1)
        number = torch.arange(n, device=value.device)[:, None, None]
        picked = value.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
        shifted[key] = picked.permute(0, 3, 1, 2)
    return shifted


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    keys = parts[0][0]
    images = {key: torch.cat([part[0][key] for part in parts]) for key in keys}
    return images, torch.cat([part[1] for part in parts])


def _split(batch: Batch, n: int) -> tuple[Batch, Batch]:
    images, labels = batch
    first = {key: value[:n] for key, value in images.items()}
    return (first, labels[:n]), ({key: value[n:] for key, value in images.items()}, labels[n:])
