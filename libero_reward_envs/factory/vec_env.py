"""Environments for Stable-Baselines3."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from libero_reward_envs.reward_models.base import RewardModel

_WITH_GIVEN_REWARD = ("LiberoClassifier-v0", "LiberoOpenVLA-v0")  # no model ships for them
_WITH_OWN_REWARD = ("LiberoRRD-v0", *_WITH_GIVEN_REWARD)


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    reward_model: "RewardModel | str | Path | None" = None,
    reward_kwargs: dict[str, Any] | None = None,
    features: str | Path | None = None,
    device: str = "auto",
    subprocesses: bool | None = None,
    **env_kwargs: Any,
) -> "VecEnv":
    """Environments for Stable-Baselines3, with a learned reward if one is given.

    `Monitor` stands inside the learned reward, so `rollout/ep_rew_mean` is the env's own return
    and stays comparable between rewards. The model runs once, in this process, on the whole batch;
    so does OpenVLA for a reward model on its features, to which `VecEncode` adds them.

    Args:
        env_id: An id such as "Libero-v0" or "libero_goal/turn_on_the_stove-v0".
        n_envs: Number of environments.
        seed: Environment i is seeded with `seed + i`.
        reward_model: A reward model, or the folder or Hub id of a saved one.
        reward_kwargs: Further arguments of `VecLearnedReward`.
        features: With a reward model on OpenVLA's features, the checkpoint that computes them; None
            for the one that the model was trained with, where it was then.
        device: Where these are computed; "auto" for a GPU if there is one.
        subprocesses: Whether each environment has a process of its own; by default if there is
            more than one.
        env_kwargs: Keyword arguments of `gym.make`.

    Raises:
        ValueError: If `n_envs` is not positive, an argument is wrong for the environment, or each
            of several environments would learn a reward of its own.
    """
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from libero_reward_envs.encoders.openvla_record import find_record, load_recorded_encoders
    from libero_reward_envs.factory.openvla_env import choose_feature_images
    from libero_reward_envs.wrappers.vec_encode import VecEncode
    from libero_reward_envs.wrappers.vec_learned_reward import VecLearnedReward

    if n_envs < 1:
        raise ValueError(f"`n_envs` must be at least 1, got {n_envs}.")
    name = env_id.rsplit(":", 1)[-1]  # without the module that registers it
    if (reward_model is not None and name in _WITH_OWN_REWARD) or name in _WITH_GIVEN_REWARD:
        raise ValueError(
            f"{env_id!r} has a learned reward of its own, in each env. Give `reward_model` with an "
            "id that has none, such as 'Libero-v0': the model then runs once on the whole batch."
        )
    if n_envs > 1 and env_kwargs.get("online"):
        raise ValueError(
            f"online=True of {env_id!r} gives each env a reward that learns by itself, {n_envs} of "
            "them. For one reward give `reward_model` and reward_kwargs={'online': True}, with an "
            "id that has no learned reward of its own."
        )
    record = None if reward_model is None else find_record(reward_model)
    if record is not None:
        env_kwargs |= choose_feature_images(record, env_kwargs)
    elif features is not None or device != "auto":
        raise ValueError(
            "`features` and `device` are for a reward model on OpenVLA's features, got none such."
        )
    makers = [_EnvMaker(env_id, env_kwargs) for _ in range(n_envs)]
    in_subprocesses = n_envs > 1 if subprocesses is None else subprocesses
    venv: VecEnv = SubprocVecEnv(makers) if in_subprocesses else DummyVecEnv(makers)  # pyright: ignore
    if seed is not None:
        set_random_seed(seed)  # SB3's algorithms draw from the global generators
        venv.seed(seed)
    if reward_model is None:
        return venv
    further: dict[str, Any] = reward_kwargs or {}
    try:
        if record is not None:
            venv = VecEncode(venv, load_recorded_encoders(record, features, device=device))
        return VecLearnedReward(venv, reward_model, **further)
    except BaseException:
        venv.close()  # else its processes would go on
        raise


class _EnvMaker:
    """Makes one monitored environment; picklable, for processes that are spawned."""

    def __init__(self, env_id: str, env_kwargs: dict[str, Any]):
        self._env_id, self._env_kwargs = env_id, env_kwargs

    def __call__(self) -> gym.Env[Any, Any]:
        from stable_baselines3.common.monitor import Monitor

        import libero_reward_envs

        libero_reward_envs.register_envs()
        return Monitor(gym.make(self._env_id, **self._env_kwargs))
