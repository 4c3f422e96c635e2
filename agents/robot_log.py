"""What a robot did, as an `Episode`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from libero_reward_envs.agents.robot_config import RobotConfig, TaskConfig
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.openvla.policy_inputs import PROPRIO_KEY

MAX_EPISODE_BYTES = 4 * 2**30
# Ends after which a person must look before the robot moves again.
FAULTS = ("limits", "deadlines", "policy_error", "robot_error", "interrupted")


@dataclasses.dataclass(frozen=True)
class RobotOutcome:
    """How an episode of a robot ended.

    Args:
        reason: "terminated", "truncated" (both by the environment), "max_steps", or one of
            `FAULTS`.
        detail: What the fault was.
        steps: Steps that were taken and logged.
        success: Whether `info["is_success"]` was True at any step.
        env_return: Sum of the environment's rewards.
        missed_deadlines: Steps whose action came too late; the robot was held.
        late_steps: Steps in which the robot itself took longer than a control period.
        clipped: Actions that were clipped to the limits.
        held: Whether the robot was told to hold still at the end.
        answer_ms_median: Time to an action; None without any.
        answer_ms_max: Longest time to an action.
        rate_hz: Steps a second that were reached; None with fewer than two.
    """

    reason: str
    detail: str | None
    steps: int
    success: bool
    env_return: float
    missed_deadlines: int
    late_steps: int
    clipped: int
    held: bool
    answer_ms_median: float | None
    answer_ms_max: float | None
    rate_hz: float | None


class ObservationReader:
    """Gives a robot's observations the names that the policy reads, and checks them.

    Args:
        config: The robot's cameras and state.
    """

    def __init__(self, config: RobotConfig) -> None:
        self._names: dict[str, str] = dict(config.cameras)
        self._state = config.state
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, observation: Any) -> dict[str, np.ndarray]:
        """Return copies: images, (H, W, 3) uint8, and "proprio", (p,) float32.

        Raises:
            ValueError: If one is missing, of another type, not finite, or of another shape than
                before.
        """
        wanted = [*self._names.values(), *([] if self._state is None else [self._state])]
        known = observation if isinstance(observation, Mapping) else {}
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ValueError(
                f"Expected the robot's observations {', '.join(wanted)}, got "
                f"{', '.join(map(str, known)) or type(observation).__name__}; "
                f"{', '.join(missing)} missing. Name them by `cameras` and `state`."
            )
        read = {key: np.array(known[name]) for key, name in self._names.items()}
        for key, image in read.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"Expected {self._names[key]!r} of shape (H, W, 3) and uint8, got "
                    f"{image.shape} and {image.dtype}."
                )
        if self._state is not None:
            state = np.array(known[self._state], np.float32)
            if state.ndim != 1 or not np.isfinite(state).all():
                raise ValueError(f"Expected finite numbers in {self._state!r}, got {state}.")
            read[PROPRIO_KEY] = state
        shapes = {key: value.shape for key, value in read.items()}
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise ValueError(f"Expected observations of shapes {self._shapes}, got {shapes}.")
        return read


class EpisodeLog:
    """Collects the steps of an episode.

    Args:
        first: The first observation, as `ObservationReader` gives it.
        max_steps: How many steps there may be.

    Raises:
        ValueError: If they would take more memory than `MAX_EPISODE_BYTES`.
    """

    def __init__(self, first: dict[str, np.ndarray], max_steps: int) -> None:
        n_bytes = (max_steps + 1) * sum(value.nbytes for value in first.values())
        if n_bytes > MAX_EPISODE_BYTES:
            raise ValueError(
                f"{max_steps} steps of these observations take {n_bytes / 2**30:.1f} GiB, more "
                f"than {MAX_EPISODE_BYTES / 2**30:g}. Lower `max_steps`, or the cameras' size."
            )
        self._observations = [first]
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []

    def __len__(self) -> int:
        """Steps so far."""
        return len(self._actions)

    @property
    def env_return(self) -> float:
        """Sum of the rewards so far."""
        return float(sum(self._rewards))

    def append(self, action: np.ndarray, reward: float, after: dict[str, np.ndarray]) -> None:
        """Add a step: the action in [-1, 1], its reward, and the observation after it."""
        if not np.isfinite(reward):
            raise ValueError(f"Expected a finite reward of the robot, got {reward}.")
        self._actions.append(action)
        self._rewards.append(float(reward))
        self._observations.append(after)

    def make_episode(
        self,
        config: RobotConfig,
        task: TaskConfig,
        outcome: RobotOutcome,
    ) -> Episode | None:
        """Return the episode, None if it has no step.

        Args:
            config: The robot.
            task: What it was to do.
            outcome: How it ended.
        """
        if not self._actions:
            return None
        first = self._observations[0]
        sizes = {first[key].shape[:2] for key in config.cameras}
        limits = config.limits
        low, high = config.action_low or (-1.0,), config.action_high or (1.0,)
        provenance = Provenance(
            "robot",
            image_size=sizes.pop() if len(sizes) == 1 else None,
            orientation=config.orientation,
            control_freq_hz=config.control_freq_hz,
            action_convention=config.action_convention,
            action_range=(min(low), max(high)),
            reward_source="env",
            success_source="env",
        )
        return Episode(
            {key: np.stack([each[key] for each in self._observations]) for key in first},
            np.stack(self._actions),
            np.array(self._rewards, np.float32),
            terminated=outcome.reason == "terminated",
            success=outcome.success,
            task=task.name,
            instruction=task.instruction or "",
            metadata={
                PROVENANCE_KEY: provenance.as_json(),
                "env": config.env,
                "action_low": list(config.action_low or [-1.0] * len(limits.low)),
                "action_high": list(config.action_high or [1.0] * len(limits.low)),
                "outcome": dataclasses.asdict(outcome),
            },
        )
