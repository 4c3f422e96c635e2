"""What acts and learns."""

import importlib
from typing import TYPE_CHECKING, Any

from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.agents.experts import (
    ScriptedExpert,
    ScriptedPolicy,
    expert_tasks,
    make_expert,
)
from libero_reward_envs.agents.failures import (
    FAILURE_KINDS,
    FailingPolicy,
    failure_kinds,
    make_failing,
)

if TYPE_CHECKING:
    from libero_reward_envs.agents.episode_replay_buffer import EpisodeReplayBuffer
    from libero_reward_envs.agents.log_rewards import LogRewards
    from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy
    from libero_reward_envs.agents.prefill import fill_replay_buffer
    from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
    from libero_reward_envs.agents.train_reward_model import TrainRewardModel
    from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training

__all__ = [
    "FAILURE_KINDS",
    "EpisodeReplayBuffer",
    "FailingPolicy",
    "LogRewards",
    "OpenVLAPolicy",
    "RelabelReplayBuffer",
    "SaveCheckpoints",
    "ScriptedExpert",
    "ScriptedPolicy",
    "TrainRewardModel",
    "collect_episodes",
    "expert_tasks",
    "failure_kinds",
    "fill_replay_buffer",
    "make_expert",
    "make_failing",
    "resume_training",
]

# Loaded at first use, because they import Stable-Baselines3 and with it torch.
_MODULES = {
    "EpisodeReplayBuffer": "libero_reward_envs.agents.episode_replay_buffer",
    "LogRewards": "libero_reward_envs.agents.log_rewards",
    "OpenVLAPolicy": "libero_reward_envs.agents.openvla_policy",
    "RelabelReplayBuffer": "libero_reward_envs.agents.relabel_replay_buffer",
    "SaveCheckpoints": "libero_reward_envs.agents.training_checkpoints",
    "TrainRewardModel": "libero_reward_envs.agents.train_reward_model",
    "fill_replay_buffer": "libero_reward_envs.agents.prefill",
    "resume_training": "libero_reward_envs.agents.training_checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
