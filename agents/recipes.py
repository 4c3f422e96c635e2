"""What each scripted expert does: one row a task, and the moves that a row stands for."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

from libero_reward_envs.agents.motions import CLOSED, START, Move
from libero_reward_envs.envs.scene import read_scene
from libero_reward_envs.envs.tasks import Task, bddl_file, task_names

Vector = tuple[float, float, float]


class Recipe(Protocol):
    """What an expert knows about its task."""

    def moves(self) -> tuple[Move, ...]:
        """Return the script."""
        ...


_CLOSING_STEPS, _OPENING_STEPS = 15, 6


@dataclasses.dataclass(frozen=True)
class PickAndPlace:
    """Take an object and set it down at a target.

    Args:
        object: The object's name in the state.
        target: The object or fixture that it is brought to.
        grasp_m: From the object's frame to the fingertips when they close, shape (3,).
        release_m: From the target's frame to the object's when the fingers open, shape (3,).
        lift_m: How far it is lifted from where it was taken.
        clearance_m: How far above the release it is carried.
        grasp_rotation_rad: Rotation vector of the gripper in the grasp, from pointing down.
        closing_steps: Steps for which the fingers close: 15 for something thin, 8 for 4 cm or more.
    """

    object: str
    target: str
    grasp_m: Vector = (0.0, 0.0, 0.0)
    release_m: Vector = (0.0, 0.0, 0.1)
    lift_m: float = 0.2
    clearance_m: float = 0.1
    grasp_rotation_rad: Vector | None = None
    closing_steps: int = 15

    def moves(self) -> tuple[Move, ...]:
        """Above the object, down, grip, up, above the target, down, let go, up."""
        x, y, z = self.grasp_m
        turn = self.grasp_rotation_rad
        carried = {"mover": self.object, "gripper": CLOSED}
        rx, ry, rz = self.release_m
        return (
            Move("reach", self.object, (x, y, z + 0.1), tolerance_m=0.015, rotation_rad=turn),
            Move("descend", self.object, self.grasp_m, tolerance_m=0.008, rotation_rad=turn),
            Move("grip", START, gripper=CLOSED, min_steps=self.closing_steps, max_steps=0),
            Move(
                "lift", START, (0, 0, self.lift_m), tolerance_m=0.03, holds=self.object, **carried
            ),
            Move(
                "carry", self.target, (rx, ry, rz + self.clearance_m), tolerance_m=0.015, **carried
            ),
            Move("lower", self.target, self.release_m, holds=self.object, max_steps=30, **carried),
            Move("release", START, min_steps=_OPENING_STEPS, max_steps=0),
            Move("retreat", START, (0, 0, 0.12), tolerance_m=0.03),
        )


@dataclasses.dataclass(frozen=True)
class Script:
    """Moves that are written out.

    Args:
        script: The moves.
    """

    script: tuple[Move, ...]

    def moves(self) -> tuple[Move, ...]:
        """Return the script."""
        return self.script


def _push(fixture: str, *points_m: Vector) -> Script:
    """Lead the closed gripper along points that are given from the fixture's frame."""
    return Script(tuple(Move("push", fixture, point, CLOSED) for point in points_m))


def _pull_drawer(cabinet: str, handle_m: Vector) -> tuple[Move, ...]:
    """Take a handle that faces +y from the front, with the gripper level, and pull it open."""
    x, y, z = handle_m
    level: Vector = (-1.2, 0.0, 0.0)  # quite level, the hand would scrape over what lies in front
    return (
        Move("reach", cabinet, (x, y + 0.17, z), rotation_rad=level),
        Move("approach", cabinet, handle_m, rotation_rad=level),
        Move("grip", START, gripper=CLOSED, min_steps=_CLOSING_STEPS, max_steps=0),
        Move("pull", cabinet, (x, y + 0.25, z), CLOSED, rotation_rad=level),
    )


def _turn_knob(stove: str, knob_m: Vector, angle_rad: float) -> Script:
    x, y, z = knob_m
    return Script(
        (
            Move("reach", stove, (x, y, z + 0.1), rotation_rad=(0.0, 0.0, 0.0)),
            Move("descend", stove, knob_m, rotation_rad=(0.0, 0.0, 0.0)),
            Move("grip", START, gripper=CLOSED, min_steps=_CLOSING_STEPS, max_steps=0),
            Move("turn", stove, knob_m, CLOSED, rotation_rad=(0.0, 0.0, angle_rad)),
        )
    )


# From the frame of an object to the fingertips that hold it, by the object's category. The palm is
# only 4 cm above the fingertips, so tall things are held high. Cream cheese is held off its middle,
# because on LIBERO-Object the hand would stand on the can beside it.
_GRASPS_M: Mapping[str, Vector] = {
    "akita_black_bowl": (0.0, 0.05, 0.03),  # by the side of the rim
    "alphabet_soup": (0.0, 0.0, 0.015),
    "bbq_sauce": (0.0, 0.0, 0.03),
    "butter": (0.0, 0.0, 0.003),
    "chocolate_pudding": (0.0, 0.0, 0.003),
    "cream_cheese": (-0.02, 0.0, 0.003),
    "ketchup": (0.0, 0.0, 0.04),
    "milk": (0.0, 0.0, 0.04),
    "orange_juice": (0.0, 0.0, 0.04),
    "salad_dressing": (0.0, 0.0, 0.04),
    "tomato_sauce": (0.0, 0.0, 0.035),
    "wine_bottle": (0.0, 0.0, 0.125),
}

