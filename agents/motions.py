"""Moves of the gripper as data, and the run that turns them into actions, step by step."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

OPEN, CLOSED = -1.0, 1.0
GRIPPER = "robot0_eef"
START = "start"  # the anchor that is the mover's own position when the move began

_POSITION_GAIN = 20.0  # action per metre: the displacement that is missing, 5 cm at most
_ROTATION_GAIN = 2.0  # action per radian; half a radian away is full speed
_ROTATION_TOLERANCE_RAD = 0.1
_POINTING_DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])  # of the gripper, fingers apart along y
_HELD_WITHIN_M = 0.14  # a held object's frame is at most this far from the fingertips


@dataclasses.dataclass(frozen=True)
class Move:
    """Bring something to a place, or wait there.

    Args:
        name: What the move is for, e.g. "carry".
        anchor: Object or fixture whose position the goal is measured from, read anew at each step;
            or `START`.
        offset_m: From the anchor to the goal in metres, along the world's axes, shape (3,).
        gripper: `OPEN` or `CLOSED`.
        mover: What is brought to the goal: `GRIPPER`, or the held object.
        tolerance_m: The move is over when the mover is this close to the goal.
        min_steps: Steps that it lasts at least, e.g. until the fingers are closed.
        max_steps: Steps after which the next move begins wherever the mover is.
        rotation_rad: Rotation vector of the gripper about the world's axes, from pointing down with
            the fingers apart along y. None leaves it as it is.
        holds: The object that must be in the gripper when the move is over, else the run starts
            over.
        gain: Action for a metre of distance. Small where something heavy or stiff is moved.
    """

    name: str
    anchor: str
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gripper: float = OPEN
    mover: str = GRIPPER
    tolerance_m: float = 0.01
    min_steps: int = 0
    max_steps: int = 60
    rotation_rad: tuple[float, float, float] | None = None
    holds: str | None = None
    gain: float = _POSITION_GAIN


class ScriptRun:
    """One pass through a script of moves. It remembers which move it is at.

    When the script is over, the gripper stays where it is, as open as the last move had it.

    Args:
        script: The moves, in order.
    """

    def __init__(self, script: Sequence[Move]):
        self.script = tuple(script)
        self.index = 0  # of the current move; `len(script)` when all are over
        self._steps = 0
        self._start = np.zeros(3)

    @property
    def move(self) -> Move | None:
        """The current move; None when the script is over."""
        return self.script[self.index] if self.index < len(self.script) else None

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """The next action, shape (7,), float32, in [-1, 1].

        Args:
            state: Parts of the state observation by name.
        """
        while (move := self.move) is not None:
            if self._steps == 0:
                self._start = state[f"{move.mover}_pos"].copy()
            error = self._position_error(move, state)
            turn = _rotation_error(move, state)
            if not self._is_over(move, error, turn):
                break
            self._advance(move, state)
        else:
            return np.array([0, 0, 0, 0, 0, 0, self.script[-1].gripper], np.float32)
        self._steps += 1
        action = np.concatenate([move.gain * error, _ROTATION_GAIN * turn, [move.gripper]])
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _position_error(self, move: Move, state: Mapping[str, np.ndarray]) -> np.ndarray:
        anchor = self._start if move.anchor == START else state[f"{move.anchor}_pos"]
        return anchor + np.asarray(move.offset_m) - state[f"{move.mover}_pos"]

    def _is_over(self, move: Move, error: np.ndarray, turn: np.ndarray) -> bool:
        if self._steps < move.min_steps:
            return False
        is_there = bool(np.linalg.norm(error) <= move.tolerance_m)
        is_turned = bool(np.linalg.norm(turn) <= _ROTATION_TOLERANCE_RAD)
        return (is_there and is_turned) or self._steps >= max(move.max_steps, move.min_steps)

    def _advance(self, move: Move, state: Mapping[str, np.ndarray]) -> None:
        self._steps = 0
        self.index += 1
        if move.holds is not None:
            gap_m = np.linalg.norm(state[f"{move.holds}_pos"] - state[f"{GRIPPER}_pos"])
            if gap_m > _HELD_WITHIN_M:
                self.index = 0


def _rotation_error(move: Move, state: Mapping[str, np.ndarray]) -> np.ndarray:
    if move.rotation_rad is None:
        return np.zeros(3)
    goal = Rotation.from_rotvec(move.rotation_rad) * _POINTING_DOWN
    return (goal * Rotation.from_quat(state[f"{GRIPPER}_quat"]).inv()).as_rotvec()
