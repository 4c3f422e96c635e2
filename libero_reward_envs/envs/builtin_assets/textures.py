"""The procedural textures: every pixel is computed here."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

Colour = tuple[int, int, int]
Painter = Callable[[np.random.Generator], np.ndarray]


def _smooth_noise(rng: np.random.Generator, size: int, cells_y: int, cells_x: int) -> np.ndarray:
    """Returns periodic noise in [0, 1], shape (size, size), with that many cells each way."""
    grid = rng.random((cells_y, cells_x))
    rows = np.arange(size) * cells_y / size
    columns = np.arange(size) * cells_x / size
    y0, x0 = rows.astype(int), columns.astype(int)
    ty = rows - y0
    tx = columns - x0
    ty, tx = (ty * ty * (3 - 2 * ty))[:, None], (tx * tx * (3 - 2 * tx))[None, :]
    y1, x1 = (y0 + 1) % cells_y, (x0 + 1) % cells_x
    top = grid[np.ix_(y0, x0)] * (1 - tx) + grid[np.ix_(y0, x1)] * tx
    bottom = grid[np.ix_(y1, x0)] * (1 - tx) + grid[np.ix_(y1, x1)] * tx
    return top * (1 - ty) + bottom * ty


def _shade(colour: Colour, factor: np.ndarray) -> np.ndarray:
    """Returns the colour scaled by `factor`, shape (H, W, 3) uint8."""
    image = np.asarray(colour, dtype=float) * factor[:, :, None]
    return np.clip(image, 0, 255).round().astype(np.uint8)


def plaster(colour: Colour, contrast: float = 0.05, size: int = 128) -> Painter:
    """Returns a painter of a wall with fine grain."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        noise = _smooth_noise(rng, size, 8, 8) + 0.6 * rng.random((size, size))
        return _shade(colour, 1 + contrast * (noise - noise.mean()))

    return paint


def linen(colour: Colour, size: int = 128) -> Painter:
    """Returns a painter of woven cloth."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        across = rng.random((size, 1)) - 0.5
        along = rng.random((1, size)) - 0.5
        return _shade(colour, 1 + 0.1 * across + 0.1 * along)

    return paint


def wood(colour: Colour, size: int = 128, contrast: float = 0.35) -> Painter:
    """Returns a painter of grain running along the image's x."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        bend = _smooth_noise(rng, size, 4, 2)
        y = np.arange(size)[:, None] / size
        rings = 0.5 + 0.5 * np.sin(2 * np.pi * (6 * y + 2.5 * bend))
        fibre = _smooth_noise(rng, size, 64, 4)
        return _shade(colour, 1 + contrast * (0.45 * rings + 0.55 * fibre - 0.5))

    return paint


def planks(colour: Colour, rows: int = 6, size: int = 256) -> Painter:
    """Returns a painter of floor boards with staggered joints."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        factor = 1 + 0.25 * (_smooth_noise(rng, size, 128, 6) - 0.5)
        edges = np.linspace(0, size, rows + 1).astype(int)
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            joint = (i * 97) % size
            for start, stop in ((0, joint), (joint, size)):
                factor[low:high, start:stop] *= 0.85 + 0.3 * rng.random()
            factor[low : low + 2] *= 0.6
            factor[low:high, max(joint - 1, 0) : joint + 1] *= 0.6
        return _shade(colour, factor)

    return paint


def tiles(colour: Colour, joint: Colour, count: int = 4, size: int = 256) -> Painter:
    """Returns a painter of square tiles."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        tile = np.arange(size) * count // size
        tone = 0.94 + 0.12 * rng.random((count, count))
        factor = tone[np.ix_(tile, tile)] + 0.08 * (_smooth_noise(rng, size, 32, 32) - 0.5)
        image = _shade(colour, factor)
        edge = (np.arange(size) * count) % size < 2 * count
        image[edge, :] = joint
        image[:, edge] = joint
        return image

    return paint


def marble(colour: Colour, vein: float = 0.3, size: int = 256) -> Painter:
    """Returns a painter of veined stone."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        field = sum(_smooth_noise(rng, size, n, n) / n for n in (4, 8, 16, 32))
        assert isinstance(field, np.ndarray)
        field = (field - field.min()) / (field.max() - field.min())
        return _shade(colour, 1 - vein * np.exp(-((field - 0.5) ** 2) / 0.002))

    return paint


def wicker(colour: Colour, size: int = 64) -> Painter:
    """Returns a painter of basket weave."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        y, x = np.mgrid[:size, :size] / size * 8
        over = (np.floor(x) + np.floor(y)) % 2 == 0
        strand = np.where(over, np.sin(np.pi * (y % 1)), np.sin(np.pi * (x % 1)))
        return _shade(colour, 0.6 + 0.45 * strand + 0.08 * rng.random((size, size)))

    return paint


