"""What other things are put into or onto: basket, tray, caddy, shelf and wine rack; and the books.

Every figure is measured: walls from the official collision shapes, regions from the official sites,
in the object's frame. Regions have no matter; goals are decided by them.
"""

from __future__ import annotations

from libero_reward_envs.envs.builtin_assets.inertials import INERTIALS
from libero_reward_envs.envs.builtin_assets.model import Body, ObjectModel, Site
from libero_reward_envs.envs.builtin_assets.shapes import Shape, Vector, box, rotation, slab

_ON_SIDE = rotation("y", 90)


def _model(folder: str, body: Body, name: str) -> ObjectModel:
    return ObjectModel(f"{folder}/{name}/{name}.xml", body)


def basket() -> ObjectModel:
    """Returns the basket: four walls that lean outwards around a floor."""
    floor = box((0.0025, 0, 0.0131), (0.0766, 0.0724, 0.0085))
    walls = [
        box((-0.0727, 0, 0.0766), (0.0067, 0.0724, 0.0637), ("y", -4.4)),
        box((0.0756, 0, 0.0766), (0.0067, 0.0724, 0.0637), ("y", 2.9)),
        box((0.0005, -0.0686, 0.0818), (0.0724, 0.0067, 0.0637), ("x", 2.6)),
        box((-0.0002, 0.0691, 0.0818), (0.0724, 0.0067, 0.0637), ("x", -2.6)),
    ]
    body = Body(
        "object",
        inertial=INERTIALS["basket"],
        sites=[
            Site("contain_region", (0, 0, 0.07185), (0.06108, 0.06108, 0.06949), rotation("z", 180))
        ],
        solids=[floor, *walls],
        looks=[("wicker", [floor, *walls])],
    )
    return _model("stable_scanned_objects", body, "basket")


def wooden_tray() -> ObjectModel:
    """Returns the wooden tray with raised ends to hold it by."""
    floor = slab((-0.1362, -0.0851, -0.0010), (0.1518, 0.0747, 0.0080))
    sides = [
        box((-0.1392, -0.0055, 0.0299), (0.0023, 0.0778, 0.0246)),
        box((0.1532, -0.0055, 0.0299), (0.0023, 0.0778, 0.0246)),
        box((0.0078, -0.0845, 0.0332), (0.1440, 0.0031, 0.0294)),
        box((0.0078, 0.0758, 0.0312), (0.1440, 0.0031, 0.0284)),
    ]
    ends: list[Shape] = []
    for x in (-0.1327, 0.1458):
        ends += [box((x, y, 0.0408), (0.0062, 0.0055, 0.0392)) for y in (-0.0785, 0.0685)]
        ends.append(box((x, -0.0049, 0.0797), (0.0067, 0.0786, 0.0012)))
    region = Site("contain_region", (0.00863, -0.00471, 0.04255), (0.04038, 0.07839, 0.13549))
    body = Body(
        "object",
        inertial=INERTIALS["wooden_tray"],
        sites=[Site(region.name, region.position, region.size, _ON_SIDE)],
        solids=[floor, *sides, *ends],
        looks=[("light_wood", [floor, *sides]), ("dark_wood", ends)],
    )
    return _model("turbosquid_objects", body, "wooden_tray")


def desk_caddy() -> ObjectModel:
    """Returns the desk organiser: boxes left and right, a low one in front, a high one behind."""
    floor = slab((-0.0755, -0.2169, 0.0014), (0.0755, 0.2169, 0.0138))
    outer = [
        slab((0.0627, -0.2098, 0.0053), (0.0708, 0.2098, 0.1683)),
        slab((-0.0709, -0.2098, 0.0050), (-0.0628, 0.2098, 0.0741)),
        slab((-0.0709, -0.2164, 0.0080), (-0.0628, -0.0632, 0.1673)),
        slab((-0.0706, -0.0742, 0.0026), (0.0706, -0.0618, 0.1674)),
        slab((-0.0706, -0.2156, 0.0026), (0.0706, -0.2032, 0.1674)),
        slab((-0.0056, -0.0668, 0.0118), (0.0024, 0.0668, 0.0986)),
    ]
    cheeks: list[Shape] = []
    for y in (0.0706, 0.2084):
        cheeks += [
            slab((-0.0706, y - 0.0036, 0.0119), (0.0706, y + 0.0036, 0.0785)),
            slab((0.0046, y - 0.0036, 0.0380), (0.0665, y + 0.0036, 0.1116)),
            box((0, y, 0.0945), (0.0706, 0.0036, 0.0209), ("y", -34.9)),
            box((0.0420, y, 0.1387), (0.0279, 0.0036, 0.0114), ("y", -35.1)),
            slab((0.0433, y - 0.0036, 0.1046), (0.0665, y + 0.0036, 0.1426)),
        ]
    shapes = [floor, *outer, *cheeks]
    body = Body("object", sites=_caddy_regions(), solids=shapes, looks=[("red_wood", shapes)])
    return _model("turbosquid_objects", body, "desk_caddy")


