"""Episodes for tests of LeRobotDatasets, and what they must have in common."""

import dataclasses

import numpy as np

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.lerobot import LerobotSource, LerobotWriter
from tests.data.episode_makers import make_episode

VERSIONS = ("v2.1", "v3.0")
# Compression costs little on average; at single pixels of noise and sharp edges it costs much.
VIDEO_MEAN_ERROR = 4


def make_smooth(seed, n_steps):
    """An episode whose pictures are what cameras see: smooth, with one thing that moves."""
    rows, columns = np.mgrid[:32, :48]
    frames = [
        np.stack([rows * 4 + 9 * step, columns * 3 + 40 * seed, rows + columns], -1) % 256
        for step in range(n_steps + 1)
    ]
    images = np.stack(frames).astype(np.uint8)
    episode = make_episode(seed, n_steps)
    views = {"agentview_image": images, "robot0_eye_in_hand_image": images[:, ::-1]}
    return dataclasses.replace(
        episode,
        observations={**views, "state": episode.observations["state"]},
        success=bool(seed % 2),
        terminated=bool(seed % 3),
        task="suite/task",
        metadata={"seed": seed, "made": {"by": "test"}},
    )


def assert_same(first, second, *, lossy=False):
    assert list(first.observations) == list(second.observations)
    for key, value in first.observations.items():
        other = second.observations[key]
        assert (value.dtype, value.shape) == (other.dtype, other.shape)
        if lossy and value.ndim == 4:
            assert np.abs(value.astype(int) - other).mean() < VIDEO_MEAN_ERROR
            np.testing.assert_array_equal(value[-1], other[-1])  # the last one is no video
        else:
            np.testing.assert_array_equal(value, other)
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    assert first.summary() == second.summary()


def write(folder, episodes, **options):
    with LerobotWriter(folder, **options) as writer:
        for episode in episodes:
            writer.append(episode)
    return EpisodeDataset(LerobotSource(folder))
