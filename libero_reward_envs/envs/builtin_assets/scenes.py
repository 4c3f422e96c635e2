"""The five arenas: floor, walls, lights, cameras and the surface that the robot works on.

Names (`floor`, `table`, `texplane`, ...) are those that LIBERO's arena classes look up; heights and
frictions of what carries weight are measured. The furniture around is our own, drawn only.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field

from libero_reward_envs.envs.builtin_assets.model import (
    CONTACT,
    Body,
    add_assets,
    add_body,
    add_geom,
    numbers,
    to_text,
)
from libero_reward_envs.envs.builtin_assets.shapes import Shape, box, cylinder, slab

_Looks = list[tuple[str, list[Shape]]]


@dataclass
class Scene:
    """An arena.

    Args:
        path: Where LIBERO looks it up, relative to the assets folder.
        floor_body: Whether the floor plane stands in a body named "floor", as some arenas expect.
        surface: The body that carries objects, if it is not the floor.
        table: Whether to add the table that `TableArena` and `KitchenTableArena` resize.
        looks: Furniture, in the world's frame.
    """

    path: str
    floor_body: bool = False
    surface: Body | None = None
    table: bool = False
    looks: _Looks = field(default_factory=list)


def _surface(name: str, solids: list[Shape], looks: _Looks) -> Body:
    return Body(name, solids=solids, looks=list(looks), contact=dict(CONTACT))


def tabletop() -> Scene:
    """Returns the plain room with a table."""
    return Scene("scenes/libero_tabletop_base_style.xml", table=True)


def floor() -> Scene:
    """Returns the plain room in which the robot works on the floor."""
    return Scene("scenes/libero_floor_base_style.xml", floor_body=True)


def kitchen() -> Scene:
    """Returns the kitchen: a table before a row of cupboards."""
    looks: _Looks = [
        ("white_wood", [slab((-1.95, -1.50, 0.0), (-1.40, 2.30, 0.86))]),
        ("desk_wood", [slab((-1.97, -1.50, 0.86), (-1.36, 2.30, 0.91))]),
        ("white_wood", [slab((-1.97, -1.50, 1.55), (-1.60, 2.30, 2.20))]),
        ("grey", [slab((-1.395, y, 0.08), (-1.385, y + 0.02, 0.84)) for y in (-0.90, 0.70, 1.50)]),
        ("metal", [slab((-1.95, -2.60, 0.0), (-1.30, -1.62, 1.90))]),
        ("dark_grey", [slab((-1.30, -2.60, 1.20), (-1.29, -1.62, 1.22))]),
        ("black", [slab((-1.86, -0.35, 0.91), (-1.42, 0.35, 0.93))]),
        ("metal", [cylinder((-1.55, 0.20, 0.99), 0.11, 0.06)]),
        ("tomato", [cylinder((-1.70, -0.85, 1.00), 0.13, 0.09)]),
    ]
    return Scene("scenes/libero_kitchen_tabletop_base_style.xml", table=True, looks=looks)


def living_room() -> Scene:
    """Returns the living room: a low table, a sideboard and a picture."""
    top = [
        slab((-0.6943, -0.6193, 0.4131), (0.1943, 0.7241, 0.4368)),
        slab((0.1837, -0.6193, 0.4131), (0.3387, 0.7241, 0.4368)),
        slab((-0.8241, -0.6193, 0.4131), (-0.6691, 0.7241, 0.4368)),
        slab((-0.6668, -0.8214, 0.4131), (0.1668, -0.6188, 0.4368)),
        slab((-0.6668, 0.6981, 0.4131), (0.1668, 0.9007, 0.4368)),
    ]
    foot = slab((-0.6616, -0.1852, 0.0), (0.1616, 0.6852, 0.4129))
    surface = _surface(
        "living_room_table",
        [*top, foot],
        [
            ("desk_wood", [slab((-0.8241, -0.6193, 0.4131), (0.3387, 0.7241, 0.4368)), *top[3:]]),
            ("dark_wood", [slab((-0.55, -0.35, 0.0), (0.05, 0.45, 0.4129))]),
        ],
    )
    looks: _Looks = [
        ("dark_wood", [slab((-1.95, -1.30, 0.0), (-1.55, 1.30, 0.55))]),
        ("light_wood", [slab((-1.96, -1.35, 0.55), (-1.52, 1.35, 0.59))]),
        ("black", [slab((-1.92, -0.60, 0.66), (-1.88, 0.60, 1.32))]),
        ("paper", [slab((-1.98, 0.90, 1.15), (-1.96, 1.40, 1.75))]),
        ("blue", [slab((-1.96, 0.98, 1.25), (-1.95, 1.32, 1.65))]),
    ]
    path = "scenes/libero_living_room_tabletop_base_style.xml"
    return Scene(path, floor_body=True, surface=surface, looks=looks)


def study() -> Scene:
    """Returns the study: a desk, a bookcase, a plant and a lamp."""
    top = slab((-0.6895, -1.3927, 0.8135), (0.6895, 1.3927, 0.8851))
    legs = [
        box((x, y, 0.3943), (0.0200, 0.0503, 0.3941))
        for x in (-0.5005, 0.4962)
        for y in (-0.6906, 0.7122)
    ]
    feet = [box((-0.0049, y, 0.0253), (0.5127, 0.0503, 0.0215)) for y in (-0.6976, 0.7147)]
    surface = _surface(
        "study_table", [top, *legs, *feet], [("desk_wood", [top]), ("dark_grey", [*legs, *feet])]
    )
    shelves = [slab((-1.95, -1.70, z), (-1.60, -0.30, z + 0.03)) for z in (0.40, 0.85, 1.30, 1.75)]
    sides = [slab((-1.95, y, 0.0), (-1.60, y + 0.04, 1.78)) for y in (-1.74, -0.30)]
    books: dict[str, list[Shape]] = {"blue": [], "red": [], "yellow": [], "cap_green": []}
    for i in range(20):
        y, z = -1.60 + 0.12 * (i % 10), (0.88, 1.33)[i // 10]
        colour = list(books)[(i * 7 + i // 10) % 4]
        height = 0.26 + 0.02 * ((i * 5) % 4)
        books[colour].append(slab((-1.85, y, z), (-1.62, y + 0.07, z + height)))
    looks: _Looks = [
        ("white_wood", [*shelves, *sides]),
        *books.items(),
        ("tomato", [cylinder((-1.75, 0.70, 0.20), 0.18, 0.20)]),
        ("leaf", [Shape("ellipsoid", (-1.75, 0.70, 0.80), (0.30, 0.30, 0.42))]),
        ("dark_grey", [cylinder((0.30, -1.00, 0.89), 0.09, 0.01)]),
        ("dark_grey", [cylinder((0.30, -1.00, 1.10), 0.012, 0.22)]),
        ("lamp_shade", [cylinder((0.30, -1.00, 1.38), 0.10, 0.08)]),
        ("dark_wood", [slab((-1.98, 1.20, 1.20), (-1.96, 1.90, 1.80))]),
        ("cream", [slab((-1.96, 1.25, 1.25), (-1.95, 1.85, 1.75))]),
    ]
    path = "scenes/libero_study_base_style.xml"
    return Scene(path, surface=surface, looks=looks)


SCENES: tuple[Callable[[], Scene], ...] = (tabletop, floor, kitchen, living_room, study)


def scene_mjcf(scene: Scene) -> str:
    """Returns the MJCF text of an arena."""
    root = ElementTree.Element("mujoco", model=scene.path.split("/")[-1].removesuffix(".xml"))
    names = [name for name, _ in scene.looks]
    names += [name for name, _ in scene.surface.looks] if scene.surface else []
    add_assets(root, [*names, "table_wood"], "../textures")
    _add_room_assets(root)
    world = ElementTree.SubElement(root, "worldbody")
    holder = world
    if scene.floor_body:
        holder = ElementTree.SubElement(world, "body", name="floor", pos="0 0 0")
    plane = Shape("plane", (0, 0, 0), (3, 3, 0.125))
    add_geom(holder, plane, name="floor", material="floorplane", group="1", condim="3")
    for name, wall in _walls().items():
        _add_look(world, wall, "walls_mat", name)
    for material, shapes in scene.looks:
        for shape in shapes:
            _add_look(world, shape, material)
    if scene.surface:
        add_body(world, scene.surface)
    if scene.table:
        _add_table(world)
    _add_lights_and_cameras(world)
    return to_text(root)


def _add_look(
    parent: ElementTree.Element, shape: Shape, material: str, name: str | None = None
) -> None:
    attributes = {"material": material, "group": "1", "contype": "0", "conaffinity": "0"}
    add_geom(parent, shape, **attributes, **({"name": name} if name else {}))


def _walls() -> dict[str, Shape]:
    return {
        "wall_rear_visual": box((-2.00, 0, 1.5), (0.01, 3.0, 1.5)),
        "wall_front_visual": box((3.00, 0, 1.5), (0.01, 3.0, 1.5)),
        "wall_left_visual": box((0.50, 3.0, 1.5), (2.5, 0.01, 1.5)),
        "wall_right_visual": box((0.50, -3.0, 1.5), (2.5, 0.01, 1.5)),
    }


def _add_room_assets(root: ElementTree.Element) -> None:
    """Adds the sky and the floor and wall textures, whose files LIBERO exchanges by style."""
    asset = root.find("asset")
    assert asset is not None
    ElementTree.SubElement(
        asset,
        "texture",
        name="skybox",
        type="skybox",
        builtin="gradient",
        rgb1="0.85 0.88 0.92",
        rgb2="0.35 0.42 0.50",
        width="32",
        height="32",
    )
    for texture, file, material in (
        ("texplane", "light-gray-floor-tile", "floorplane"),
        ("tex-wall", "light-gray-plaster", "walls_mat"),
    ):
        path = f"../textures/{file}.png"
        ElementTree.SubElement(asset, "texture", name=texture, type="2d", file=path)
        element = ElementTree.SubElement(asset, "material", name=material, texture=texture)
        element.set("texrepeat", "1 1")
        element.set("texuniform", "true")
        for key, value in (("specular", "0"), ("shininess", "0"), ("reflectance", "0")):
            element.set(key, value)


def _add_table(world: ElementTree.Element) -> None:
    """Adds the table; LIBERO sets its size, place and friction."""
    table = ElementTree.SubElement(world, "body", name="table", pos="0 0 0.4")
    top = Shape("box", (0, 0, 0), (0.4, 0.4, 0.4))
    add_geom(table, top, name="table_collision", group="0", friction="1 0.005 0.0001")
    _add_look(table, top, "table_wood", "table_visual")
    site = ElementTree.SubElement(table, "site", name="table_top", pos="0 0 0.4", rgba="0 0 0 0")
    site.set("size", "0.001 0.001 0.001")
    for i in range(1, 5):
        _add_look(table, cylinder((0, 0, 0), 0.05, 0.1), "table_wood", f"table_leg{i}_visual")


def _add_lights_and_cameras(world: ElementTree.Element) -> None:
    for name, position in (("light1", (1, 1, 4)), ("light2", (-3, -3, 4))):
        ElementTree.SubElement(
            world,
            "light",
            name=name,
            pos=numbers(position),
            dir="0 -0.15 -1",
            diffuse="0.65 0.65 0.65",
            specular="0.3 0.3 0.3",
            cutoff="80",
            exponent="3",
            castshadow="false",
        )
    # LIBERO moves most of them per problem; these are the places of the others.
    cameras = {
        "frontview": ((1.0, 0, 1.45), (0.56, 0.43, 0.43, 0.56)),
        "birdview": ((-0.2, 0, 3.0), (0.7071, 0, 0, 0.7071)),
        "agentview": ((0.5, 0, 1.35), (0.653, 0.271, 0.271, 0.653)),
        "sideview": (
            (-0.0565, 1.2761, 1.4880),
            (0.0099051, 0.0068780, 0.5912228, 0.8064181),
        ),
    }
    for name, (position, quaternion) in cameras.items():
        camera = ElementTree.SubElement(world, "camera", name=name, mode="fixed")
        camera.set("pos", numbers(position))
        camera.set("quat", numbers(quaternion))
