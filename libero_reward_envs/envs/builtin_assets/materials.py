"""The palette: a colour or a texture for everything that is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Args:
        rgba: Colour in [0, 1], shape (4,); it multiplies the texture.
        texture: A key of `TEXTURES`, or empty.
        repeat_per_m: Texture repeats per metre; 0 stretches one copy over each face.
        specular: Strength of highlights, in [0, 1].
        shininess: Sharpness of highlights, in [0, 1].
    """

    rgba: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: str = ""
    repeat_per_m: float = 0.0
    specular: float = 0.2
    shininess: float = 0.3


def _flat(red: float, green: float, blue: float, alpha: float = 1.0) -> Material:
    return Material(rgba=(red, green, blue, alpha))


def _glossy(red: float, green: float, blue: float) -> Material:
    return Material(rgba=(red, green, blue, 1.0), specular=0.6, shininess=0.6)


def _textured(texture: str, repeat_per_m: float = 0.0) -> Material:
    return Material(texture=texture, repeat_per_m=repeat_per_m, specular=0.1)


MATERIALS: dict[str, Material] = {
    "black": _flat(0.06, 0.06, 0.07),
    "black_glaze": _textured("dark_glaze"),
    "black_glaze_inside": _flat(0.24, 0.24, 0.27),
    "blue": _flat(0.13, 0.33, 0.70),
    "cap_green": _flat(0.16, 0.42, 0.16),
    "cork": _flat(0.72, 0.55, 0.38),
    "cream": _flat(0.95, 0.91, 0.80),
    "dark_grey": _flat(0.17, 0.17, 0.18),
    "door_glass": _flat(0.36, 0.38, 0.40),
    "dressing": _flat(0.93, 0.86, 0.62),
    "gold": _glossy(0.86, 0.70, 0.30),
    "grey": _flat(0.55, 0.55, 0.56),
    "herb_dressing": _flat(0.55, 0.62, 0.24),
    "ketchup_red": _glossy(0.74, 0.07, 0.06),
    "lamp_shade": _flat(0.96, 0.90, 0.72),
    "leaf": _flat(0.18, 0.45, 0.20),
    "paper": _flat(0.93, 0.91, 0.85),
    "pan": _flat(0.13, 0.13, 0.14),
    "pan_inside": _flat(0.26, 0.26, 0.28),
    "porcelain": _glossy(0.95, 0.95, 0.93),
    "porcelain_inside": _glossy(0.86, 0.86, 0.84),
    "red": _glossy(0.80, 0.10, 0.09),
    "red_inside": _flat(0.55, 0.06, 0.06),
    "sauce_brown": _glossy(0.25, 0.10, 0.06),
    "silver": Material(rgba=(0.80, 0.81, 0.83, 1.0), specular=0.8, shininess=0.7),
    "tomato": _flat(0.70, 0.13, 0.06),
    "white": _flat(0.95, 0.95, 0.95),
    "wine_glass": _glossy(0.03, 0.13, 0.06),
    "wine_label": _flat(0.94, 0.90, 0.78),
    "yellow": _flat(0.96, 0.76, 0.14),
    "butter": _textured("butter_label"),
    "cookies": _textured("cookies_label"),
    "cream_cheese": _textured("cream_cheese_label"),
    "dark_wood": _textured("dark_wood"),
    "desk_wood": _textured("desk_wood"),
    "juice": _textured("juice_label"),
    "light_wood": _textured("light_wood"),
    "metal": _textured("brushed_metal"),
    "milk": _textured("milk_label"),
    "pudding": _textured("pudding_label"),
    "red_wood": _textured("red_wood"),
    "table_wood": _textured("table_wood"),
    "white_wood": _textured("white_wood"),
    "wicker": _textured("wicker"),
}
