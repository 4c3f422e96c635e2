"""Every environment id and its keyword arguments."""

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from libero_reward_envs.envs.tasks import all_tasks

_LIBERO_ENV = "libero_reward_envs.envs.libero_env:LiberoEnv"
_TIME_LIMIT = WrapperSpec(
    name="SuiteTimeLimit",
    entry_point="libero_reward_envs.wrappers.suite_time_limit:SuiteTimeLimit",
    kwargs={},
)


def register_envs() -> None:
    """Register all ids; again without effect.

    Ids whose task is an argument take the step limit of its suite when they are made; an id of
    one task carries it in its spec. Recorded episodes end where they ended.
    """
    if "Libero-v0" in gym.registry:
        return
    gym.register(
        "Libero-v0",
        entry_point=_LIBERO_ENV,
        additional_wrappers=(_TIME_LIMIT,),
    )
    for method in ("RRD", "Classifier", "OpenVLA"):
        gym.register(
            f"Libero{method}-v0",
            entry_point=f"libero_reward_envs.factory:make_{method.lower()}_env",
            additional_wrappers=(_TIME_LIMIT,),
        )
    gym.register("LiberoOffline-v0", entry_point="libero_reward_envs.envs.offline_env:OfflineEnv")
    for task in all_tasks():
        gym.register(
            f"{task.id}-v0",
            entry_point=_LIBERO_ENV,
            max_episode_steps=task.max_episode_steps,
            kwargs={"suite": task.suite, "task": task.name},
        )