def _caddy_regions() -> list[Site]:
    turned = rotation("y", 180)
    # The front region's frame is turned so that its local z is the caddy's y.
    front = (0.0, 0.0, 2**-0.5, -(2**-0.5))
    wide, narrow = (0.06196, 0.06216, 0.06046), (0.02775, 0.06216, 0.06046)
    return [
        Site("right_contain_region", (0.00631, -0.14339, 0.06558), wide, turned),
        Site("left_contain_region", (0.00631, 0.14551, 0.06558), wide, turned),
        Site("back_contain_region", (0.03364, -0.00064, 0.08558), narrow, turned),
        Site(
            "front_contain_region",
            (-0.03102, -0.00064, 0.04054),
            (0.02775, 0.03595, 0.06216),
            front,
        ),
    ]


def wooden_two_layer_shelf() -> ObjectModel:
    """Returns the shelf: two layers, open in front."""
    boards = [
        slab((-0.1608, -0.0792, 0.0002), (-0.1467, 0.1116, 0.2090)),
        slab((0.1560, -0.0792, 0.0002), (0.1702, 0.1116, 0.2090)),
        slab((-0.1603, 0.1071, 0.0002), (0.1662, 0.1117, 0.2090)),
        slab((-0.1481, -0.0709, 0.0689), (0.1585, 0.1083, 0.0711)),
        slab((-0.1708, -0.0789, 0.2057), (0.1808, 0.1117, 0.2107)),
    ]
    other_side = rotation("y", -90)
    body = Body(
        "object",
        sites=[
            Site("top_side", (0.00496, 0.01567, 0.20688), (0.17557, 0.09438, 0.00147)),
            Site(
                "top_region", (0.00538, 0.01687, 0.13672), (0.06739, 0.08564, 0.15093), other_side
            ),
            Site(
                "bottom_region", (0.00555, 0.01687, 0.01407), (0.03528, 0.08564, 0.15580), _ON_SIDE
            ),
        ],
        solids=boards,
        looks=[("dark_wood", boards)],
    )
    return _model("turbosquid_objects", body, "wooden_two_layer_shelf")


def wine_rack() -> ObjectModel:
    """Returns the wine rack: two slanted boards with a stop each, on a post and two feet."""
    boards = [
        box((0, -0.0061, 0.2512), (0.1344, 0.0789, 0.0045), ("x", 31.25)),
        box((0, -0.0427, 0.1273), (0.1344, 0.0789, 0.0045), ("x", 31.25)),
    ]
    stops = [
        box((0, -0.0748, 0.2207), (0.1322, 0.0011, 0.0087), ("x", 29.3)),
        box((0, -0.1091, 0.0974), (0.1322, 0.0011, 0.0087), ("x", 29.3)),
    ]
    stand = [
        box((0, 0, 0.0066), (0.0665, 0.0930, 0.0045)),
        box((0, 0.0694, 0.0101), (0.0900, 0.0600, 0.0045), ("x", -7.5)),
        box((0, -0.0643, 0.0126), (0.0900, 0.0600, 0.0045), ("x", 8.0)),
        slab((-0.0905, -0.0141, 0.0160), (0.0905, 0.0141, 0.0250)),
        box((0, 0.0089, 0.1703), (0.0076, 0.0091, 0.1616), ("x", -15.85)),
    ]
    region = Site("top_region", (0, -0.08003, 0.21745), (0.10087, 0.022, 0.00251))
    body = Body(
        "object",
        sites=[Site(region.name, region.position, region.size, rotation("x", -62.5))],
        solids=[*boards, *stops, *stand],
        looks=[("light_wood", boards), ("dark_grey", stops), ("red_wood", stand)],
    )
    return _model("turbosquid_objects", body, "wine_rack")


def _book(name: str, low: Vector, high: Vector, cover: str) -> ObjectModel:
    """Returns a book standing on its edge, its spine towards -y."""
    solid = slab(low, high)
    (x0, y0, z0), (x1, y1, z1) = low, high
    board = (x1 - x0) * 0.14
    covers = [
        slab((x0, y0, z0), (x0 + board, y1, z1)),
        slab((x1 - board, y0, z0), (x1, y1, z1)),
        slab((x0, y0, z0), (x1, y0 + board, z1)),
    ]
    inset = 0.002
    pages = slab((x0 + board, y0 + board, z0 + inset), (x1 - board, y1 - inset, z1 - inset))
    body = Body(
        "object",
        inertial=INERTIALS[name],
        solids=[solid],
        looks=[(cover, covers), ("paper", [pages])],
    )
    return _model("turbosquid_objects", body, name)


def black_book() -> ObjectModel:
    """Returns the black book."""
    return _book("black_book", (-0.01481, -0.06734, 0.00217), (0.01387, 0.04304, 0.13657), "black")


def yellow_book() -> ObjectModel:
    """Returns the yellow book."""
    return _book(
        "yellow_book", (-0.01013, -0.04879, 0.00198), (0.01341, 0.04895, 0.12422), "yellow"
    )


CONTAINERS = (
    basket,
    wooden_tray,
    desk_caddy,
    wooden_two_layer_shelf,
    wine_rack,
    black_book,
    yellow_book,
)
