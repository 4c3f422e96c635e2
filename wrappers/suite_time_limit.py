"""The step limit of an environment whose task is chosen when it is made."""

from typing import Any

import gymnasium as gym


class SuiteTimeLimit(gym.wrappers.TimeLimit):
    """`TimeLimit` with the limit of the task's suite, unless `gym.make` was given one.

    Gymnasium's `max_episode_steps=-1` does not reach it; for no limit, name a large one.

    It stands in the specs of ids such as `Libero-v0`, where the limit is not known before the
    task is. The spec of the made environment then carries the limit as a number.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        asked = env.spec.max_episode_steps if env.spec is not None else None
        limit = asked or env.unwrapped.task.max_episode_steps  # pyright: ignore  (a LiberoEnv)
        super().__init__(env, limit)
