"""What changes an environment."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libero_reward_envs.wrappers.encode import Encode
    from libero_reward_envs.wrappers.episodic_reward import EpisodicReward
    from libero_reward_envs.wrappers.learned_reward import LearnedReward
    from libero_reward_envs.wrappers.record_episodes import RecordEpisodes
    from libero_reward_envs.wrappers.reward_data_collector import RewardDataCollector
    from libero_reward_envs.wrappers.reward_mix import RewardMix
    from libero_reward_envs.wrappers.vec_encode import VecEncode
    from libero_reward_envs.wrappers.vec_learned_reward import VecLearnedReward
    from libero_reward_envs.wrappers.vec_reward_data_collector import VecRewardDataCollector

__all__ = [
    "Encode",
    "EpisodicReward",
    "LearnedReward",
    "RecordEpisodes",
    "RewardDataCollector",
    "RewardMix",
    "VecEncode",
    "VecLearnedReward",
    "VecRewardDataCollector",
]

# Loaded at first use, because the vector wrappers import Stable-Baselines3 and with it torch.
_MODULES = {
    "Encode": "libero_reward_envs.wrappers.encode",
    "EpisodicReward": "libero_reward_envs.wrappers.episodic_reward",
    "RecordEpisodes": "libero_reward_envs.wrappers.record_episodes",
    "LearnedReward": "libero_reward_envs.wrappers.learned_reward",
    "RewardDataCollector": "libero_reward_envs.wrappers.reward_data_collector",
    "RewardMix": "libero_reward_envs.wrappers.reward_mix",
    "VecEncode": "libero_reward_envs.wrappers.vec_encode",
    "VecLearnedReward": "libero_reward_envs.wrappers.vec_learned_reward",
    "VecRewardDataCollector": "libero_reward_envs.wrappers.vec_reward_data_collector",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
