"""Bowls, plates, mugs, the pan, the moka pot and the wine bottle.

Every figure is measured: radii and heights of the official collision walls, in the object's frame.
Round walls are rings of boxes, so that the inside is really hollow and a rim can be gripped.
"""

from __future__ import annotations

from libero_reward_envs.envs.builtin_assets.inertials import INERTIALS
from libero_reward_envs.envs.builtin_assets.model import Body, ObjectModel
from libero_reward_envs.envs.builtin_assets.shapes import (
    Shape,
    box,
    cylinder,
    disc,
    ring,
    rod,
    slab,
)


def _model(
    folder: str, name: str, solids: list[Shape], looks: list[tuple[str, list[Shape]]]
) -> ObjectModel:
    body = Body("object", inertial=INERTIALS[name], solids=solids, looks=list(looks))
    return ObjectModel(f"{folder}/{name}/{name}.xml", body)


def _bowl_cone(scale: float) -> list[Shape]:
    """Returns the wide cone between foot and wall.

    It sags by half a millimetre towards +y, as the official one does: when the bowl lands on a
    ramekin, this decides to which side it tips.
    """
    cone: list[Shape] = []
    for sag, directions_deg in (
        (0.00045, (90,)),
        (0.00025, (116,)),
        (0.0001, (141,)),
        (0.0, (166.3, 190.9, 216.5, 242.3, 267.9, 293.8, 318.9, 344.2, 0.4, 24.9, 49.9, 69.8)),
    ):
        low = (0.02320 * scale, (0.00391 - sag) * scale)
        high = (0.04376 * scale, (0.01577 - sag) * scale)
        twist_deg = 0.0 if sag > 0.0003 else -0.7
        width = 0.00992 * scale
        cone += ring((0, 0), low, high, 0.00142 * scale, directions_deg, width, twist_deg)
    return cone


def _bowl(name: str, scale: float, foot: list[Shape], material: str) -> ObjectModel:
    """Returns a bowl: a foot, a wide cone and a steep wall.

    Args:
        name: Of the model.
        scale: Size of the cone and the wall, 1 for the larger bowl.
        foot: What the bowl stands on.
        material: Of the outside; the inside is `material` with `_inside`.
    """
    cone = _bowl_cone(scale)
    wall_ends = ((0.0424, 0.0159), (0.0519, 0.0521)) if scale == 1 else _WHITE_BOWL_WALL
    wall = ring(
        (0, 0),
        *wall_ends,
        thickness=0.0026 * scale,
        directions_deg=[90 + 20.9 * i for i in range(17)] + [77],
        half_width=0.00934 * scale,
    )
    steps = ((0.0290, 0.0016, 0.0068), (0.0360, 0.0068, 0.0112), (0.0420, 0.0112, 0.0150))
    outside = [
        cylinder((0, 0, (low + high) / 2 * scale), radius * scale, (high - low) / 2 * scale)
        for radius, low, high in steps
    ]
    inside = cylinder((0, 0, 0.0148 * scale), 0.0405 * scale, 0.0005)
    drawn = ring((0, 0), *wall_ends, 0.0026 * scale, range(0, 360, 24))
    looks = [(material, [*outside, *drawn]), (f"{material}_inside", [inside])]
    return _model("stable_scanned_objects", name, [*foot, *cone, *wall], looks)


# (radius, height) of the lower and the upper end.
_WHITE_BOWL_WALL = ((0.0322, 0.0109), (0.0393, 0.0351))


def akita_black_bowl() -> ObjectModel:
    """Returns the dark bowl that most tasks are about."""
    foot = [
        slab((-0.0162, -0.0245, 0.0016), (0.0162, 0.0223, 0.0068)),
        slab((-0.0226, -0.0153, 0.0016), (0.0232, 0.0155, 0.0068)),
    ]
    return _bowl("akita_black_bowl", 1.0, foot, "black_glaze")


def white_bowl() -> ObjectModel:
    """Returns the small white bowl."""
    foot = [slab((-0.0173, -0.0164, 0.0006), (0.0173, 0.0166, 0.0042))]
    return _bowl("white_bowl", 0.714, foot, "porcelain")


def plate() -> ObjectModel:
    """Returns the plate: a flat middle and a rim that rises outwards."""
    middle = box((0, 0, 0.00313), (0.02851, 0.03057, 0.00222), ("y", -1.47))
    rim = ring(
        (0, 0),
        (0.03025, 0.00055),
        (0.06631, 0.01337),
        thickness=0.00508,
        directions_deg=(90, 90, 47.9, 3.7, 319.2, 272.7, 226.3, 181.5, 135.5),
        half_width=0.02851,
        twist_deg=-1.47,
    )
    drawn = ring((0, 0), (0.0303, 0.0006), (0.0663, 0.0134), 0.0051, range(0, 360, 24))
    floor = cylinder((0, 0, 0.0030), 0.0325, 0.0026)
    looks = [("porcelain", drawn), ("porcelain_inside", [floor])]
    return _model("stable_scanned_objects", "plate", [middle, *rim], looks)


