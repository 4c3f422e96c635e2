"""Minari's data sets in HDF5, read and written without the minari package."""

from libero_reward_envs.data.minari.source import MinariSource, is_minari
from libero_reward_envs.data.minari.writer import MinariWriter

__all__ = ["MinariSource", "MinariWriter", "is_minari"]
