"""How the published image processor brings pictures to the size that the vision towers see."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps

from libero_reward_envs.openvla.config import RESIZE_STRATEGIES

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_BY_CODE = {int(code): name for name, code in _INTERPOLATIONS.items()}
_MAX_SIDE = 4096  # of towers; memory is set aside by what a file says


@dataclasses.dataclass(frozen=True)
class PictureResizer:
    """Pads to a square, resizes, and cuts out the middle, in Pillow's 8 bits.

    Args:
        size: (height, width) of the result, in pixels.
        resize: What is resized to: (height, width), or the length of the shorter side, which keeps
            the aspect ratio.
        interpolation: Pillow's name of it; larger pictures are averaged over.
        fill: Colour of the padding, three bytes; None for no padding.

    Raises:
        ValueError: If the interpolation is unknown or a size is not one.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        resize = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        for side in (*self.size, *resize):
            if not 1 <= side <= _MAX_SIDE:
                raise ValueError(f"Expected sizes from 1 to {_MAX_SIDE} pixels, got {side}.")
        if any(cut > side for cut, side in zip(self.size, resize, strict=True)):
            raise ValueError(f"Cannot cut {self.size} out of a picture resized to {resize}.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"Unknown interpolation {self.interpolation!r}. "
                f"Choose one of: {', '.join(_INTERPOLATIONS)}."
            )

    @classmethod
    def make(
        cls,
        strategy: str,
        size: tuple[int, int],
        mean: Sequence[float],
        interpolation: str = "bicubic",
    ) -> "PictureResizer":
        """Make one by the name of a strategy.

        Args:
            strategy: "resize-naive" stretches, "letterbox" pads to a square with the mean colour,
                "resize-crop" cuts off what is longer.
            size: (height, width) of the result.
            mean: Mean colour, in [0, 1].
            interpolation: Pillow's name of it.

        Raises:
            ValueError: If the strategy is unknown.
        """
        if strategy not in RESIZE_STRATEGIES:
            raise ValueError(
                f"Unknown `image_resize_strategy` {strategy!r}. "
                f"Choose one of: {', '.join(RESIZE_STRATEGIES)}."
            )
        red, green, blue = (int(value * 255) for value in mean)
        fill = (red, green, blue) if strategy == "letterbox" else None
        return cls(size, size if strategy == "resize-naive" else min(size), interpolation, fill)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], tower: int) -> "PictureResizer":
        """Read a tower's from the contents of a `preprocessor_config.json`.

        What stands under `tvf_...` is what the original applies. Where that is missing the original
        makes it from the other entries, and so does this.
        """
        channels, height, width = stored["input_sizes"][tower]
        if channels != 3:
            raise ValueError(f"expected images of 3 channels, got {channels}")
        strategy = stored.get("image_resize_strategy", "letterbox")
        # One padded picture serves all towers; its colour is the last one's.
        mean, interpolation = stored["means"][-1], stored["interpolations"][tower]
        made = cls.make(strategy, (int(height), int(width)), mean, interpolation)
        if resizing := stored.get("tvf_resize_params"):
            code = resizing[tower].get("interpolation", int(_INTERPOLATIONS["bicubic"]))
            made = dataclasses.replace(
                made,
                resize=_read_size(resizing[tower]["size"]),
                interpolation=_BY_CODE.get(code, str(code)),
            )
        if crops := stored.get("tvf_crop_params"):
            height, width = crops[tower]["output_size"]
            made = dataclasses.replace(made, size=(int(height), int(width)))
        if stored.get("tvf_do_letterbox") is False:
            made = dataclasses.replace(made, fill=None)
        elif fill := stored.get("tvf_letterbox_fill"):
            red, green, blue = (int(value) for value in fill)
            made = dataclasses.replace(made, fill=(red, green, blue))
        return made

    def as_json(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return `preprocessor_config.json`'s entries, those of one tower and those of all."""
        both = isinstance(self.resize, tuple)
        of_tower = {
            "input_sizes": [3, *self.size],
            "interpolations": self.interpolation,
            "tvf_resize_params": {
                "antialias": True,
                "interpolation": int(_INTERPOLATIONS[self.interpolation]),
                "max_size": None,
                "size": [*self.resize] if isinstance(self.resize, tuple) else self.resize,
            },
            "tvf_crop_params": {"output_size": list(self.size)},
        }
        other = "resize-crop" if self.fill is None else "letterbox"
        of_all = {
            "image_resize_strategy": "resize-naive" if both and self.fill is None else other,
            "tvf_do_letterbox": self.fill is not None,
            "tvf_letterbox_fill": None if self.fill is None else list(self.fill),
        }
        return of_tower, of_all

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return an RGB picture of the size wanted."""
        if self.fill is not None:
            longest = max(picture.size)
            across, down = (int((longest - side) / 2) for side in picture.size)
            picture = ImageOps.expand(picture, (across, down, across, down), fill=self.fill)
        width, height = self._find_size(*picture.size)
        if picture.size != (width, height):
            picture = picture.resize((width, height), _INTERPOLATIONS[self.interpolation])
        left, top = round((width - self.size[1]) / 2), round((height - self.size[0]) / 2)
        if (left, top, width, height) == (0, 0, *self.size[::-1]):
            return picture
        return picture.crop((left, top, left + self.size[1], top + self.size[0]))

    def keeps(self, height: int, width: int) -> bool:
        """Whether pictures of this size stay as they are."""
        unpadded = self.fill is None or height == width
        found = self._find_size(width, height)
        return unpadded and found == (width, height) and (height, width) == self.size

    def _find_size(self, width: int, height: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize


def _read_size(stored: Any) -> int | tuple[int, int]:
    """Return what torchvision takes a size for: one number is the shorter side, two are both."""
    if isinstance(stored, int):
        return stored
    if len(stored) == 1:
        return int(stored[0])
    height, width = stored
    return int(height), int(width)