_RAMEKIN = (
    *(1.0, 26.0, 48.4, 71.7, 91.5, 116.8, 141.2, 161.8),
    *(180.6, 204.3, 226.7, 249.3, 270.0, 295.7, 320.5, 341.6),
)


def glazed_rim_porcelain_ramekin() -> ObjectModel:
    """Returns the ramekin."""
    base = disc((0, 0, 0.0040), 0.0345, 0.0032)
    wall = ring(
        (0, 0),
        (0.03514, 0.00104),
        (0.04134, 0.04228),
        thickness=0.0052,
        directions_deg=_RAMEKIN,
        half_width=0.00948,
    )
    floor = cylinder((0, 0, 0.0042), 0.0350, 0.0032)
    drawn = ring((0, 0), (0.03514, 0.00104), (0.04134, 0.04228), 0.0052, range(0, 360, 24))
    looks = [("porcelain", drawn), ("porcelain_inside", [floor])]
    name = "glazed_rim_porcelain_ramekin"
    return _model("stable_scanned_objects", name, [*base, *wall], looks)


def chefmate_8_frypan() -> ObjectModel:
    """Returns the frying pan, its handle along x."""
    axis = (0.0065, -0.0005)
    base = disc((*axis, 0.0066), 0.0790, 0.0058)
    wall = ring(axis, (0.0786, 0.0038), (0.1005, 0.0402), 0.0071, [22.5 * i for i in range(16)])
    handle = [
        rod((0.1010, 0, 0.0160), (0.1420, 0, 0.0360), half_width=0.0110, half_depth=0.0080),
        rod((0.1270, 0, 0.0356), (0.2585, 0, 0.0526), half_width=0.0127, half_depth=0.0062),
    ]
    floor = cylinder((*axis, 0.0068), 0.0790, 0.0058)
    looks = [("pan", [*wall, *handle]), ("pan_inside", [floor])]
    return _model("stable_scanned_objects", "chefmate_8_frypan", [*base, *wall, *handle], looks)


def _mug(
    name: str,
    axis: tuple[float, float],
    foot: tuple[float, float, float],
    walls: list[list[Shape]],
    handle: list[Shape],
    inside: str,
    drawn: list[tuple[str, list[Shape]]],
) -> ObjectModel:
    """Returns a mug: a foot (radius, low, high), stacked rings and a handle."""
    radius, low, high = foot
    base = disc((*axis, (low + high) / 2), radius, (high - low) / 2)
    floor = cylinder((*axis, (low + high) / 2), radius, (high - low) / 2)
    around = [shape for wall in walls for shape in wall]
    looks = [*drawn, (inside, [floor])]
    return _model("turbosquid_objects", name, [*base, *around, *handle], looks)


# Where the facets of the official mugs stand, seen from their axis.
_PORCELAIN = (355, 49, 99, 153, 203, 257, 311)
_ROUND = range(0, 360, 24)  # and of the ones that are drawn
_RED = (15, 70, 121, 181, 228, 274, 330)


def porcelain_mug() -> ObjectModel:
    """Returns the white mug, its handle towards -x."""
    axis = (0.0155, -0.0015)
    walls = [
        ring(axis, (0.0243, 0.0067), (0.0394, 0.0413), thickness=0.0028, directions_deg=_PORCELAIN),
        ring(axis, (0.0411, 0.0432), (0.0411, 0.1084), thickness=0.0049, directions_deg=_PORCELAIN),
    ]
    handle = [
        rod((-0.0589, 0, 0.0381), (-0.0243, 0, 0.0191), half_width=0.0080, half_depth=0.0038),
        box((-0.0595, 0, 0.0560), (0.0038, 0.0080, 0.0198)),
        rod((-0.0626, 0, 0.0721), (-0.0300, 0, 0.0947), half_width=0.0080, half_depth=0.0038),
    ]
    round_walls = [
        *ring(axis, (0.0243, 0.0067), (0.0411, 0.0434), 0.0028, _ROUND),
        *ring(axis, (0.0418, 0.0432), (0.0418, 0.1084), 0.0049, _ROUND),
    ]
    drawn = [("porcelain", [*round_walls, *handle])]
    foot = (0.0262, 0.0024, 0.0128)
    return _mug("porcelain_mug", axis, foot, walls, handle, "porcelain_inside", drawn)


