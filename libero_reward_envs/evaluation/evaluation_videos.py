"""Videos of episodes of an evaluation, drawn by playing their actions again."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.evaluation.episode_rows import EpisodeRow
from libero_reward_envs.evaluation.replay import write_video

_MAX_FRAMES = 75  # of a video; software GL draws about 30 a second
_FREQ_HZ = 20.0
_MAX_ACTIONS_BYTES = 2**26


def write_actions(path: Path, actions: np.ndarray) -> None:
    """Write what an agent did in an episode, (T, a) float32."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.save(file, actions, allow_pickle=False)


def read_actions(path: Path) -> np.ndarray:
    """Read what `write_actions` wrote, (T, a) float32.

    Raises:
        ValueError: If the file is missing, damaged, or holds no actions.
    """
    try:
        if path.stat().st_size > _MAX_ACTIONS_BYTES:
            raise ValueError("it is too large")
        actions = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"Cannot read the actions in {str(path)!r}: {error}.") from error
    if actions.ndim != 2 or actions.dtype != np.float32 or not np.isfinite(actions).all():
        raise ValueError(f"Expected finite float32 (T, a) in {str(path)!r}, got {actions.shape}.")
    return actions


def draw_video(
    env: gym.Env[Any, Any],
    row: EpisodeRow,
    options: dict[str, Any] | None,
    actions: np.ndarray,
    path: Path,
) -> bool:
    """Play an episode again and write its video.

    Args:
        env: The env of its task, with `render_mode="rgb_array"`.
        row: The episode.
        options: Of its reset.
        actions: What the agent did, (T, a).
        path: The MP4 file, which appears when it is whole.

    Returns:
        Whether the episode went as before: whether it ended in success, or not.

    Raises:
        RuntimeError: If there is no GL backend or no ffmpeg.
    """
    stride = math.ceil(max(len(actions), 1) / _MAX_FRAMES)
    _, info = env.reset(seed=row.result.seed, options=options)
    frames: list[Any] = [env.render()]
    success = bool(info.get("is_success", False)) and not len(actions)
    for step, action in enumerate(actions, start=1):
        _, _, _, _, info = env.step(action)
        success = success or bool(info.get("is_success", False))
        if step % stride == 0 or step == len(actions):
            frames.append(env.render())
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}")  # its ending tells ffmpeg the format
    write_video(draft, frames, _FREQ_HZ / stride)
    draft.replace(path)
    return success == bool(row.result.success)
