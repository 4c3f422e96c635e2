"""`LiberoRRD-v0`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import Task
from libero_reward_envs.factory.stacking import (
    RegisteredReward,
    limit_steps,
    split_mix,
    with_metadata,
)
from libero_reward_envs.reward_models.base import BOX_OBSERVATION_KEY

if TYPE_CHECKING:
    from libero_reward_envs.reward_models.base import RewardModel

PRETRAINED_FOLDER = Path(__file__).parents[1] / "reward_models" / "pretrained"


@with_metadata
def make_rrd_env(
    suite: str | None = None,
    task: int | str = 0,
    reward_model: str | Path | None = None,
    *,
    online: bool = False,
    online_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """`LiberoRRD-v0`: a LIBERO task whose reward an RRD model computes.

    Args:
        suite: See `LiberoEnv`.
        task: See `LiberoEnv`.
        reward_model: Folder or Hub id of a saved reward model. By default the one that ships with
            the package for this task.
        online: Whether the model goes on learning from the episodes that pass. Where no model is
            given and none ships, a new one learns from nothing. The reward is this env's alone: for
            several envs use `VecLearnedReward`.
        online_kwargs: See `LearnedReward`.
        kwargs: The arguments of `RewardMix`, such as `mode`, and the other ones of `LiberoEnv`.

    Raises:
        ValueError: If no model ships for the task and none is given nor learned online; the message
            says how to train one. For what else is wrong, see `LiberoEnv` and `LearnedReward`.
    """
    mix, env_kwargs = split_mix(kwargs)
    env = LiberoEnv(suite, task, **env_kwargs)
    model: Any = reward_model
    if model is None:
        try:
            model = find_pretrained("rrd", env.task)
        except ValueError:
            if not online:
                raise
            model = _make_new_rrd_model(env)
            online_kwargs = _with_return_scale(online_kwargs, env.task.max_episode_steps)
    return RegisteredReward(
        limit_steps(env, mix), model, online=online, online_kwargs=online_kwargs, **mix
    )


def find_pretrained(method: str, task: Task) -> Path:
    """Folder of the model of `method` that ships with the package for `task`.

    Raises:
        ValueError: If there is none; the message says how to train one.
    """
    folder = PRETRAINED_FOLDER / method / task.id
    if (folder / "config.json").is_file():
        return folder
    raise ValueError(
        f"No {method.upper()} reward model ships for {task.id!r}. Train one with\n"
        f"  libero-reward collect --task {task.id} --episodes 100 --out episodes.h5\n"
        f"  libero-reward train-{method} --data episodes.h5 --out reward\n"
        "and pass `reward_model='reward'`."
    )


def _make_new_rrd_model(env: LiberoEnv) -> "RewardModel":
    from libero_reward_envs.reward_models.rrd_model import RRDRewardModel

    space = env.observation_space
    spaces = space.spaces if isinstance(space, gym.spaces.Dict) else {BOX_OBSERVATION_KEY: space}
    shapes = {key: part.shape for key, part in spaces.items()}
    assert env.action_space.shape is not None
    return RRDRewardModel(shapes, env.action_space.shape[0])  # pyright: ignore[reportArgumentType]  # no shape is None


def _with_return_scale(online_kwargs: dict[str, Any] | None, scale: float) -> dict[str, Any]:
    """Multiply returns by the step limit, if nothing else is said: success is then 1 a step."""
    given = online_kwargs or {}
    trainer_kwargs = {"return_scale": scale, "normalize_from_data": True}
    return {**given, "trainer_kwargs": {**trainer_kwargs, **given.get("trainer_kwargs", {})}}
