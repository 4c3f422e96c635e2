"""What a task's BDDL file puts into the scene, and the layout of the state that follows from it.

Read without the simulator, so that an environment knows its spaces before it starts one.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The hinges and slides of LIBERO's articulated categories, in the order of their models.
_JOINTS = {
    "flat_stove": ("button",),
    "microwave": ("microjoint",),
    "white_cabinet": ("top_level", "middle_level", "bottom_level"),
    "wooden_cabinet": ("top_level", "middle_level", "bottom_level"),
}
# What the scene stands on is a fixture in the BDDL file, but part of the room in the model.
_WORKSPACES = (
    "coffee_table",
    "floor",
    "kitchen_table",
    "living_room_table",
    "study_table",
    "table",
)

_ROBOT_PARTS = (
    ("robot0_joint_pos", 7, "rad"),
    ("robot0_joint_vel", 7, "rad/s"),
    ("robot0_eef_pos", 3, "m, world"),
    ("robot0_eef_quat", 4, "xyzw, world"),
    ("robot0_gripper_qpos", 2, "m"),
    ("robot0_gripper_qvel", 2, "m/s"),
)
_OBJECT_PARTS = (
    ("{}_pos", 3, "m, world"),
    ("{}_quat", 4, "xyzw, world"),
    ("{}_to_robot0_eef_pos", 3, "m, gripper"),
)
ROBOT_SIZE = sum(size for _, size, _ in _ROBOT_PARTS)
OBJECT_SIZE = sum(size for _, size, _ in _OBJECT_PARTS)


@dataclasses.dataclass(frozen=True)
class StatePart:
    """A named stretch of the flat state.

    Args:
        name: LIBERO's name of the observable; for a drawer, door or knob its joint and `_qpos`.
        start: First index.
        size: Number of values.
        unit: Unit and frame.
    """

    name: str
    start: int
    size: int
    unit: str

    @property
    def slice(self) -> slice:
        """Where the part stands in the state."""
        return slice(self.start, self.start + self.size)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The movable objects and fixtures of a task, name to category, in the model's order."""

    objects: dict[str, str]
    fixtures: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Objects, then fixtures."""
        return (*self.objects, *self.fixtures)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Hinges and slides of the articulated objects and fixtures."""
        placed = {**self.objects, **self.fixtures}
        return tuple(
            f"{name}_{joint}" for name in placed for joint in _JOINTS.get(placed[name], ())
        )

    def state_layout(self) -> tuple[StatePart, ...]:
        """The parts of the flat state: robot, objects and fixtures, then joints."""
        sizes = [
            *_ROBOT_PARTS,
            *(
                (part.format(n), size, unit)
                for n in self.names
                for part, size, unit in _OBJECT_PARTS
            ),
            *((f"{joint}_qpos", 1, "rad or m") for joint in self.joint_names),
        ]
        parts, start = [], 0
        for name, size, unit in sizes:
            parts.append(StatePart(name, start, size, unit))
            start += size
        return tuple(parts)


def read_scene(bddl_file: Path) -> Scene:
    """The scene of a BDDL file.

    Raises:
        ValueError: If the file is not a BDDL problem.
    """
    # As LIBERO's own parser: names in lower case, comments from a semicolon to the end of the line.
    try:
        text = re.sub(r";.*", "", bddl_file.read_text(encoding="utf-8").lower())
        problem = next(_expressions(iter(re.findall(r"[()]|[^\s()]+", text))), [])
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"Expected a BDDL problem in {bddl_file}: {error}.") from error
    groups = {group[0]: group[1:] for group in problem[1:] if isinstance(group, list) and group}
    if not problem or problem[0] != "define" or ":objects" not in groups:
        raise ValueError(f"Expected a BDDL problem with `:objects` in {bddl_file}, found none.")
    objects = _by_category(groups[":objects"])
    fixtures = _by_category(groups.get(":fixtures", []))
    return Scene(
        objects,
        {name: category for name, category in fixtures.items() if category not in _WORKSPACES},
    )


def _expressions(tokens: Iterator[str]) -> Iterator[Any]:
    """Nested lists of words, up to the parenthesis that closes the current one."""
    for token in tokens:
        if token == ")":
            return
        yield list(_expressions(tokens)) if token == "(" else token


def _by_category(words: list[str]) -> dict[str, str]:
    """`a b - x c - y` as `{a: x, b: x, c: y}`."""
    categories: dict[str, str] = {}
    waiting: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "-" and words:
            category = words.pop(0)
            categories.update(dict.fromkeys(waiting, category))
            waiting = []
        else:
            waiting.append(word)
    return categories
