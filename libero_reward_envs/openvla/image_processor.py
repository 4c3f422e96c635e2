"""From pictures to what the vision towers see, exactly as the published image processor."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.openvla.checkpoint_files import find_checkpoint
from libero_reward_envs.openvla.image_resampling import check_images
from libero_reward_envs.openvla.picture_resizer import PictureResizer

PREPROCESSOR_FILE = "preprocessor_config.json"
IMAGE_PROCESSOR_TYPE = "PrismaticImageProcessor"
_BYTES = 256

# A batch of images or one, (n, H, W, 3) or (H, W, 3) uint8; a picture, or several of any sizes.
Images = np.ndarray | Image.Image | Sequence[np.ndarray | Image.Image]


class OpenVLAImageProcessor:
    """Resizes images with Pillow and normalises them for each tower: (x / 255 - mean) / std.

    Bit for bit what `PrismaticImageProcessor` makes of a PIL image, without torchvision. The
    channels of the towers lie behind each other. Where a checkpoint's file states the statistics
    twice, those under `tvf_normalize_params` count, as in the original: in the released checkpoints
    they are ImageNet's rounded to bfloat16.

    The two steps can be taken apart: `resize` on the CPU, `normalize` on any device.

    Args:
        resizer: How pictures are resized, for all towers.
        means: For each tower those of the three channels, for pixels in [0, 1].
        stds: Standard deviations in the same order.

    Raises:
        ValueError: If there is no tower, or a statistic is not three finite numbers, the standard
            deviations positive.

    Example:
        >>> half = [(0.5, 0.5, 0.5)]
        >>> resizer = PictureResizer.make("resize-naive", (28, 28), half[0])
        >>> processor = OpenVLAImageProcessor(resizer, half, half)
        >>> tuple(processor(np.zeros((2, 64, 48, 3), np.uint8)).shape)
        (2, 3, 28, 28)
    """

    def __init__(
        self,
        resizer: PictureResizer,
        means: Sequence[Sequence[float]],
        stds: Sequence[Sequence[float]],
    ) -> None:
        mean, std = np.array(means, np.float32), np.array(stds, np.float32)
        for name, values in (("means", mean), ("stds", std)):
            if values.shape != (max(len(means), 1), 3) or not np.isfinite(values).all():
                raise ValueError(
                    f"Expected `{name}` as three finite numbers a tower, got {values.tolist()}."
                )
        if not (std > 0).all():
            raise ValueError(f"Expected positive standard deviations, got {std.tolist()}.")
        self.resizer = resizer
        self.means = [[float(value) for value in tower] for tower in means]
        self.stds = [[float(value) for value in tower] for tower in stds]
        scaled = np.arange(_BYTES, dtype=np.float32) / np.float32(255)
        table = (scaled - mean.reshape(-1, 1)) / std.reshape(-1, 1)
        self._table = torch.from_numpy(table)  # what each byte becomes, by channel
        self._stored: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "OpenVLAImageProcessor":
        """Read a checkpoint's `preprocessor_config.json`; no code that lies beside it is run.

        Args:
            name_or_path: Folder, Hub id, or the name of the tiny model.
            options: As of `checkpoint_files.find_checkpoint`.

        Raises:
            FileNotFoundError: If there is no such checkpoint, or it has no such file.
            ValueError: If the file is damaged or asks for something that is not known.
        """
        path = find_checkpoint(name_or_path, weights=False, **options) / PREPROCESSOR_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected {PREPROCESSOR_FILE} in {str(path.parent)!r}, found none. Copy it from "
                "the checkpoint that this one was made of."
            )
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise ValueError(f"expected an object, got {type(stored).__name__}")
            return cls.from_json(stored)
        except KeyError as error:
            raise ValueError(f"{path} has no entry {error}.") from error
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path} cannot be used: {error}") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "OpenVLAImageProcessor":
        """Make one from the contents of a `preprocessor_config.json`."""
        n_towers = len(stored["input_sizes"])
        resizers = {PictureResizer.from_json(stored, tower) for tower in range(n_towers)}
        if len(resizers) != 1:
            raise ValueError(f"expected towers that resize alike, got {resizers or 'none'}")
        applied = stored.get("tvf_normalize_params")
        means, stds = (
            [tower[key] for tower in applied] if applied else stored[f"{key}s"]
            for key in ("mean", "std")
        )
        if len(means) != n_towers or len(stds) != n_towers:
            raise ValueError(f"expected statistics of {n_towers} towers, got {len(means)}")
        made = cls(resizers.pop(), means, stds)
        made._stored = dict(stored)
        return made

    def as_json(self) -> dict[str, Any]:
        """Return a `preprocessor_config.json`, the one that was read if there was one."""
        if self._stored is not None:
            return self._stored
        of_tower, of_all = self.resizer.as_json()
        statistics = [
            {"inplace": False, "mean": mean, "std": std}
            for mean, std in zip(self.means, self.stds, strict=True)
        ]
        return {
            "image_processor_type": IMAGE_PROCESSOR_TYPE,
            "use_fused_vision_backbone": len(self.means) > 1,
            **of_all,
            **{name: [value] * len(self.means) for name, value in of_tower.items()},
            "means": self.means,
            "stds": self.stds,
            "tvf_normalize_params": statistics,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into a folder, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n"
        write_atomically(folder / PREPROCESSOR_FILE, [text.encode()])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the towers' images, in pixels."""
        return self.resizer.size

    @property
    def n_channels(self) -> int:
        """Channels of one view: three for each tower."""
        return len(self._table)

    def __call__(
        self,
        images: Images,
        *other_views: Images,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Return the towers' input, (n, 3 * towers * views, H, W), from `resize` and `normalize`.

        Args:
            images: n images of one camera: (n, H, W, 3) or (H, W, 3) uint8, or a PIL image, or a
                sequence of these of any sizes.
            other_views: The same of further cameras, each n images of the same moments.
            device: Where the result is made; the CPU if None.
            dtype: Its type; values are rounded from float32.

        Raises:
            ValueError: If images are of another type or shape, or the views differ in number.
        """
        views = [self.resize(view) for view in (images, *other_views)]
        lengths = [len(view) for view in views]
        if len(set(lengths)) != 1:
            raise ValueError(f"Expected as many images of each camera, got {lengths}.")
        made = [self.normalize(view, device=device, dtype=dtype) for view in views]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def resize(self, images: Images) -> np.ndarray:
        """Return images at the towers' size, (n, H, W, 3) uint8; themselves if they have it.

        Pillow lets other threads run meanwhile.

        Args:
            images: As of `__call__`.

        Raises:
            ValueError: If they are of another type or shape.
        """
        batch = _as_batch(images)
        if isinstance(batch, np.ndarray) and self.resizer.keeps(*batch.shape[1:3]):
            return batch
        resized = np.empty((len(batch), *self.size, 3), np.uint8)
        for row, image in zip(resized, batch, strict=True):
            picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            row[:] = np.asarray(self.resizer(picture))
        return resized

    def normalize(
        self,
        resized: np.ndarray | torch.Tensor,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Return the towers' input of one view, (n, 3 * towers, H, W).

        Every byte is looked up in a table, so that the result is the same on all devices. What
        moves there is an eighth of the result in float32.

        Args:
            resized: (n, H, W, 3) uint8, what `resize` returned, or a tensor of it.
            device: Where to do it; where `resized` is if None.
            dtype: Type of the result; values are rounded from float32.
        """
        if isinstance(resized, np.ndarray):  # torch takes neither flipped nor read-only arrays
            resized = np.require(resized, requirements=["C", "W"])
        pixels = torch.as_tensor(resized)
        pixels = pixels.to(device if device is not None else pixels.device)
        table = self._table.to(pixels.device, dtype)
        colours = [pixels[..., colour].int().flatten() for colour in range(3)]
        made = torch.empty(
            (len(pixels), self.n_channels, *pixels.shape[1:3]), dtype=dtype, device=pixels.device
        )
        for channel in range(self.n_channels):
            values = table[channel].index_select(0, colours[channel % 3])
            made[:, channel] = values.view(pixels.shape[:3])
        return made


def _as_batch(images: Images) -> np.ndarray | list[np.ndarray | Image.Image]:
    """Return checked images as (n, H, W, 3), or one by one, pictures as RGB."""
    if isinstance(images, np.ndarray):
        batch = images[None] if images.ndim == 3 and images.shape[2] == 3 else images
        check_images(batch)
        return batch
    pictures: list[Any] = [images] if isinstance(images, Image.Image) else list(images)
    if not pictures:
        raise ValueError("Expected at least one image, got none.")
    for index, picture in enumerate(pictures):
        if isinstance(picture, Image.Image):
            pictures[index] = picture.convert("RGB")
        elif isinstance(picture, np.ndarray):
            check_images(picture[None])
        else:
            raise ValueError(
                "Expected images as NumPy arrays of uint8 or as PIL images, got "
                f"{type(picture).__name__}."
            )
    return pictures
