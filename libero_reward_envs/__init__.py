"""Gymnasium environments for LIBERO and wrappers with learned rewards."""

from libero_reward_envs.envs import rendering as _rendering
from libero_reward_envs.envs.tasks import SUITES, Task, all_tasks, find_task
from libero_reward_envs.registration import register_envs

__version__ = "0.1.0"
__all__ = ["SUITES", "Task", "all_tasks", "find_task", "register_envs"]

_rendering.guard_on_import()
register_envs()