_BOWL, _CABINET = "akita_black_bowl_1", "wooden_cabinet_1"
_RIM_M = _GRASPS_M["akita_black_bowl"]


def other_scripts(task: Task) -> tuple[tuple[Move, ...], ...]:
    """Return scripts that do the same with something else that stands in the task's scene."""
    recipe = RECIPES[task.id]
    if not isinstance(recipe, PickAndPlace):
        return ()
    objects = read_scene(bddl_file(task)).objects
    return tuple(
        dataclasses.replace(
            recipe, object=name, grasp_m=_GRASPS_M[category], grasp_rotation_rad=None
        ).moves()
        for name, category in objects.items()
        if category in _GRASPS_M and name not in (recipe.object, recipe.target)
    )


def _into_basket(grocery: str) -> PickAndPlace:
    return PickAndPlace(
        f"{grocery}_1", "basket_1", _GRASPS_M[grocery], (0.0, 0.0, 0.12), closing_steps=8
    )


def _bowl_sideways(target: str, release_m: Vector, height_m: float) -> PickAndPlace:
    """Hold the bowl by the rim's +x side, so that the hand lies along a drawer that opens to +y."""
    return PickAndPlace(
        _BOWL,
        target,
        (0.05, 0.0, height_m),
        release_m,
        grasp_rotation_rad=(0.0, 0.0, math.pi / 2),
    )


def _recipes() -> dict[str, Recipe]:
    """One row a supported task, by `suite/name`, in LIBERO's order."""
    prefix, suffix = "pick_up_the_", "_and_place_it_in_the_basket"
    rows: dict[str, Recipe] = {
        f"libero_object/{name}": _into_basket(name.removeprefix(prefix).removesuffix(suffix))
        for name in task_names()["libero_object"]
    }
    on_plate = PickAndPlace(_BOWL, "plate_1", _RIM_M, release_m=(0.0, 0.0, 0.03))
    rows |= {f"libero_spatial/{name}": on_plate for name in task_names()["libero_spatial"]}
    # In the drawer the hand has no room across; from the ramekin the bowl jams when it is pulled up
    # by its other side.
    for place, height_m in (
        ("in_the_top_drawer_of_the_wooden_cabinet", 0.04),
        ("on_the_ramekin", 0.035),
    ):
        name = f"libero_spatial/pick_up_the_black_bowl_{place}_and_place_it_on_the_plate"
        rows[name] = _bowl_sideways("plate_1", (0.0, 0.0, 0.03), height_m)
    rows |= {
        "libero_goal/put_the_bowl_on_the_stove": PickAndPlace(
            _BOWL, "flat_stove_1", _RIM_M, release_m=(0.16, 0.0, 0.05)
        ),
        "libero_goal/put_the_wine_bottle_on_top_of_the_cabinet": PickAndPlace(
            "wine_bottle_1", _CABINET, _GRASPS_M["wine_bottle"], (0.0, 0.0, 0.25), lift_m=0.3
        ),
        "libero_goal/put_the_bowl_on_top_of_the_cabinet": PickAndPlace(
            _BOWL, _CABINET, _RIM_M, (0.0, 0.0, 0.25), lift_m=0.3
        ),
        "libero_goal/put_the_cream_cheese_in_the_bowl": PickAndPlace(
            "cream_cheese_1", _BOWL, _GRASPS_M["cream_cheese"], (0.0, 0.0, 0.08)
        ),
        "libero_goal/put_the_bowl_on_the_plate": on_plate,
    }
    rows |= {
        "libero_goal/open_the_middle_drawer_of_the_cabinet": Script(
            _pull_drawer(_CABINET, (0.007, 0.105, 0.11))
        ),
        "libero_goal/turn_on_the_stove": _turn_knob("flat_stove_1", (-0.01, 0.0, 0.035), 1.2),
        "libero_90/KITCHEN_SCENE5_close_the_top_drawer_of_the_cabinet": _push(
            "white_cabinet_1", (0.0, -0.38, 0.3), (0.0, -0.38, 0.18), (0.0, -0.05, 0.18)
        ),
        "libero_90/KITCHEN_SCENE6_close_the_microwave": _push(
            "microwave_1",
            (-0.38, -0.3, 0.25),  # beside the door, which may be open by 2 rad
            (-0.38, -0.3, 0.1),
            (-0.08, -0.3, 0.1),
            (0.04, -0.2, 0.1),
            (0.06, -0.05, 0.1),
        ),
    }
    return rows


RECIPES = _recipes()
