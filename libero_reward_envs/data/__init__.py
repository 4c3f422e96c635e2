"""Episodes and their files."""

from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import (
    Episode,
    EpisodeDataset,
    EpisodeSource,
    EpisodeSummary,
)
from libero_reward_envs.data.formats import load_episodes

__all__ = [
    "Episode",
    "EpisodeDataset",
    "EpisodeSource",
    "EpisodeSummary",
    "EpisodeWriter",
    "load_episodes",
]
