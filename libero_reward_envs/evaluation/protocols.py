"""Published ways to evaluate on LIBERO, by name: what a success rate must say to be compared."""

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from libero_reward_envs.envs.tasks import STEP_LIMITS, Task, find_task, task_names

ERROR_RULES = ("failure", "left out")
SEED_RULES = ("trial", "task")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How episodes are begun, seen, limited and counted.

    Args:
        name: What it is called.
        source: Where it is published.
        trials: Episodes of each task; trial i begins in stored initial state i, modulo their
            number.
        step_limits: Steps that an episode lasts at most by suite, without those of settling.
        settle_steps: Steps with the arm still and the gripper open before the agent acts.
        image_size: Height and width of the camera's pictures, in pixels.
        orientation: How pictures lie when the model sees them, see `data.orientations`.
        jpeg: Whether they go through a JPEG file of quality 95, as the training data did.
        crop_area: Part of a picture that a model trained with random crops sees, its middle.
        errors: "failure" or "left out": what an episode that could not be finished counts as.
        seed_rule: "trial" where trial i is reset with seed + i, "task" where all trials of a task
            are reset with the seed. It decides where fixtures stand.
        model_seed: Of the generators before a model is loaded; without effect on a greedy one.
        repeats: Evaluations of differently trained or seeded models that published numbers average.
    """

    name: str
    source: str
    trials: int
    step_limits: Mapping[str, int]
    settle_steps: int
    image_size: int
    orientation: str
    jpeg: bool
    crop_area: float | None
    errors: str
    seed_rule: str
    model_seed: int
    repeats: int

    def __post_init__(self) -> None:
        assert self.errors in ERROR_RULES
        assert self.seed_rule in SEED_RULES

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "step_limits": dict(self.step_limits)}

    def step_limit(self, suite: str) -> int:
        """Return the limit of a suite.

        Raises:
            ValueError: If the protocol has no such suite.
        """
        if suite not in self.step_limits:
            raise ValueError(
                f"Unknown suite {suite!r} of protocol {self.name!r}."
                f"{_nearest(suite, self.step_limits)} Choose one of: {', '.join(self.step_limits)}."
            )
        return self.step_limits[suite]

    def seed(self, base: int, trial: int) -> int:
        """Return the seed that a trial is reset with."""
        return base + trial if self.seed_rule == "trial" else base


# The spec of each: Kim et al. (2024), "OpenVLA", arXiv 2406.09246, and its published evaluation
# script. That script seeds LIBERO with 0 once a task and draws where fixtures stand from one
# generator, trial after trial. Here trial i is reset with 0 + i: as different from trial to trial,
# and each can be repeated alone.
_OPENVLA = Protocol(
    name="openvla",
    source="Kim et al. (2024), arXiv 2406.09246, evaluation on LIBERO",
    trials=50,
    step_limits=MappingProxyType(STEP_LIMITS),
    settle_steps=10,
    image_size=256,
    orientation="vla180",
    jpeg=True,
    crop_area=0.9,
    errors="failure",
    seed_rule="trial",
    model_seed=7,
    repeats=3,
)
PROTOCOLS = {protocol.name: protocol for protocol in (_OPENVLA,)}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ValueError: If there is none of that name; the message names the nearest one.
    """
    if name not in PROTOCOLS:
        raise ValueError(
            f"Unknown protocol {name!r}.{_nearest(name, PROTOCOLS)} Choose one of: "
            f"{', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[name]


def choose_tasks(suite: str, tasks: tuple[str, ...] | None = None) -> list[Task]:
    """Return tasks of a suite.

    Args:
        suite: The suite.
        tasks: Their names or indices; None for all.

    Raises:
        ValueError: If there is no such suite or task, or one is named twice.
    """
    if suite not in task_names():
        raise ValueError(
            f"Unknown suite {suite!r}.{_nearest(suite, task_names())} Choose one of: "
            f"{', '.join(task_names())}."
        )
    named = [str(index) for index in range(len(task_names()[suite]))] if tasks is None else tasks
    found = [find_task(suite, int(name) if name.isdigit() else name) for name in named]
    if not found or len({task.id for task in found}) < len(found):
        raise ValueError(f"Expected different tasks of {suite!r}, got {list(named)}.")
    return found


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""
