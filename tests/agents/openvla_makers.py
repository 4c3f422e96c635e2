"""Small episodes to fine-tune on: a square whose place says what to do."""

from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
TASK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
MODEL = TINY_OPENVLA


def make_episode(
    seed: int = 0,
    n_steps: int = 6,
    *,
    instruction: str = "pick up the bowl",
    success: bool = True,
    size: int = 32,
    action_dim: int = 7,
    task: str = TASK,
    **provenance: Any,
) -> Episode:
    """A success of LIBERO's kind; the gripper opens and closes in turn."""
    rng = np.random.default_rng(seed)
    images = {}
    for key in CAMERAS:
        images[key] = np.zeros((n_steps + 1, size, size, 3), np.uint8)
    actions = np.zeros((n_steps, action_dim), np.float32)
    for step in range(n_steps + 1):
        y, x = rng.integers(0, size - 8, 2)
        for key in CAMERAS:
            images[key][step, y : y + 8, x : x + 8] = rng.integers(60, 256, 3)
        if step < n_steps:
            actions[step, :2] = (y / (size - 8) - 0.5, x / (size - 8) - 0.5)
            actions[step, -1] = (-1) ** (step + 1)
    told = {
        "image_size": (size, size),
        "orientation": "upright",
        "control_freq_hz": 20.0,
        "action_convention": "delta",
        "gripper_closed_at": 1.0,
        **provenance,
    }
    return Episode(
        {**images, "state": rng.normal(size=(n_steps + 1, 3)).astype(np.float32)},
        actions,
        np.eye(n_steps, dtype=np.float32)[-1] * success,
        terminated=success,
        success=success,
        task=task,
        instruction=instruction,
        metadata={PROVENANCE_KEY: Provenance("test", **told).as_json()},
    )


def make_dataset(n_episodes: int = 3, **options: Any) -> EpisodeDataset:
    return EpisodeDataset([make_episode(seed, **options) for seed in range(n_episodes)])


def write_dataset(path: Path, n_episodes: int = 4, **options: Any) -> Path:
    with EpisodeWriter(path) as writer:
        for seed in range(n_episodes):
            writer.append(make_episode(seed, **options))
    return path


def settings_for(data: Path, out: Path, **others: Any) -> dict[str, Any]:
    """Settings of a short run on the CPU."""
    return {
        "model": MODEL,
        "data": str(data),
        "out": str(out),
        "batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "lora_r": 4,
        "eval_steps": 4,
        "holdout_fraction": 0.25,
        "report_to": [],
        "device": "cpu",
        **others,
    }
