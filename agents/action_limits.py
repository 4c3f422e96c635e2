"""Whether an action may be sent to a robot."""

import numpy as np

from libero_reward_envs.agents.robot_config import LimitSettings

_ROUNDING = 1e-6  # of the span of an action, which is no violation


class ActionRefused(RuntimeError):
    """An action that must not be sent."""


class ActionLimits:
    """Checks each action against bounds and against the one before.

    Args:
        settings: Bounds, greatest change, and whether to refuse or to clip.
        low: What -1 of an action means to the robot, shape (a,); None for -1.
        high: What 1 means; None for 1.

    Raises:
        ValueError: If a lower bound is not below its upper one, bounds lie outside of what actions
            can mean, or changes are limited to less than nothing.

    Example:
        >>> limits = ActionLimits(LimitSettings((-1.0,), (0.5,), on_violation="clip"))
        >>> limits.begin(None)
        >>> limits.check(np.array([0.8])).tolist(), limits.n_clipped
        ([0.5], 1)
    """

    def __init__(
        self,
        settings: LimitSettings,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
    ) -> None:
        self.low, self.high = (np.asarray(part, float) for part in (settings.low, settings.high))
        if not (self.low < self.high).all():
            raise ValueError(f"`limits.low` must be below `limits.high`, got {settings}.")
        self._mean = -np.ones_like(self.low) if low is None else np.asarray(low, float)
        self._span = (np.ones_like(self.high) if high is None else np.asarray(high)) - self._mean
        if not (self._span > 0).all():
            raise ValueError("`action_low` must be below `action_high`.")
        slack = _ROUNDING * self._span
        above = self.high > self._mean + self._span + slack
        if (above | (self.low < self._mean - slack)).any():
            raise ValueError(
                f"Expected `limits` within {self._mean.tolist()} and "
                f"{(self._mean + self._span).tolist()}, what -1 and 1 of the policy mean to the "
                "robot. Give `action_low` and `action_high` as they were in training, or narrow "
                "`limits`."
            )
        self._max_change = None
        if settings.max_change is not None:
            self._max_change = np.asarray(settings.max_change, float)
            if not (self._max_change > 0).all():
                raise ValueError("`limits.max_change` must be above 0.")
        self._start = None if settings.start is None else np.asarray(settings.start, float)
        self._is_clipping = settings.on_violation == "clip"
        self._last: np.ndarray | None = None
        self.n_clipped = 0

    @property
    def n_actions(self) -> int:
        """Numbers of an action."""
        return len(self.low)

    def begin(self, held: np.ndarray | None) -> None:
        """Begin an episode.

        Args:
            held: The action that holds the robot where it is, if the environment knows.

        Raises:
            ValueError: If changes are limited and nobody knows from where, or that is beyond the
                bounds.
        """
        self._last = self._start if held is None else np.asarray(held, float)
        self.n_clipped = 0
        if self._max_change is None:
            return
        if self._last is None:
            raise ValueError(
                "`limits.max_change` is given, but not where the robot begins: give `limits.start`,"
                " or let the environment's `reset` return info['held_action']."
            )
        if self._last.shape != self.low.shape or not np.isfinite(self._last).all():
            raise ValueError(f"Expected {self.n_actions} finite numbers held, got {self._last}.")
        slack = _ROUNDING * self._span
        if ((self._last < self.low - slack) | (self._last > self.high + slack)).any():
            raise ValueError(
                f"Expected the robot to begin within `limits`, {self.low.tolist()} to "
                f"{self.high.tolist()}, but it stands at {self._last.tolist()}. Move it there."
            )

    def to_robot(self, action: np.ndarray) -> np.ndarray:
        """Return what an action of the policy, (a,) in [-1, 1], means to the robot, float64.

        Raises:
            ValueError: If it has another number of dimensions.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.low.shape:
            raise ValueError(
                f"Expected {self.n_actions} numbers of an action, as `limits` has, got the shape "
                f"{action.shape} from the policy."
            )
        return self._mean + (action + 1) / 2 * self._span

    def to_policy(self, action: np.ndarray) -> np.ndarray:
        """Return what `to_robot` made of it, float32 in [-1, 1]."""
        return np.clip(2 * (action - self._mean) / self._span - 1, -1, 1).astype(np.float32)

    def check(self, action: np.ndarray) -> np.ndarray:
        """Return what to send of an action, (a,) in the robot's units, and remember it.

        Raises:
            ActionRefused: If it is not finite, or beyond the limits and not to be clipped.
        """
        if not np.isfinite(action).all():
            raise ActionRefused(f"Action {action.tolist()} is not finite.")
        low, high = self.low, self.high
        if self._max_change is not None and self._last is not None:
            low = np.maximum(low, self._last - self._max_change)
            high = np.minimum(high, self._last + self._max_change)
        allowed = np.clip(action, low, high)
        wrong = np.flatnonzero(np.abs(action - allowed) > _ROUNDING * self._span)
        if wrong.size and not self._is_clipping:
            raise ActionRefused(
                "; ".join(
                    f"number {index} is {action[index]:.6g}, allowed are {low[index]:.6g} to "
                    f"{high[index]:.6g} here"
                    for index in wrong.tolist()
                )
            )
        self.n_clipped += bool(wrong.size)
        self._last = allowed
        return allowed

    def check_held(self, action: np.ndarray) -> np.ndarray:
        """Return what to send of the robot's own action that holds it, within the bounds.

        Raises:
            ActionRefused: If it is not finite, or of another shape.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.low.shape or not np.isfinite(action).all():
            raise ActionRefused(f"Expected {self.n_actions} finite numbers of hold(), got {action}")
        self._last = np.clip(action, self.low, self.high)
        return self._last
