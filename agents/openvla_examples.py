"""Episodes as OpenVLA is trained on them: their steps, pictures, and actions as it has them."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.agents.openvla_resampling import find_resampling_factor, join_steps
from libero_reward_envs.agents.regeneration import find_moving_steps
from libero_reward_envs.data.episodes import EpisodeDataset, EpisodeSummary
from libero_reward_envs.data.provenance import read_provenance
from libero_reward_envs.encoders.orientation import read_orientation
from libero_reward_envs.openvla.action_normalization import ActionStatistics, compute_statistics
from libero_reward_envs.openvla.libero_conventions import from_env_actions

GRIPPERS = ("auto", "libero", "none")
_LIBERO_ACTIONS = 7
# Cameras by the names that configurations of other projects have, and the keys that are tried.
_CAMERA_NAMES = {
    "primary": ("agentview_image", "image", "primary_image"),
    "wrist": ("robot0_eye_in_hand_image", "eye_in_hand_image", "wrist_image"),
}
# Formats whose pictures went through a JPEG file before, once.
_JPEG_FORMATS = ("rlds",)


class OpenVLAExamples:
    """The steps that a policy is trained on, and what is known of them without their pictures.

    Actions, in the env's convention in the episodes, are turned to OpenVLA's: a gripper of LIBERO,
    -1 open and 1 closed, becomes 1 open and 0 closed. All other numbers stay as they are; they are
    normalised later, by the statistics.

    Args:
        dataset: The episodes; their actions are read here, their pictures later.
        camera_names: Cameras in the order in which the model sees them: observation keys, with or
            without "_image" at the end, or "primary" and "wrist".
        orientation: How pictures are turned where an episode does not say it, see
            `data.orientations`.
        gripper: "libero" as above; "none" to take all numbers alike; "auto" for "libero" where the
            episodes say that the gripper closes at 1, or have LIBERO's suites, and seven numbers.
        filter_no_ops: Whether idle steps are left out, see `find_moving_steps`.
        control_freq_hz: Steps a second that the episodes must have; None for what they have.
        resample: Whether episodes with more steps a second, by a whole factor, are thinned.
        instruction: What is told where an episode has no instruction.
        action_dim: Numbers that an action must have, None for any.

    Attributes:
        image_keys: The observations that the cameras are.
        actions: Of the kept steps of each episode, (n, a) float32, physical.
        steps: Their numbers in the episode, (n,).
        instructions: Of each episode.
        orientations: Of each episode.
        gripper: "libero" or "none".
        control_freq_hz: Steps a second, None if not known.
        had_jpeg: Whether the pictures went through a JPEG file already.

    Raises:
        ValueError: If there is no episode, one lacks a camera, an instruction or its orientation,
            numbers of actions differ, or the control frequency is another.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        camera_names: Sequence[str] = ("primary",),
        *,
        orientation: str | None = None,
        gripper: str = "auto",
        filter_no_ops: bool = False,
        control_freq_hz: float | None = None,
        resample: bool = False,
        instruction: str | None = None,
        action_dim: int | None = None,
    ) -> None:
        if not len(dataset):
            raise ValueError("Expected at least one episode to train on, got none.")
        self.dataset = dataset
        summaries = dataset.summaries()
        first = dataset.read(0)
        self.image_keys = find_cameras(camera_names, first.observations)
        cheap = [key for key, value in first.observations.items() if value.ndim < 4]
        self._cheap_keys = cheap[:1] or [self.image_keys[0]]
        self.action_dim = first.actions.shape[1]
        if action_dim is not None and action_dim != self.action_dim:
            raise ValueError(
                f"Expected actions of {action_dim} numbers, as `action_dim` says, got "
                f"{self.action_dim} in the data. Set `action_dim` to {self.action_dim}, or give "
                "other data."
            )
        self.gripper = _find_gripper(gripper, summaries, self.action_dim)
        self.orientations = [_find_orientation(s, orientation) for s in summaries]
        self.instructions = [_find_instruction(s, instruction) for s in summaries]
        factors = [find_resampling_factor(s, control_freq_hz, resample) for s in summaries]
        self.control_freq_hz = control_freq_hz or _read(summaries[0], "control_freq_hz")
        self.had_jpeg = _read(summaries[0], "source_format") in _JPEG_FORMATS
        if filter_no_ops and self.action_dim != _LIBERO_ACTIONS:
            raise ValueError(
                "`filter_no_ops` knows idle steps of LIBERO's actions of 7 numbers only, got "
                f"{self.action_dim}. Leave them in."
            )
        found = [self._read_actions(i, factors[i], filter_no_ops) for i in range(len(dataset))]
        self.steps = [steps for steps, _ in found]
        self.actions = [actions for _, actions in found]

    def __len__(self) -> int:
        """The number of steps to train on."""
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        """Kept steps of each episode, (E,)."""
        return np.array([len(steps) for steps in self.steps])

    @property
    def masked_dims(self) -> np.ndarray:
        """Which numbers of an action are normalised, (a,) bool: all but a gripper of 0 and 1."""
        mask = np.ones(self.action_dim, bool)
        mask[-1] = self.gripper == "none"
        return mask

    def compute_statistics(self) -> ActionStatistics:
        """Compute the statistics of the actions over all kept steps."""
        return compute_statistics(self.actions, self.masked_dims)

    def read_images(self, episode: int) -> list[np.ndarray]:
        """Read the pictures of the kept steps, by camera (n, H, W, 3) uint8, as they are turned.

        Raises:
            ValueError: If the episode lacks a camera, or it gives no pictures.
        """
        observations = self.dataset.read(episode, self.image_keys).observations
        return [observations[key][self.steps[episode]] for key in self.image_keys]

    def _read_actions(
        self, index: int, factor: int, filter_no_ops: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept steps' numbers and actions of an episode."""
        episode = self.dataset.read(index, self._cheap_keys)
        actions = episode.actions
        if actions.shape[1] != self.action_dim:
            raise ValueError(
                f"Expected actions of {self.action_dim} numbers as in episode 0, got "
                f"{actions.shape[1]} in episode {index}. Train on one kind of robot at a time."
            )
        steps = np.arange(len(actions))
        if factor > 1:
            is_delta = _read(episode.summary(), "action_convention") != "absolute"
            steps, actions = join_steps(actions, factor, is_delta=is_delta)
        if filter_no_ops:
            kept = find_moving_steps(actions)
            steps, actions = steps[kept], actions[kept]
        if self.gripper == "libero":
            actions = from_env_actions(actions)
        return steps, actions.astype(np.float32)


def find_cameras(names: Sequence[str], observations: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the observation of each camera.

    Args:
        names: As of `OpenVLAExamples`.
        observations: Those of an episode.

    Raises:
        ValueError: If there is no camera of that name, or one is named twice; the message lists
            those that there are.

    Example:
        >>> images = {"agentview_image": np.zeros((2, 8, 8, 3), np.uint8)}
        >>> find_cameras(["primary"], images)
        ('agentview_image',)
    """
    pictures = [
        key
        for key, value in observations.items()
        if value.ndim == 4 and value.shape[-1] == 3 and value.dtype == np.uint8
    ]
    found = []
    for name in names:
        tried = (name, f"{name}_image", *_CAMERA_NAMES.get(name, ()))
        key = next((key for key in tried if key in pictures), None)
        if key is None:
            near = difflib.get_close_matches(name, pictures, n=1, cutoff=0.3)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"No camera {name!r} in the data.{hint} It has: {', '.join(pictures) or 'none'}. "
                "Set `camera_names`."
            )
        found.append(key)
    if not found or len(set(found)) != len(found):
        raise ValueError(f"Expected different cameras, at least one, got {list(names)}.")
    return tuple(found)


def _find_gripper(wanted: str, summaries: Sequence[EpisodeSummary], action_dim: int) -> str:
    if wanted not in GRIPPERS:
        raise ValueError(f"Unknown `gripper` {wanted!r}. Choose one of: {', '.join(GRIPPERS)}.")
    if wanted != "auto":
        return wanted
    told = {_read(summary, "gripper_closed_at") for summary in summaries}
    is_libero = all(summary.task.startswith("libero_") for summary in summaries)
    known = told - {None}
    if not known and not is_libero:
        return "none"
    if known - {1.0} or len(told) > 1:
        raise ValueError(
            "Expected grippers that all close at 1, as LIBERO's, got episodes that say "
            f"{sorted(map(str, told))}. Convert them, or set `gripper` to 'libero' or 'none'."
        )
    return "libero" if action_dim == _LIBERO_ACTIONS else "none"


def _find_orientation(summary: EpisodeSummary, told: str | None) -> str:
    found = read_orientation(summary.metadata)
    if found is None and told is None:
        raise ValueError(
            "Expected episodes that say how their pictures are turned, got one that does not "
            f"({summary.task or 'no task'}). Set `orientation` to 'upright', 'raw' or 'vla180'."
        )
    if None not in (found, told) and found != told:
        raise ValueError(
            f"`orientation` is {told!r}, but an episode ({summary.task or 'no task'}) says "
            f"{found!r}. Leave it out."
        )
    return str(found or told)


def _find_instruction(summary: EpisodeSummary, told: str | None) -> str:
    found = summary.instruction.strip() or (told or "").strip()
    if not found:
        raise ValueError(
            f"Expected episodes with an instruction, got one of {summary.task or 'no task'!r} "
            "without. Set `instruction`."
        )
    return found


def _read(summary: EpisodeSummary, name: str) -> Any:
    """Return what an episode's provenance says, None if it does not."""
    provenance = read_provenance(summary.metadata)
    return None if provenance is None else getattr(provenance, name)
