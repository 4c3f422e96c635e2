"""What is known of the published RLDS sets of LIBERO and of sets built in the same way.

`openvla/modified_libero_rlds` and its relatives come from one builder, which turned the images by
180 degrees, and hold demonstrations whose replay succeeded (Kim et al. 2024, "OpenVLA", appendix
on LIBERO; the builder's source). Nothing of this stands in their files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from libero_reward_envs.data.provenance import Provenance
from libero_reward_envs.data.rlds.features import STEPS, Leaf

KEY_MAP = {"image": "agentview_image", "wrist_image": "robot0_eye_in_hand_image"}
FILE_PATH = "episode_metadata/file_path"
_SUITE = re.compile(r"liber(?:o_|_o)(spatial|object|goal|10|90)((?:_no_noops)?)")
_ACTION_SIZE = 7
_CONTROL_FREQ_HZ = 20.0


def find_suite(folder: Path, name: str) -> str | None:
    """Return the LIBERO suite that a set's name or its folder's names say, None if neither does.

    TensorFlow Datasets made `liber_o10` of the builder's name `LIBERO_10`.

    Example:
        >>> find_suite(Path("libero_10_no_noops/1.0.0"), "liber_o10")
        'libero_10'
    """
    for candidate in (name, folder.name, folder.parent.name):
        match = _SUITE.fullmatch(candidate.lower())
        if match:
            return f"libero_{match[1]}"
    return None


def is_published_layout(leaves: Mapping[str, Leaf]) -> bool:
    """Return whether the features are those of the builder of the published sets."""
    action = leaves.get(f"{STEPS}/action")
    images = [leaves.get(f"{STEPS}/observation/{key}") for key in KEY_MAP]
    return (
        action is not None
        and action.shape == (_ACTION_SIZE,)
        and all(image is not None and image.kind == "image" for image in images)
        and FILE_PATH in leaves
    )


def describe_published(folder: Path, image_size: tuple[int, int] | None) -> Provenance:
    """Return the provenance of the episodes of such a set."""
    no_noops = any(part.endswith("_no_noops") for part in (folder.name, folder.parent.name))
    return Provenance(
        "rlds",
        image_size=image_size,
        orientation="vla180",
        control_freq_hz=_CONTROL_FREQ_HZ,
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        no_ops_filtered=True if no_noops else None,
        reward_source="last_step",
        final_observation="repeated",
    )


def parse_task(suite: str, file_path: str) -> str:
    """Return the task that a demonstration file's name says, "" if it says none.

    Example:
        >>> parse_task("libero_goal", "/data/libero_goal/push_the_plate_demo.hdf5")
        'libero_goal/push_the_plate'
    """
    match = re.fullmatch(r"(\w+)_demo\.hdf5", re.split(r"[/\\]", file_path)[-1])
    return f"{suite}/{match[1]}" if match else ""