def red_coffee_mug() -> ObjectModel:
    """Returns the tall red mug, its handle towards +x."""
    axis = (-0.0175, -0.0026)
    walls = [ring(axis, (0.0232, -0.0014), (0.0382, 0.1299), 0.0070, _RED)]
    handle = [
        rod((0.0140, 0, 0.0255), (0.0600, 0, 0.0756), half_width=0.0076, half_depth=0.0029),
        rod((0.0567, 0, 0.0752), (0.0527, 0, 0.1136), half_width=0.0069, half_depth=0.0027),
        rod((0.0166, 0, 0.1090), (0.0526, 0, 0.1142), half_width=0.0069, half_depth=0.0027),
    ]
    foot = (0.0270, 0.0028, 0.0078)
    drawn = [("red", [*ring(axis, (0.0240, -0.0014), (0.0390, 0.1299), 0.0070, _ROUND), *handle])]
    return _mug("red_coffee_mug", axis, foot, walls, handle, "red_inside", drawn)


def white_yellow_mug() -> ObjectModel:
    """Returns the mug that is white below and yellow above, its handle towards +x."""
    axis = (-0.0182, 0.0)
    cone = ring(axis, (0.0250, 0.0027), (0.0371, 0.0193), thickness=0.0082)
    wall = ring(axis, (0.0368, 0.0158), (0.0482, 0.1022), 0.0082, range(0, 360, 20))
    lower = ring(axis, (0.0368, 0.0158), (0.0427, 0.0600), 0.0082, _ROUND)
    upper = ring(axis, (0.0427, 0.0600), (0.0482, 0.1022), 0.0082, _ROUND)
    handle = [
        rod((0.0158, 0, 0.0212), (0.0646, 0, 0.0314), half_width=0.0088, half_depth=0.0041),
        box((0.0641, 0, 0.0560), (0.0041, 0.0088, 0.0292)),
        rod((0.0248, 0, 0.0772), (0.0680, 0, 0.0820), half_width=0.0088, half_depth=0.0041),
    ]
    drawn = [("porcelain", [*cone, *lower]), ("yellow", [*upper, *handle])]
    foot = (0.0275, 0.0002, 0.0052)
    walls = [cone, wall]
    name = "white_yellow_mug"
    return _mug(name, axis, foot, walls, handle, "porcelain_inside", drawn)


def moka_pot() -> ObjectModel:
    """Returns the moka pot: a faceted body, the spout towards -y and the handle towards +y."""
    spout = slab((-0.0150, -0.0563, 0.0230), (0.0150, -0.0300, 0.0640))
    handle = [
        rod((0, 0.0330, 0.0560), (0, 0.0760, 0.0580), half_width=0.0066, half_depth=0.0068),
        rod((0, 0.0850, 0.0600), (0, 0.0600, 0.0010), half_width=0.0066, half_depth=0.0071),
    ]
    knob = box((0, -0.0013, 0.0760), (0.0052, 0.0060, 0.0098))
    solids = [*disc((0, 0, 0.0004), 0.0385, 0.0666), spout, *handle, knob]
    lower = cylinder((0, 0, -0.0350), 0.0385, 0.0312)
    waist = cylinder((0, 0, 0.0000), 0.0345, 0.0045)
    upper = cylinder((0, 0, 0.0340), 0.0375, 0.0300)
    lid = cylinder((0, 0, 0.0655), 0.0340, 0.0020)
    looks = [("metal", [lower, lid]), ("silver", [upper, spout]), ("black", [waist, *handle, knob])]
    return _model("turbosquid_objects", "moka_pot", solids, looks)


def wine_bottle() -> ObjectModel:
    """Returns the wine bottle, upright."""
    solids = [
        *disc((0, 0, 0.0320), 0.0212, 0.0309),
        box((0, 0, 0.0680), (0.0150, 0.0150, 0.0055)),
        box((0, 0, 0.0811), (0.0118, 0.0118, 0.0070)),
        box((0, 0, 0.0940), (0.0080, 0.0080, 0.0060)),
        *disc((0, 0, 0.1280), 0.0071, 0.0300),
    ]
    looks = [
        (
            "wine_glass",
            [
                cylinder((0, 0, 0.0350), 0.0205, 0.0339),
                Shape("ellipsoid", (0, 0, 0.0689), (0.0205, 0.0205, 0.0280)),
                cylinder((0, 0, 0.1180), 0.0068, 0.0330),
            ],
        ),
        ("wine_label", [cylinder((0, 0, 0.0360), 0.0210, 0.0190)]),
        ("cork", [cylinder((0, 0, 0.1540), 0.0072, 0.0040)]),
    ]
    return _model("turbosquid_objects", "wine_bottle", solids, looks)


TABLEWARE = (
    akita_black_bowl,
    white_bowl,
    plate,
    glazed_rim_porcelain_ramekin,
    chefmate_8_frypan,
    porcelain_mug,
    red_coffee_mug,
    white_yellow_mug,
    moka_pot,
    wine_bottle,
)
