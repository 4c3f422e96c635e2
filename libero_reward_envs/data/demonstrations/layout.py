"""What a file of demonstrations says, and what its layout is known to mean.

LIBERO's files are recognised by the names of their attributes or observations, and their numbers
are read as the script that wrote them left them: images in OpenGL's order, displacements at 20 Hz,
a gripper that closes at 1, successes only, a reward of 1 at the last step. What robomimic's
`env_args` say is taken from there; its script turns robosuite's images upright.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data.hdf5 import list_demos
from libero_reward_envs.data.hdf5_heap import HeapReader
from libero_reward_envs.data.provenance import Provenance
from libero_reward_envs.data.safe_hdf5 import get_child

LIBERO_KEYS = {
    "agentview_rgb": "agentview_image",
    "eye_in_hand_rgb": "robot0_eye_in_hand_image",
}
_LIBERO_ATTRIBUTES = {"problem_info", "bddl_file_name", "macros_image_convention"}
_CONVENTIONS = {"opengl": "raw", "opencv": "upright"}  # robosuite's `macros.IMAGE_CONVENTION`
_ROBOSUITE = 1  # robomimic's number of it in `env_args`
_SUITE = re.compile(r"(libero_(?:spatial|object|goal|90|10))(?:_|$)")


@dataclass(frozen=True, eq=False)
class DemonstrationFile:
    """What is known of a file without its episodes.

    Attributes:
        path: The file.
        numbers: i of each `demo_<i>`, ascending, int32.
        is_libero: Whether it is of LIBERO's layout, and holds successes only.
        task: Suite and name, or what is known of them.
        instruction: What the robot was told; "" if the file does not say.
        provenance: How its numbers are to be read, as far as that holds for all episodes.
    """

    path: Path
    numbers: np.ndarray
    is_libero: bool
    task: str
    instruction: str
    provenance: Provenance


def describe_file(file: h5py.File, path: Path) -> DemonstrationFile:
    """Return what an open file says of itself.

    Raises:
        ValueError: If it holds no demonstrations, or is of this package's own format.
    """
    data = get_child(file, "data", h5py.Group)
    attributes = set(data.attrs)
    if "format_version" in attributes:
        raise ValueError("it is of this package's own format: read it as format 'hdf5'")
    numbers = list_demos(data)
    if not len(numbers):
        raise ValueError("no group `demo_<number>` in /data")
    texts = _read_texts(file, data, ("env_args", "bddl_file_name", "macros_image_convention"))
    is_libero = bool(attributes & _LIBERO_ATTRIBUTES or _has_libero_keys(data, numbers))
    env_args = _parse(texts.get("env_args", ""))
    if is_libero:
        task, instruction = _find_task(path, texts.get("bddl_file_name", ""))
        convention = texts.get("macros_image_convention", "opengl")
        provenance = _describe_libero(path, convention, was_regenerated=not attributes)
    else:
        task, instruction = str(env_args.get("env_name", "")), ""
        provenance = Provenance(
            "robomimic",
            orientation="upright" if env_args.get("type") == _ROBOSUITE else None,
            action_range=(-1.0, 1.0),
            reward_source="env",
        )
    provenance = _add_recorded(provenance, env_args.get("env_kwargs"))
    return DemonstrationFile(path, numbers, is_libero, task, instruction, provenance)


def _describe_libero(path: Path, convention: str, *, was_regenerated: bool) -> Provenance:
    no_ops_filtered: bool | None = False
    if was_regenerated:  # only the name tells whether the script that left out no-ops did it
        named = any("no_noops" in name for name in (path.name, path.resolve().parent.name))
        no_ops_filtered = True if named else None
    return Provenance(
        "libero",
        orientation=_CONVENTIONS.get(convention),
        control_freq_hz=20.0,
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        no_ops_filtered=no_ops_filtered,
        reward_source="last_step",
        success_source="demonstration",
    )


def _add_recorded(provenance: Provenance, env_kwargs: Any) -> Provenance:
    """Return it with what the environment's arguments say of actions."""
    if not isinstance(env_kwargs, dict):
        return provenance
    found = vars(provenance).copy()
    frequency = env_kwargs.get("control_freq")
    if isinstance(frequency, (int, float)) and 0 < frequency < 1e6:
        found["control_freq_hz"] = float(frequency)
    controller = env_kwargs.get("controller_configs")
    is_delta = controller.get("control_delta") if isinstance(controller, dict) else None
    if isinstance(is_delta, bool):
        found["action_convention"] = "delta" if is_delta else "absolute"
    return Provenance(**found)


def _find_task(path: Path, bddl_file_name: str) -> tuple[str, str]:
    """Return the task and its instruction; where the file was renamed, the BDDL file's name stays.

    The instruction is the words of the task's name after the last one that contains SCENE.
    """
    bddl = PurePosixPath(bddl_file_name.replace("\\", "/"))
    name = bddl.stem or path.name.partition(".")[0].removesuffix("_demo")
    words = name.split("_")
    scenes = [index for index, word in enumerate(words) if "SCENE" in word]
    instruction = " ".join(words[scenes[-1] + 1 :] if scenes else words)
    for folder in (path.resolve().parent.name, bddl.parent.name):
        if match := _SUITE.match(folder):
            return f"{match[1]}/{name}", instruction
    return name, instruction


def _has_libero_keys(data: h5py.Group, numbers: Iterable[int]) -> bool:
    for number in numbers:  # the first one that is not damaged tells
        try:
            demo = get_child(data, f"demo_{number}", h5py.Group)
            names = set(get_child(demo, "obs", h5py.Group))
        except (ValueError, KeyError, RuntimeError, OSError):
            continue
        return bool(names & LIBERO_KEYS.keys())
    return False


def _read_texts(file: h5py.File, data: h5py.Group, names: Iterable[str]) -> dict[str, str]:
    """Return those attributes that are text and can be read; without them less is known."""
    texts = {}
    try:
        with HeapReader(file) as reader:
            for name in names:
                if name in data.attrs:
                    texts[name] = reader.read_text(data, name)
    except (ValueError, OSError, RuntimeError, KeyError, TypeError):
        return texts
    return texts


def _parse(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
