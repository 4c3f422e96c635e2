"""Frames of success as pictures, to see what a classifier is to learn."""

from pathlib import Path

import numpy as np
from PIL import Image

from libero_reward_envs.data.frames import RewardDataset


def visualize_positive(
    dataset: RewardDataset, out_dir: str | Path, *, max_images: int | None = None
) -> list[Path]:
    """Write the frames of label 1 as `<folder>_<trajectory>_frame<step of three digits>.png`.

    With several image keys, `_<key>` follows the step. Pictures of the same name are replaced.

    Args:
        dataset: The dataset.
        out_dir: Where to write; made if it is not there.
        max_images: How many frames to write, the first ones; None for all.

    Returns:
        The paths.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in np.flatnonzero(dataset.labels == 1)[:max_images].tolist():
        trajectory, frame = dataset.locate(index)
        source = dataset.sources[trajectory]
        for key, image in dataset[index][0].items():
            ending = "" if len(dataset.image_keys) == 1 else f"_{key.replace('/', '-')}"
            name = f"{source.folder}_{source.name}_frame{frame:03d}{ending}.png"
            pixels = image.numpy().transpose(1, 2, 0)
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / name)
            paths.append(folder / name)
    return paths
