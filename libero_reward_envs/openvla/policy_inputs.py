"""What a policy takes from an observation; without torch, so that processes of envs can do it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from libero_reward_envs.data.orientations import ORIENTATIONS
from libero_reward_envs.envs.scene import Scene
from libero_reward_envs.openvla.libero_conventions import compute_axis_angle
from libero_reward_envs.openvla.policy_images import CROP_AREA, prepare_policy_images

PROPRIO_KEY = "proprio"
STATE_KEY = "state"
_ROBOT = {part.name: part.slice for part in Scene({}, {}).state_layout()}
_ROBOT_SIZE = max(part.stop for part in _ROBOT.values())


class PolicyInputs(NamedTuple):
    """What a policy is given, of n environments.

    Attributes:
        images: Of each camera, (n, 224, 224, 3) uint8, as the model saw them in training.
        proprio: The robots' own states, physical, (n, p) float32; None for a policy without.
    """

    images: tuple[np.ndarray, ...]
    proprio: np.ndarray | None

    def choose(self, rows: Sequence[int]) -> "PolicyInputs":
        """Return those of some environments."""
        chosen = list(rows)
        proprio = None if self.proprio is None else self.proprio[chosen]
        return PolicyInputs(tuple(view[chosen] for view in self.images), proprio)

    @classmethod
    def join(cls, parts: Sequence["PolicyInputs"]) -> "PolicyInputs":
        """Return those of several, one after the other."""
        views = zip(*(part.images for part in parts), strict=True)
        proprio = [part.proprio for part in parts if part.proprio is not None]
        return cls(
            tuple(np.concatenate(view) for view in views),
            np.concatenate(proprio) if proprio else None,
        )


@dataclasses.dataclass(frozen=True)
class InputReader:
    """Reads observations of one environment, or of a batch, as LIBERO's published evaluation does.

    Args:
        image_keys: The images, in the order in which the model was trained on cameras.
        orientation: How the environment's images are turned, see `data.orientations`.
        crop_area: Part of the pictures that is kept, None for all; see `prepare_policy_images`.
        jpeg: Whether pictures go through a JPEG file.
        n_proprio: Numbers of the robot's own state to read; 0 for none. 8 is LIBERO's: position
            of the gripper, its rotation vector and the two fingers. They are under "proprio" in
            the observation, or are taken out of LIBERO's "state".

    Raises:
        ValueError: If an argument is none of those.
    """

    image_keys: tuple[str, ...] = ("agentview_image",)
    orientation: str = "upright"
    crop_area: float | None = CROP_AREA
    jpeg: bool = True
    n_proprio: int = 0

    def __post_init__(self) -> None:
        keys = self.image_keys
        if isinstance(keys, str) or not keys or len({*keys}) < len(keys):
            raise ValueError(f"`image_keys` must be a list of different images, got {keys!r}.")
        object.__setattr__(self, "image_keys", tuple(keys))  # frozen forbids plain assignment
        if self.orientation not in ORIENTATIONS:
            raise ValueError(
                f"Unknown orientation {self.orientation!r}. Choose one of: "
                f"{', '.join(ORIENTATIONS)}."
            )
        if self.crop_area is not None and not 0 < self.crop_area <= 1:
            raise ValueError(f"`crop_area` must be above 0 and at most 1, got {self.crop_area}.")

    def __call__(self, observation: Any) -> PolicyInputs:
        """Return what the policy takes; of one environment as a batch of one.

        Args:
            observation: Images by key, (H, W, 3) or (n, H, W, 3) uint8, and the robot's state; or
                the image alone, where one is read.

        Raises:
            ValueError: If something is missing or of another shape or type.
        """
        if not isinstance(observation, Mapping):
            observation = self._name_image(observation)
        self.check_keys(observation)
        views = [np.asarray(observation[key]) for key in self.image_keys]
        is_single = views[0].ndim == 3
        views = [view[None] if is_single else view for view in views]
        lengths = {key: len(view) for key, view in zip(self.image_keys, views, strict=True)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Expected as many images of each camera, got {lengths}.")
        images = tuple(
            prepare_policy_images(
                view, orientation=self.orientation, jpeg=self.jpeg, crop_area=self.crop_area
            )
            for view in views
        )
        if not self.n_proprio:
            return PolicyInputs(images, None)
        return PolicyInputs(images, self._read_proprio(observation, is_single))

    def is_single(self, observation: Any) -> bool:
        """Whether an observation is of one environment rather than a batch."""
        if isinstance(observation, Mapping):
            self.check_keys(observation)
            observation = observation[self.image_keys[0]]
        return np.ndim(observation) == 3

    def check_keys(self, available: Any) -> None:
        """Raise ValueError unless observations have what is read.

        Args:
            available: Observations, or spaces, by name.
        """
        missing = [key for key in self.image_keys if key not in available]
        if missing:
            raise ValueError(
                f"Expected the images {', '.join(self.image_keys)}, got {', '.join(available)}; "
                f"{', '.join(missing)} missing. Name the environment's cameras by `image_keys`, "
                "or make it with these `cameras` and `obs_type='pixels'`."
            )
        if self.n_proprio and PROPRIO_KEY not in available and STATE_KEY not in available:
            raise ValueError(
                f"Expected the robot's own state under {PROPRIO_KEY!r} or {STATE_KEY!r}, got "
                f"{', '.join(available)}. Make the environment with `obs_type='pixels_state'`."
            )

    def _name_image(self, image: Any) -> dict[str, Any]:
        if len(self.image_keys) > 1 or self.n_proprio:
            raise ValueError(
                f"Expected observations by name ({', '.join(self.image_keys)}), got one of type "
                f"{type(image).__name__}."
            )
        return dict.fromkeys(self.image_keys, image)

    def _read_proprio(self, observation: Mapping[str, Any], is_single: bool) -> np.ndarray:
        if PROPRIO_KEY in observation:
            values = np.asarray(observation[PROPRIO_KEY], np.float32)
        else:
            values = read_libero_proprio(observation[STATE_KEY])
        values = values[None] if is_single else values
        if values.ndim != 2 or values.shape[1] != self.n_proprio:
            raise ValueError(
                f"Expected {self.n_proprio} numbers of the robot's own state, got shape "
                f"{values.shape[1:]}."
            )
        return values


def read_libero_proprio(state: Any) -> np.ndarray:
    """Return the robot's own state as OpenVLA-OFT is trained on it, (..., 8) float32.

    Position of the gripper in metres, its rotation vector in rad, the positions of the fingers.

    Args:
        state: LIBERO's state observation, (..., p), which begins with the robot.

    Raises:
        ValueError: If it is too short for a state.
    """
    state = np.asarray(state)
    if state.ndim < 1 or state.shape[-1] < _ROBOT_SIZE:
        raise ValueError(
            f"Expected LIBERO's state of at least {_ROBOT_SIZE} numbers, got shape {state.shape}."
        )
    parts = [
        state[..., _ROBOT["robot0_eef_pos"]],
        compute_axis_angle(state[..., _ROBOT["robot0_eef_quat"]]),
        state[..., _ROBOT["robot0_gripper_qpos"]],
    ]
    return np.concatenate(parts, axis=-1).astype(np.float32)
