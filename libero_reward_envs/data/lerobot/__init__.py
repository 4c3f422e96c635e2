"""LeRobotDataset v2.1 and v3.0, read and written without the lerobot package."""

from libero_reward_envs.data.lerobot.source import LerobotSource, is_lerobot
from libero_reward_envs.data.lerobot.writer import LerobotWriter

__all__ = ["LerobotSource", "LerobotWriter", "is_lerobot"]
