"""What acts and learns."""

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

__all__ = [
    "FAILURE_KINDS",
    "FailingPolicy",
    "ScriptedExpert",
    "ScriptedPolicy",
    "collect_episodes",
    "expert_tasks",
    "failure_kinds",
    "make_expert",
    "make_failing",
]