def speckled(colour: Colour, size: int = 64) -> Painter:
    """Returns a painter of glaze with light speckles."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        factor = 1 + 0.3 * (_smooth_noise(rng, size, 8, 8) - 0.5)
        factor[rng.random((size, size)) > 0.97] *= 1.8
        return _shade(colour, factor)

    return paint


def label(ground: Colour, band: Colour, ink: Colour, size: int = 64) -> Painter:
    """Returns a painter of a package: a band across, a round mark and lines like small print."""

    def paint(rng: np.random.Generator) -> np.ndarray:
        image = np.empty((size, size, 3), dtype=np.uint8)
        image[:] = ground
        image[size * 3 // 10 : size * 7 // 10] = band
        y, x = np.mgrid[:size, :size]
        mark = (y - size / 2) ** 2 + (x - size * 0.3) ** 2 < (size * 0.14) ** 2
        image[mark] = ink
        for row in (0.40, 0.48, 0.56):
            stop = int(size * (0.72 + 0.2 * rng.random()))
            image[int(size * row) : int(size * row) + 2, int(size * 0.52) : stop] = ink
        return image

    return paint


# LIBERO names these files in its arenas' style tables; all of them exist, so that any style loads.
STYLES: dict[str, Painter] = {
    "dark_floor_texture": planks((70, 55, 48)),
    "rustic_floor": planks((128, 96, 70)),
    "light-gray-floor-tile": tiles((196, 196, 194), (160, 160, 158)),
    "white_marble_floor": marble((232, 230, 226)),
    "seamless_wood_planks_floor": planks((172, 128, 84)),
    "brown_ceramic_tile": tiles((150, 112, 88), (110, 84, 68)),
    "gray_ceramic_tile": tiles((158, 160, 164), (118, 120, 124)),
    "tile_grigia_caldera_porcelain_floor": tiles((176, 172, 166), (140, 138, 134), count=3),
    "light_blue_wall": plaster((166, 196, 222)),
    "dark_blue_wall": plaster((62, 84, 122)),
    "dark_gray_plaster": plaster((104, 104, 106)),
    "gray_plaster": plaster((150, 150, 150)),
    "dark_green_plaster_wall": plaster((62, 92, 72)),
    "light-gray-plaster": plaster((206, 205, 202)),
    "ceramic": marble((214, 206, 196), vein=0.12),
    "white_wall": plaster((240, 239, 236), contrast=0.03),
    "yellow_linen_wall_texture": linen((226, 204, 150)),
}

TEXTURES: dict[str, Painter] = {
    **STYLES,
    "table_wood": wood((196, 150, 98), contrast=0.25, size=256),
    "desk_wood": wood((150, 104, 66), contrast=0.3, size=256),
    "dark_wood": wood((104, 66, 44)),
    "light_wood": wood((206, 166, 112)),
    "red_wood": wood((120, 52, 36)),
    "white_wood": wood((226, 224, 218), contrast=0.1),
    "wicker": wicker((176, 128, 76)),
    "dark_glaze": speckled((44, 44, 50)),
    "brushed_metal": linen((168, 170, 174), size=64),
    "butter_label": label((248, 214, 70), (240, 240, 235), (40, 80, 170)),
    "cream_cheese_label": label((236, 238, 242), (44, 92, 176), (240, 240, 240)),
    "pudding_label": label((92, 54, 34), (214, 178, 128), (70, 34, 20)),
    "cookies_label": label((196, 54, 44), (250, 226, 170), (120, 72, 36)),
    "milk_label": label((244, 244, 246), (46, 108, 196), (244, 244, 246)),
    "juice_label": label((250, 176, 52), (252, 246, 230), (232, 110, 20)),
}


def paint(name: str) -> np.ndarray:
    """Returns a texture, shape (H, W, 3) uint8, the same at every call."""
    seed = int.from_bytes(name.encode(), "little") % (2**63)
    return TEXTURES[name](np.random.default_rng(seed))
