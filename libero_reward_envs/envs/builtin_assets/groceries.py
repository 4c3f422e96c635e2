"""Cans, cartons, bottles and boxes of food.

Every figure is measured from the official collision shapes, in the object's frame. Cans, cartons
and bottles stand along y in that frame, the flat boxes lie along z.
"""

from __future__ import annotations

from libero_reward_envs.envs.builtin_assets.inertials import INERTIALS
from libero_reward_envs.envs.builtin_assets.model import Body, ObjectModel
from libero_reward_envs.envs.builtin_assets.shapes import (
    Shape,
    Vector,
    box,
    cylinder,
    disc,
    slab,
)

_Looks = list[tuple[str, list[Shape]]]


def _model(
    name: str,
    solids: list[Shape],
    looks: _Looks,
    below: float = -0.06,
    above: float = 0.04,
    radius: float = 0.025,
) -> ObjectModel:
    body = Body("object", inertial=INERTIALS[name], solids=solids, looks=list(looks))
    path = f"stable_hope_objects/{name}/{name}.xml"
    return ObjectModel(path, body, below=below, above=above, radius=radius)


def _can(name: str, below: float, colours: tuple[str, str, str]) -> ObjectModel:
    """Returns a can with metal ends; its colours: the lower part, a thin band, the upper part."""
    x, z, radius = -0.0001, -0.0036, 0.0315
    low, high = -0.0386, 0.0376
    middle = (low + high) / 2
    solids = disc((x, middle, z), radius, (high - low) / 2, axis="y")
    lower, band, upper = colours
    looks: _Looks = [
        ("silver", [cylinder((x, middle, z), 0.0308, (high - low) / 2, axis="y")]),
        (lower, [cylinder((x, -0.0195, z), radius, 0.0160, axis="y")]),
        (band, [cylinder((x, -0.0005, z), 0.0318, 0.0032, axis="y")]),
        (upper, [cylinder((x, 0.0175, z), radius, 0.0155, axis="y")]),
    ]
    return _model(name, solids, looks, below=below)


def alphabet_soup() -> ObjectModel:
    """Returns the red and white can."""
    return _can("alphabet_soup", -0.04, ("white", "gold", "red"))


def tomato_sauce() -> ObjectModel:
    """Returns the tomato-coloured can with a green band."""
    return _can("tomato_sauce", -0.06, ("tomato", "cap_green", "tomato"))


def _carton(name: str, label: str, lid: str, radius: float) -> ObjectModel:
    """Returns a drink carton with a gabled top."""
    sides = slab((-0.0263, -0.0698, -0.0263), (0.0265, 0.0398, 0.0263))
    gable = [
        box((0, 0.0478, 0.0137), (0.0263, 0.0022, 0.0138), ("x", 42)),
        box((0, 0.0478, -0.0137), (0.0263, 0.0022, 0.0138), ("x", -42)),
    ]
    seam = box((0, 0.0585, 0), (0.0265, 0.0030, 0.0035))
    stripe = slab((-0.0266, 0.0300, -0.0266), (0.0268, 0.0399, 0.0266))
    looks: _Looks = [(label, [sides]), (lid, [*gable, seam, stripe])]
    return _model(name, [sides, *gable, seam], looks, radius=radius)


def milk() -> ObjectModel:
    """Returns the white carton with a blue gable."""
    return _carton("milk", "milk", "blue", radius=0.03)


def orange_juice() -> ObjectModel:
    """Returns the orange carton with a white gable."""
    return _carton("orange_juice", "juice", "white", radius=0.025)


def _pack(
    name: str,
    label: str,
    half: Vector,
    centre: Vector = (0, 0, 0),
    below: float = -0.06,
    above: float = 0.04,
    radius: float = 0.025,
) -> ObjectModel:
    """Returns a box of food."""
    solid = box(centre, half)
    return _model(name, [solid], [(label, [solid])], below, above, radius)


def butter() -> ObjectModel:
    """Returns the yellow packet."""
    half = (0.03809, 0.01977, 0.00871)
    return _pack("butter", "butter", half, below=-0.02, above=0.02, radius=0.02)


def cream_cheese() -> ObjectModel:
    """Returns the white packet with a blue band."""
    half = (0.040608, 0.021336, 0.008936)
    return _pack("cream_cheese", "cream_cheese", half, below=-0.025, above=0.025, radius=0.03)


