"""RLDS in TFRecord shards, read and written without TensorFlow."""

from libero_reward_envs.data.rlds.files import is_rlds
from libero_reward_envs.data.rlds.source import RldsSource
from libero_reward_envs.data.rlds.writer import RldsWriter

__all__ = ["RldsSource", "RldsWriter", "is_rlds"]
