"""What a model is made of, and its MJCF text as LIBERO's object classes read it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field

from libero_reward_envs.envs.builtin_assets.materials import MATERIALS, Material
from libero_reward_envs.envs.builtin_assets.shapes import IDENTITY, Quaternion, Shape, Vector

# Measured: every movable official model carries these contact numbers.
CONTACT = {
    "density": "100",
    "friction": "0.95 0.3 0.1",
    "solref": "0.001 1",
    "solimp": "0.998 0.998 0.001",
}


@dataclass(frozen=True)
class Inertial:
    """Mass and inertia of a body, stated because our walls would weigh otherwise.

    Args:
        mass_kg: The mass.
        centre: Centre of mass in the body's frame, shape (3,).
        inertia: About the centre of mass, in kg m^2: (xx, yy, zz, xy, xz, yz).
    """

    mass_kg: float
    centre: Vector
    inertia: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Site:
    """A named place: a region that goals refer to (box), or a lamp that is switched (cylinder)."""

    name: str
    position: Vector
    size: tuple[float, ...]
    quaternion: Quaternion = IDENTITY
    kind: str = "box"
    rgba: str = "0.8 0.8 0.8 0"


@dataclass(frozen=True)
class Joint:
    """A limited hinge or slide through the body's origin."""

    name: str
    kind: str
    axis: str
    limits: tuple[float, float]
    damping: float


@dataclass
class Body:
    """A rigid part.

    Args:
        name: The first body of a model is called "object".
        position: In the parent's frame, shape (3,).
        quaternion: In the parent's frame, shape (4,).
        inertial: Left out where the body never moves.
        joint: Left out for the first body, to which LIBERO adds a free joint itself.
        solids: Shapes that collide and are not drawn.
        looks: Pairs of a material and shapes that are drawn and do not collide.
        contact: Contact attributes of `solids`.
    """

    name: str
    position: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = IDENTITY
    inertial: Inertial | None = None
    joint: Joint | None = None
    sites: list[Site] = field(default_factory=list)
    solids: list[Shape] = field(default_factory=list)
    looks: list[tuple[str, Sequence[Shape]]] = field(default_factory=list)
    children: list[Body] = field(default_factory=list)
    contact: dict[str, str] = field(default_factory=lambda: dict(CONTACT))


@dataclass
class ObjectModel:
    """A model that one of LIBERO's object classes loads.

    Args:
        path: Where the class looks it up, relative to the assets folder.
        body: The first body.
        below: Depth of `bottom_site`, at which LIBERO's sampler sets the object down.
        above: Height of `top_site`.
        radius: x and y of `horizontal_radius_site`, which the sampler keeps objects apart by.
        marker: Radius of these three invisible sites.
    """

    path: str
    body: Body
    below: float = -0.06
    above: float = 0.04
    radius: float = 0.025
    marker: float = 0.005


def numbers(values: Sequence[float]) -> str:
    """Returns the numbers as MJCF writes them, without noise behind the sixth digit."""
    return " ".join(f"{value:.6g}" if abs(value) > 1e-12 else "0" for value in values)


def add_geom(parent: ElementTree.Element, shape: Shape, **attributes: str) -> None:
    """Adds a shape to a body element."""
    geom = ElementTree.SubElement(parent, "geom", {"type": shape.kind, **attributes})
    geom.set("pos", numbers(shape.position))
    geom.set("size", numbers(shape.size))
    if shape.quaternion != IDENTITY:
        geom.set("quat", numbers(shape.quaternion))


def add_assets(root: ElementTree.Element, names: Sequence[str], textures: str) -> None:
    """Adds the named materials and their textures to a model.

    Args:
        root: The `mujoco` element.
        names: Keys of `MATERIALS`.
        textures: The folder of the textures, seen from the model's file.
    """
    asset = ElementTree.SubElement(root, "asset")
    written: set[str] = set()
    for name in sorted(set(names)):
        material = MATERIALS[name]
        attributes = _shine(material)
        if material.texture:
            texture = f"tex-{material.texture}"
            if texture not in written:
                written.add(texture)
                file = f"{textures}/{material.texture}.png"
                ElementTree.SubElement(asset, "texture", name=texture, type="cube", file=file)
            attributes["texture"] = texture
            attributes["texuniform"] = "true" if material.repeat_per_m else "false"
            repeat = material.repeat_per_m or 1.0
            attributes["texrepeat"] = numbers((repeat, repeat))
        attributes["rgba"] = numbers(material.rgba)
        ElementTree.SubElement(asset, "material", {"name": name, **attributes})


def add_body(parent: ElementTree.Element, body: Body) -> ElementTree.Element:
    """Adds a body and everything below it; returns its element."""
    element = ElementTree.SubElement(parent, "body", name=body.name, pos=numbers(body.position))
    if body.quaternion != IDENTITY:
        element.set("quat", numbers(body.quaternion))
    if body.inertial:
        ElementTree.SubElement(
            element,
            "inertial",
            pos=numbers(body.inertial.centre),
            mass=numbers((body.inertial.mass_kg,)),
            fullinertia=numbers(body.inertial.inertia),
        )
    if body.joint:
        ElementTree.SubElement(
            element,
            "joint",
            name=body.joint.name,
            type=body.joint.kind,
            pos="0 0 0",
            axis=body.joint.axis,
            limited="true",
            range=numbers(body.joint.limits),
            damping=numbers((body.joint.damping,)),
        )
    for site in body.sites:
        _add_site(element, site)
    for material, shapes in body.looks:
        for shape in shapes:
            add_geom(element, shape, material=material, group="1", contype="0", conaffinity="0")
    for shape in body.solids:
        add_geom(element, shape, group="0", **body.contact)
    for child in body.children:
        add_body(element, child)
    return element


def object_mjcf(model: ObjectModel) -> str:
    """Returns the MJCF text of an object."""
    depth = model.path.count("/")
    root = ElementTree.Element("mujoco", model=model.path.split("/")[-1].removesuffix(".xml"))
    ElementTree.SubElement(root, "compiler", angle="radian")
    add_assets(root, _materials(model.body), "../" * depth + "textures")
    world = ElementTree.SubElement(root, "worldbody")
    holder = ElementTree.SubElement(world, "body")
    add_body(holder, model.body)
    marks = {
        "bottom_site": (0.0, 0.0, model.below),
        "top_site": (0.0, 0.0, model.above),
        "horizontal_radius_site": (model.radius, model.radius, 0.0),
    }
    for name, position in marks.items():
        size = numbers((model.marker,))
        site = ElementTree.SubElement(holder, "site", name=name, pos=numbers(position))
        site.set("size", size)
        site.set("rgba", "0 0 0 0")
    return to_text(root)


def to_text(root: ElementTree.Element) -> str:
    """Returns indented XML."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_site(parent: ElementTree.Element, site: Site) -> None:
    ElementTree.SubElement(
        parent,
        "site",
        name=site.name,
        type=site.kind,
        pos=numbers(site.position),
        quat=numbers(site.quaternion),
        size=numbers(site.size),
        rgba=site.rgba,
    )


def _materials(body: Body) -> list[str]:
    names = [name for name, _ in body.looks]
    for child in body.children:
        names += _materials(child)
    return names


def _shine(material: Material) -> dict[str, str]:
    return {
        "specular": numbers((material.specular,)),
        "shininess": numbers((material.shininess,)),
        "reflectance": "0",
    }
