"""Conventions in which OpenVLA's actions and proprioception differ from LIBERO's."""

import numpy as np

_OPEN_ABOVE, _CLOSED_BELOW = 0.95, 0.05  # of gripper commands that are 0 or 1 but for a few between


def to_env_actions(actions: np.ndarray) -> np.ndarray:
    """Return the model's actions as LIBERO takes them.

    The model's gripper is 1 when open and 0 when closed, LIBERO's is -1 and 1: g becomes
    -sign(2 g - 1), as in the published evaluation.

    Args:
        actions: Shape (..., a), physical, the gripper last.

    Returns:
        A copy of the same shape.

    Example:
        >>> to_env_actions(np.array([[0.1, 0.996], [0.1, 0.004]]))[:, -1].tolist()
        [-1.0, 1.0]
    """
    converted = np.array(actions)
    converted[..., -1] = -np.sign(2 * converted[..., -1] - 1)
    return converted


def from_env_actions(actions: np.ndarray) -> np.ndarray:
    """Return LIBERO's actions as the model is trained on them: the gripper is 1 - clip(g, 0, 1).

    Args:
        actions: Shape (..., a), the gripper last, -1 when open and 1 when closed.

    Returns:
        A copy of the same shape.
    """
    converted = np.array(actions)
    converted[..., -1] = 1 - np.clip(converted[..., -1], 0, 1)
    return converted


def binarize_gripper(positions: np.ndarray) -> np.ndarray:
    """Return recorded gripper positions as commands, 1 open and 0 closed, shape (T,) float32.

    Positions between open and closed are on their way: they become what the next clear one is,
    those after the last clear one stay as they are. For data of absolute grippers.

    Args:
        positions: Shape (T,), from 0 to 1.
    """
    commands = np.asarray(positions, np.float32).copy()
    is_open, is_clear = (
        commands > _OPEN_ABOVE,
        (commands > _OPEN_ABOVE) | (commands < _CLOSED_BELOW),
    )
    following = commands[-1:].copy()
    for step in reversed(range(len(commands))):
        if is_clear[step]:
            following[:] = is_open[step]
        commands[step] = following[0]
    return commands


def compute_axis_angle(quaternions: np.ndarray) -> np.ndarray:
    """Return rotation vectors of unit quaternions, shape (..., 3), rad.

    Not the shorter of the two turns: lengths up to 2 pi occur, as in the published evaluation.

    Args:
        quaternions: Shape (..., 4), the real part last.
    """
    quaternions = np.asarray(quaternions)
    real = np.clip(quaternions[..., 3:], -1.0, 1.0)
    sine = np.sqrt(1.0 - real * real)
    angle = 2.0 * np.arccos(real)
    turns = ~np.isclose(sine, 0.0)
    factor = np.divide(angle, sine, out=np.zeros_like(sine), where=turns)
    return quaternions[..., :3] * factor
