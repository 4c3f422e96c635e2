"""How the numbers of an episode are to be read: resolution, orientation, actions, reward."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libero_reward_envs.data.orientations import ORIENTATIONS

PROVENANCE_KEY = "provenance"  # in the metadata of an episode
ACTION_CONVENTIONS = ("delta", "absolute")
OBSERVATIONS_AT_ENDS = ("recorded", "repeated")


@dataclass(frozen=True)
class Provenance:
    """What a file does not show by itself and a reader must not guess. None: not known.

    Args:
        source_format: The format that the episode was first read from, such as "rlds".
        image_size: (H, W) of the images, in pixels.
        orientation: "upright" (the true view), "raw" (upside down, LIBERO's own files) or "vla180"
            (turned by 180 degrees, the data of OpenVLA and its relatives).
        control_freq_hz: Steps a second.
        action_convention: "delta" for displacements of the gripper, "absolute" for poses.
        action_range: Least and greatest number of an action's dimensions in the source; an
            `Episode` has them in [-1, 1].
        gripper_closed_at: The last number of an action at which the gripper closes: 1 in LIBERO.
        no_ops_filtered: Whether steps without movement were left out.
        reward_source: Where rewards come from: "env", "last_step" (1 at the last step of a
            success), "none" (all 0).
        success_source: Where success comes from: "env", "reward", "demonstration" (the format
            holds successes only).
        first_observation: "recorded", or "repeated" where the format has no observation before the
            first step and the one after it stands there twice.
        final_observation: The same of the observation after the last step.

    Raises:
        ValueError: If a value is none of these.

    Example:
        >>> Provenance("rlds", orientation="vla180").as_json()["orientation"]
        'vla180'
    """

    source_format: str
    image_size: tuple[int, int] | None = None
    orientation: str | None = None
    control_freq_hz: float | None = None
    action_convention: str | None = None
    action_range: tuple[float, float] | None = None
    gripper_closed_at: float | None = None
    no_ops_filtered: bool | None = None
    reward_source: str | None = None
    success_source: str | None = None
    first_observation: str = "recorded"
    final_observation: str = "recorded"

    def __post_init__(self) -> None:
        self._check_types()
        choices = {
            "orientation": (None, *ORIENTATIONS),
            "action_convention": (None, *ACTION_CONVENTIONS),
            "first_observation": OBSERVATIONS_AT_ENDS,
            "final_observation": OBSERVATIONS_AT_ENDS,
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                listed = ", ".join(map(repr, known))
                raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
        for name in ("image_size", "action_range"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))  # frozen forbids plain assignment

    def _check_types(self) -> None:
        size, rate = self.image_size, self.control_freq_hz
        checks = (
            ("source_format", isinstance(self.source_format, str), "a string"),
            ("image_size", size is None or _are_sizes(size), "two numbers of pixels"),
            ("control_freq_hz", rate is None or (_is_number(rate) and rate > 0), "a rate above 0"),
            ("action_range", _is_range(self.action_range), "two numbers, the lower one first"),
            ("gripper_closed_at", _is_none_or_number(self.gripper_closed_at), "a number"),
            ("no_ops_filtered", isinstance(self.no_ops_filtered, bool | None), "True or False"),
            ("reward_source", _is_none_or_text(self.reward_source), "a string"),
            ("success_source", _is_none_or_text(self.success_source), "a string"),
        )
        for name, holds, wanted in checks:
            if not holds:
                raise ValueError(f"`{name}` must be {wanted}, got {getattr(self, name)!r}.")

    def as_json(self) -> dict[str, Any]:
        """Return the values, as JSON holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    def find_differences(self, other: "Provenance") -> dict[str, tuple[Any, Any]]:
        """Return by name what both know and say otherwise; where it was first read from is none."""
        found = {}
        for name in (part.name for part in dataclasses.fields(self)):
            here, there = getattr(self, name), getattr(other, name)
            both_known = here is not None and there is not None
            if name != "source_format" and both_known and here != there:
                found[name] = (here, there)
        return found


def _is_number(value: Any) -> bool:
    known = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return known and math.isfinite(value)


def _is_none_or_number(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_none_or_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_two(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))


def _are_sizes(value: Any) -> bool:
    return _are_two(value) and all(number >= 1 and number == int(number) for number in value)


def _is_range(value: Any) -> bool:
    return value is None or (_are_two(value) and value[0] < value[1])


def read_provenance(metadata: Mapping[str, Any]) -> Provenance | None:
    """Return the provenance in an episode's metadata, None if there is none.

    Raises:
        ValueError: If it holds unknown names or values.
    """
    values = metadata.get(PROVENANCE_KEY)
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected a mapping under {PROVENANCE_KEY!r}, got {values!r}.")
    names = {part.name for part in dataclasses.fields(Provenance)}
    unknown = sorted(map(str, values.keys() - names))
    if unknown or "source_format" not in values:
        raise ValueError(
            f"Expected `source_format` and none but known names under {PROVENANCE_KEY!r}, got "
            f"{', '.join(map(str, values))}. It was written by a later version, or by hand."
        )
    return Provenance(**values)