def chocolate_pudding() -> ObjectModel:
    """Returns the brown box."""
    return _pack("chocolate_pudding", "pudding", (0.0401, 0.02316, 0.01371), (-0.0005, 0, 0.00063))


def cookies() -> ObjectModel:
    """Returns the red biscuit box."""
    return _pack("cookies", "cookies", (0.03104, 0.04131, 0.0094))


def bbq_sauce() -> ObjectModel:
    """Returns the flat brown bottle, which stands along z in its frame."""
    solids = [
        box((0, 0, -0.0278), (0.0235, 0.0145, 0.0268)),
        box((0, 0, 0.0123), (0.0181, 0.0143, 0.0146)),
        *disc((0, 0, 0.0391), 0.0148, 0.0134),
    ]
    looks: _Looks = [
        ("sauce_brown", solids[:2]),
        ("yellow", [box((0, 0, -0.0278), (0.0237, 0.0147, 0.0150))]),
        ("red", [box((0, 0, -0.0278), (0.0239, 0.0149, 0.0060))]),
        ("black", [cylinder((0, 0, 0.0391), 0.0143, 0.0134)]),
    ]
    return _model("bbq_sauce", solids, looks, above=0.06, radius=0.015)


def ketchup() -> ObjectModel:
    """Returns the red squeeze bottle with a white cap."""
    solids = [
        slab((-0.0277, -0.0724, -0.0162), (0.0285, -0.0063, 0.0178)),
        slab((-0.0235, -0.0076, -0.0175), (0.0243, 0.0150, 0.0191)),
        slab((-0.0183, 0.0138, -0.0175), (0.0191, 0.0364, 0.0191)),
        *disc((0.0001, 0.0547, 0.0006), 0.0178, 0.0185, axis="y"),
    ]
    looks: _Looks = [
        ("ketchup_red", solids[:3]),
        ("white", [slab((-0.0280, -0.0480, -0.0165), (0.0288, -0.0260, 0.0181))]),
        ("white", [cylinder((0.0001, 0.0547, 0.0006), 0.0172, 0.0185, axis="y")]),
    ]
    return _model("ketchup", solids, looks)


def _dressing(lid: str, glass: str, paper: str) -> tuple[list[Shape], _Looks]:
    """Returns the solids and looks of a dressing bottle."""
    body = [
        slab((-0.0183, -0.0728, -0.0171), (0.0163, -0.0663, 0.0175)),
        slab((-0.0232, -0.0664, -0.0171), (0.0212, -0.0520, 0.0175)),
        slab((-0.0274, -0.0524, -0.0171), (0.0254, -0.0104, 0.0175)),
        slab((-0.0239, -0.0104, -0.0171), (0.0219, 0.0013, 0.0175)),
        slab((-0.0181, 0.0013, -0.0171), (0.0161, 0.0128, 0.0175)),
        slab((-0.0124, 0.0128, -0.0147), (0.0134, 0.0358, 0.0151)),
    ]
    cap = disc((0.0001, 0.0542, 0.0002), 0.0175, 0.0186, axis="y")
    looks: _Looks = [
        (glass, body),
        (paper, [slab((-0.0277, -0.0470, -0.0174), (0.0257, -0.0170, 0.0178))]),
        (lid, [cylinder((0.0001, 0.0542, 0.0002), 0.0170, 0.0186, axis="y")]),
    ]
    return [*body, *cap], looks


def salad_dressing() -> ObjectModel:
    """Returns the pale bottle with a green cap."""
    solids, looks = _dressing("cap_green", "dressing", "white")
    return _model("salad_dressing", solids, looks)


def new_salad_dressing() -> ObjectModel:
    """Returns the green bottle; its frame is 5 cm lower, so its shapes have their own body."""
    solids, looks = _dressing("yellow", "herb_dressing", "cream")
    bottle = Body(
        "bottle",
        position=(0, 0.05, 0),
        inertial=INERTIALS["new_salad_dressing"],
        solids=solids,
        looks=list(looks),
    )
    path = "stable_hope_objects/new_salad_dressing/new_salad_dressing.xml"
    return ObjectModel(path, Body("object", children=[bottle]))


GROCERIES = (
    alphabet_soup,
    tomato_sauce,
    milk,
    orange_juice,
    butter,
    cream_cheese,
    chocolate_pudding,
    cookies,
    bbq_sauce,
    ketchup,
    salad_dressing,
    new_salad_dressing,
)
