"""Files of small episodes for the commands that read some."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeWriter

WriteEpisodes = Callable[..., Path]


def make_episode(
    index: int, rng: np.random.Generator, lengths: Sequence[int], size: int, task: str, image: int
) -> Episode:
    """Every second one succeeds: it moves up, the others down."""
    n_steps = lengths[index % len(lengths)]
    success = index % 2 == 0
    drift = np.arange(n_steps + 1)[:, None] * (0.2 if success else -0.2)
    states = (rng.normal(scale=0.1, size=(n_steps + 1, size)) + drift).astype(np.float32)
    observations: dict[str, np.ndarray] = {"state": states}
    if image:
        observations["agentview_image"] = rng.integers(
            0, 256, (n_steps + 1, image, image, 3), dtype=np.uint8
        )
    rewards = np.zeros(n_steps, np.float32)
    rewards[-1] = success
    actions = rng.uniform(-1, 1, (n_steps, 2)).astype(np.float32)
    return Episode(observations, actions, rewards, success, success, task)


@pytest.fixture
def write_episodes(tmp_path: Path) -> WriteEpisodes:
    """Writes a file of episodes; tasks are given out in turn."""

    def write(
        name: str = "episodes.h5",
        n_episodes: int = 12,
        *,
        lengths: Sequence[int] = (5, 9),
        size: int = 3,
        tasks: Sequence[str] = ("libero_10/a",),
        image: int = 0,
        only_successes: bool = False,
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        with EpisodeWriter(tmp_path / name) as writer:
            for index in range(n_episodes):
                kind = 2 * index if only_successes else index
                task = tasks[index // 2 % len(tasks)]
                writer.append(make_episode(kind, rng, lengths, size, task, image))
        return tmp_path / name

    return write
