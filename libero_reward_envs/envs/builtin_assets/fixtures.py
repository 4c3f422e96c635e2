"""Articulated furniture: two cabinets with drawers, the microwave and the stove.

Every figure is measured: panels from the official collision shapes, joints with their limits and
damping, regions from the official sites, in the body's frame.
"""

from __future__ import annotations

from libero_reward_envs.envs.builtin_assets.inertials import INERTIALS
from libero_reward_envs.envs.builtin_assets.model import (
    Body,
    Inertial,
    Joint,
    ObjectModel,
    Site,
)
from libero_reward_envs.envs.builtin_assets.shapes import (
    Shape,
    box,
    capsule,
    cylinder,
    disc,
    rotation,
    slab,
)

_ON_SIDE = rotation("y", 90)
# The official drawers and the stove's knob state this inertia instead of their shapes' own.
_STATED = Inertial(3.0, (0, 0, 0), (1, 1, 1, 0, 0, 0))


def _drawer(name: str, z: float, handle_z: float, region_z: float, front: str) -> Body:
    """Returns a drawer that slides out along -y.

    Args:
        name: "top", "middle" or "bottom".
        z: Height of the middle of its walls.
        handle_z: Height of the handle.
        region_z: Height of the region in which things count as inside.
        front: Material of the front panel.
    """
    panel = box((0.0033, -0.0752, z - 0.0005), (0.1093, 0.0027, 0.0343))
    walls = [
        box((0.0033, -0.0684, z), (0.1068, 0.0036, 0.0321)),
        box((0.0033, 0.0908, z), (0.1068, 0.0036, 0.0321)),
        box((-0.1019, 0.0111, z), (0.0025, 0.0815, 0.0315)),
        box((0.1089, 0.0111, z), (0.0025, 0.0815, 0.0315)),
        box((0.0035, 0.0105, z - 0.0285), (0.1070, 0.0809, 0.0040)),
    ]
    handle = [
        box((-0.0028, -0.1016, handle_z), (0.0445, 0.0077, 0.0082)),
        box((0.0292, -0.0835, handle_z), (0.0051, 0.0106, 0.0056)),
        box((-0.0356, -0.0835, handle_z), (0.0051, 0.0106, 0.0056)),
    ]
    region = (0.00328, 0.01128, region_z)
    return Body(
        f"cabinet_{name}",
        inertial=_STATED,
        joint=Joint(f"{name}_level", "slide", "0 1 0", (-0.16, 0.01), damping=50),
        sites=[Site(f"{name}_region", region, (0.02993, 0.07561, 0.10224), _ON_SIDE)],
        solids=[panel, *walls, *handle],
        looks=[(front, [panel, *walls]), ("metal", handle)],
    )


def _cabinet(name: str, frame: str, front: str) -> ObjectModel:
    """Returns a cabinet of three drawers."""
    panels = [
        slab((-0.1188, -0.0734, 0.0046), (0.1268, 0.1062, 0.0104)),
        slab((-0.1174, -0.0792, 0.0085), (-0.1070, 0.1116, 0.2201)),
        slab((0.1138, -0.0792, 0.0085), (0.1242, 0.1116, 0.2201)),
        slab((-0.1170, 0.1071, 0.0085), (0.1212, 0.1117, 0.2201)),
        slab((-0.1079, -0.0706, 0.1483), (0.1156, 0.1083, 0.1505)),
        slab((-0.1079, -0.0706, 0.0782), (0.1156, 0.1083, 0.0804)),
        slab((-0.1234, -0.0783, 0.2202), (0.1312, 0.1099, 0.2230)),
    ]
    base = Body(
        "base",
        sites=[Site("top_side", (0.00354, 0.01567, 0.22152), (0.12534, 0.09438, 0.00147))],
        solids=panels,
        looks=[(frame, panels)],
        children=[
            _drawer("top", 0.1836, 0.1839, 0.18563, front),
            _drawer("middle", 0.1139, 0.1104, 0.11690, front),
            _drawer("bottom", 0.0452, 0.0411, 0.04701, front),
        ],
    )
    body = Body("object", children=[base])
    path = f"articulated_objects/{name}.xml"
    return ObjectModel(path, body, below=-0.045, above=0.045, radius=0.045, marker=0.05)


def wooden_cabinet() -> ObjectModel:
    """Returns the dark wooden cabinet."""
    return _cabinet("wooden_cabinet", "dark_wood", "red_wood")


def white_cabinet() -> ObjectModel:
    """Returns the white cabinet."""
    return _cabinet("white_cabinet", "white_wood", "white_wood")


