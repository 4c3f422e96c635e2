"""Pictures of a recorded episode, drawn by playing its actions again from its initial state."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.envs.recorded_reset import reset_as_recorded

_VIDEO_QUALITY = 6  # of imageio, 0 to 10; about 10 kB a second at 256 x 256
_JPEG_QUALITY = 88


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """What was seen while an episode was played again.

    Args:
        steps: Steps after which the filmstrip's pictures were taken.
        pictures: One a step in `steps`, (H, W, 3) uint8.
        video: Pictures every `video_stride` steps, (H, W, 3) uint8.
        video_stride: See `video`.
        largest_difference: Between replayed and recorded state observations; 0 if the replay was
            exact. None if the recording has no state.
    """

    steps: list[int]
    pictures: list[np.ndarray]
    video: list[np.ndarray]
    video_stride: int
    largest_difference: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class ReplayedEpisode:
    """An episode with its rewards and pictures, as a report shows it.

    Args:
        name: "success" or "failure".
        rewards: The learned reward of each step, shape (T,).
        gripper_closes: Whether the gripper is told to close at each step, shape (T,).
        pictures: JPEG files, taken in the middles of equal parts of the episode; may be empty.
        video: An MP4 file, or None.
        largest_difference: See `Replay`.
    """

    name: str
    rewards: np.ndarray
    gripper_closes: np.ndarray
    pictures: Sequence[bytes] = ()
    video: bytes | None = None
    largest_difference: float | None = None


def choose_steps(n_steps: int, n_pictures: int) -> list[int]:
    """Return the middles of `n_pictures` equal parts of an episode.

    Example:
        >>> choose_steps(100, 4)
        [12, 38, 62, 88]
    """
    middles = (np.arange(n_pictures) + 0.5) * n_steps / n_pictures
    return [int(np.clip(round(middle), 1, n_steps)) for middle in middles]


def replay_episode(
    episode: Episode,
    env: gym.Env[Any, Any],
    *,
    n_pictures: int,
    video_stride: int | None = 2,
    on_step: Callable[[], object] | None = None,
) -> Replay:
    """Play an episode's actions again from its initial state and draw it.

    Args:
        episode: Its metadata tells how it began, see `reset_as_recorded`.
        env: The env of its task, with state observations, `render_mode="rgb_array"` and no limit
            on steps.
        n_pictures: Pictures of the filmstrip.
        video_stride: Steps between two frames of the video; None for no video.
        on_step: Called after each step.

    Raises:
        ValueError: If the episode does not say how it began.
        RuntimeError: If there is no GL backend to draw with.
    """
    observation, _ = reset_as_recorded(env, episode.metadata)
    chosen = choose_steps(len(episode), n_pictures)
    pictures: dict[int, np.ndarray] = {}
    video: list[np.ndarray] = []
    recorded = episode.observations.get("state")
    differences = []
    for step, action in enumerate(episode.actions, start=1):
        observation, *_ = env.step(action)
        is_frame = video_stride is not None and (step % video_stride == 0 or step == len(episode))
        if step in chosen or is_frame:
            picture: Any = env.render()
            if step in chosen:
                pictures[step] = picture
            if is_frame:
                video.append(picture)
        if recorded is not None:
            differences.append(float(np.abs(observation - recorded[step]).max()))
        if on_step is not None:
            on_step()
    return Replay(
        steps=chosen,
        pictures=[pictures[step] for step in chosen],
        video=video,
        video_stride=video_stride or 1,
        largest_difference=max(differences) if differences else None,
    )


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Return a picture, (H, W, 3) uint8, as a JPEG file."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(picture).save(target, "JPEG", quality=_JPEG_QUALITY)
    return target.getvalue()


def write_video(path: str | Path, frames: list[np.ndarray], fps: float) -> None:
    """Write frames, (H, W, 3) uint8 with even H and W, as an MP4 file that browsers play.

    Raises:
        RuntimeError: If ffmpeg is not there, which imageio-ffmpeg brings.
    """
    import imageio.v2

    # yuv420p and the index in front: what browsers ask of a video they are to play.
    with imageio.v2.get_writer(
        path,
        format="FFMPEG",  # pyright: ignore[reportArgumentType]  (a plugin's name)
        fps=fps,
        codec="libx264",
        quality=_VIDEO_QUALITY,
        pixelformat="yuv420p",
        macro_block_size=2,
        output_params=["-movflags", "+faststart"],
    ) as writer:
        for frame in frames:
            writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue]
