"""LIBERO's own HDF5 files and robomimic's."""

from libero_reward_envs.data.demonstrations.source import DemonstrationSource, is_demonstrations

__all__ = ["DemonstrationSource", "is_demonstrations"]