def _microwave_door() -> Body:
    leaf = box((0.1295, -0.0130, 0), (0.1295, 0.0120, 0.0925))
    handle: list[Shape] = [
        capsule((0.2375, -0.0540, 0), 0.010, 0.065),
        capsule((0.2375, -0.0375, 0.065), 0.010, 0.015, axis="y"),
        capsule((0.2375, -0.0375, -0.065), 0.010, 0.015, axis="y"),
    ]
    window = box((0.1050, -0.0130, 0), (0.0800, 0.0124, 0.0600))
    return Body(
        "microdoorroot",
        position=(-0.1725, -0.0880, 0.0960),
        inertial=INERTIALS["microwave_door"],
        joint=Joint("microjoint", "hinge", "0 0 1", (-2.094, 0), damping=0.5),
        solids=[leaf, *handle],
        looks=[("dark_grey", [leaf]), ("door_glass", [window]), ("silver", handle)],
        contact={},
    )


def microwave() -> ObjectModel:
    """Returns the microwave: an open box, whose door hangs on the left and opens towards -y."""
    walls = [
        slab((-0.1725, -0.0880, 0), (-0.1435, 0.1110, 0.1870)),
        slab((0.0635, -0.0880, 0), (0.1725, 0.1110, 0.1870)),
        slab((-0.1440, 0.0805, 0), (0.0630, 0.1105, 0.1870)),
        slab((-0.1435, -0.0880, 0.1680), (0.0635, 0.0810, 0.1870)),
        slab((-0.1435, -0.0880, 0), (0.0635, 0.0800, 0.0240)),
        slab((0.0875, -0.1105, 0), (0.1725, -0.0865, 0.1870)),
    ]
    buttons = [
        box((0.1300, -0.1110, 0.1450), (0.0280, 0.0008, 0.0150)),
        cylinder((0.1300, -0.1130, 0.0900), 0.0170, 0.0030, axis="y"),
        cylinder((0.1300, -0.1130, 0.0420), 0.0170, 0.0030, axis="y"),
    ]
    body = Body(
        "object",
        sites=[
            Site("top_side", (0, 0.01, 0.20), (0.12, 0.0835, 0.005)),
            Site("heating_region", (0, 0.01, 0.096), (0.12, 0.0835, 0.08)),
        ],
        solids=walls,
        looks=[("dark_grey", [*walls[:2], *walls[3:]]), ("grey", [walls[2]]), ("silver", buttons)],
        children=[_microwave_door()],
        contact={},
    )
    path = "articulated_objects/microwave.xml"
    return ObjectModel(path, body, above=0.06, radius=0.015)


def flat_stove() -> ObjectModel:
    """Returns the stove: a hot plate with a lamp that LIBERO switches, and a knob beside it."""
    block = box((0, 0, 0), (0.0950, 0.0950, 0.0200))
    top = box((0, 0, 0.0250), (0.0950, 0.0950, 0.0005))
    rings = [cylinder((0, 0, 0.0215), 0.0780, 0.0015), cylinder((0, 0, 0.0225), 0.0720, 0.0010)]
    burner = Body(
        "burner",
        position=(0.15, 0, 0),
        sites=[
            Site("cook_region", (0, 0, 0), (0.075, 0.075, 0.0025)),
            Site("burner", (0, 0, 0.0238), (0.0625, 0.0005), kind="cylinder", rgba=".9 .05 .05 1"),
        ],
        solids=[block, top],
        looks=[("metal", [block]), ("silver", rings[:1]), ("black", rings[1:])],
        contact={},
    )
    # The knob's frame is turned by 90 degrees, so its bar along the stove's x is along its own y.
    bar = box((-0.0012, 0.0057, 0.0257), (0.0122, 0.0463, 0.0243))
    knob = Body(
        "button",
        quaternion=rotation("z", 90),
        inertial=_STATED,
        joint=Joint("button", "hinge", "0 0 1", (-0.005, 2.1), damping=1),
        solids=[*disc((0.0013, 0.0045, 0.0066), 0.0465, 0.0062), bar],
        looks=[
            ("dark_grey", [cylinder((0.0013, 0.0045, 0.0066), 0.0455, 0.0062)]),
            ("black", [bar]),
        ],
    )
    base = Body("base", children=[burner, knob])
    body = Body("object", children=[base])
    path = "articulated_objects/flat_stove.xml"
    return ObjectModel(path, body, below=-0.045, above=0.045, radius=0.045, marker=0.05)


FIXTURES = (wooden_cabinet, white_cabinet, microwave, flat_stove)
