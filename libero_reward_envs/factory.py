"""The one place where environments and wrappers are stacked."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import Task
from libero_reward_envs.reward_models.base import BOX_OBSERVATION_KEY
from libero_reward_envs.wrappers.learned_reward import LearnedReward
from libero_reward_envs.wrappers.reward_mix import RewardMixArguments
from libero_reward_envs.wrappers.suite_time_limit import SuiteTimeLimit

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from libero_reward_envs.reward_models.base import RewardModel

PRETRAINED_FOLDER = Path(__file__).parent / "reward_models" / "pretrained"
_IMAGE_SUFFIX = "_image"
_WITH_OWN_REWARD = ("LiberoRRD-v0", "LiberoClassifier-v0")


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
    mix, env_kwargs = _split(kwargs)
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
    return _RegisteredReward(
        _limit(env, mix), model, online=online, online_kwargs=online_kwargs, **mix
    )


def make_classifier_env(
    suite: str | None = None,
    task: int | str = 0,
    reward_model: str | Path | None = None,
    *,
    reward_type: str | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """`LiberoClassifier-v0`: a LIBERO task whose reward a success classifier computes from pixels.

    Cameras, image size and orientation are those that the classifier was trained on; they need not
    be said again.

    Args:
        suite: See `LiberoEnv`.
        task: See `LiberoEnv`.
        reward_model: Folder, Hub id or `.pt` checkpoint of a success classifier; needed.
        reward_type: "binary" or "continuous"; None for what was saved.
        kwargs: The arguments of `RewardMix`, such as `mode`, and the other ones of `LiberoEnv`.
            `obs_type` is "pixels" by default, or "pixels_state".

    Raises:
        FileNotFoundError: If there is no such classifier.
        ValueError: If none is given, or an argument contradicts it. For what else is wrong, see
            `LiberoEnv` and `LearnedReward`.
    """
    from libero_reward_envs.reward_models.classifier_files import read_classifier_config

    if reward_model is None:
        raise ValueError(
            "Expected a success classifier for LiberoClassifier-v0, got none. Train one with\n"
            "  libero-reward train-classifier --positive-dir ... --negative-dir ... "
            "--output-checkpoint classifier.pt\n"
            "and pass `reward_model='classifier'`."
        )
    mix, env_kwargs = _split(kwargs)
    images = choose_images(read_classifier_config(reward_model), env_kwargs)
    needs_time = mix.get("mode") == "success" and mix.get("success_window", (2, 3))[0] > 1
    if needs_time and env_kwargs.setdefault("terminate_on_success", False):
        raise ValueError(
            "Expected terminate_on_success=False with mode 'success' and a window of more than one "
            "frame: the env would end before success is seen. Leave it away, or give "
            "success_window=(1, 1)."
        )
    env = LiberoEnv(suite, task, **{**env_kwargs, **images})
    return _RegisteredReward(_limit(env, mix), reward_model, reward_type=reward_type, **mix)


def choose_images(config: Mapping[str, Any], env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LiberoEnv` that give a success classifier its images.

    Args:
        config: What `read_classifier_config` returns.
        env_kwargs: The arguments that were given; they win where they fit.

    Raises:
        ValueError: If they do not fit, or no LIBERO env has such images.
    """
    keys, (_, height, width) = config["image_keys"], config["image_size"]
    foreign = [key for key in keys if not key.endswith(_IMAGE_SUFFIX)]
    if foreign or height != width:
        raise ValueError(
            f"Expected a classifier of square images '<camera>{_IMAGE_SUFFIX}', got {height} x "
            f"{width} pixels of {', '.join(map(repr, keys))}. Put VecLearnedReward around an env "
            "that has such images, or collect with the names that this one gives them."
        )
    cameras = [key.removesuffix(_IMAGE_SUFFIX) for key in keys]
    chosen = {"obs_type": "pixels", "cameras": cameras, "image_size": height}
    if orientation := config["training"].get("orientation"):
        chosen["orientation"] = orientation
    elif "orientation" not in env_kwargs:
        warnings.warn(
            "The classifier does not say how its pictures lay; they are shown upright. Give "
            "`orientation`, or save the model as a folder, which keeps what its data say.",
            stacklevel=4,
        )
    for name, needed in chosen.items():
        given = env_kwargs.get(name, needed)
        fits = given == needed
        if name == "obs_type":
            fits = given in ("pixels", "pixels_state")
        elif name == "cameras":
            fits = set(cameras) <= set(given)
        if not fits:
            raise ValueError(
                f"The classifier was trained with {name}={needed!r}, got {given!r}. Leave it away, "
                "or train a classifier for it."
            )
        chosen[name] = given
    return chosen


def _limit(env: LiberoEnv, mix: RewardMixArguments) -> gym.Env[Any, Any]:
    """Return the env with its suite's limit inside the reward, if the reward is paid at the end.

    The limit of an id stands outside, where a learned reward does not see it.
    """
    return SuiteTimeLimit(env) if mix.get("mode") == "terminal" else env


def _split(kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of `RewardMix`, and the others."""
    mix = {name: kwargs[name] for name in RewardMixArguments.__annotations__ if name in kwargs}
    return mix, {name: value for name, value in kwargs.items() if name not in mix}


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


# Gymnasium reads it of the entry point: it is how `render_mode="human"` finds its wrapper.
make_rrd_env.metadata = LiberoEnv.metadata  # pyright: ignore[reportFunctionMemberAccess]
make_classifier_env.metadata = LiberoEnv.metadata  # pyright: ignore[reportFunctionMemberAccess]


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


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    reward_model: "RewardModel | str | Path | None" = None,
    reward_kwargs: dict[str, Any] | None = None,
    subprocesses: bool | None = None,
    **env_kwargs: Any,
) -> "VecEnv":
    """Environments for Stable-Baselines3, with a learned reward if one is given.

    `Monitor` stands inside the learned reward, so `rollout/ep_rew_mean` is the env's own return
    and stays comparable between rewards. The model runs once, in this process, on the whole batch.

    Args:
        env_id: An id such as "Libero-v0" or "libero_goal/turn_on_the_stove-v0".
        n_envs: Number of environments.
        seed: Environment i is seeded with `seed + i`.
        reward_model: A reward model, or the folder or Hub id of a saved one.
        reward_kwargs: Further arguments of `VecLearnedReward`.
        subprocesses: Whether each environment has a process of its own; by default if there is
            more than one.
        env_kwargs: Keyword arguments of `gym.make`.

    Raises:
        ValueError: If `n_envs` is not positive, an argument is wrong for the environment, or each
            of several environments would learn a reward of its own.
    """
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from libero_reward_envs.wrappers.vec_learned_reward import VecLearnedReward

    if n_envs < 1:
        raise ValueError(f"`n_envs` must be at least 1, got {n_envs}.")
    if reward_model is not None and env_id in _WITH_OWN_REWARD:
        raise ValueError(
            f"{env_id!r} has a learned reward of its own. Give `reward_model` with an id that has "
            "none, such as 'Libero-v0': the model then runs once on the whole batch."
        )
    if n_envs > 1 and env_kwargs.get("online"):
        raise ValueError(
            f"online=True of {env_id!r} gives each env a reward that learns by itself, {n_envs} of "
            "them. For one reward give `reward_model` and reward_kwargs={'online': True}, with an "
            "id that has no learned reward of its own."
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


class _RegisteredReward(LearnedReward):
    """`LearnedReward` as a part of an id: the entry point adds it, so the spec must not list it."""

    @property
    def spec(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The spec of the environment inside."""
        return self.env.spec
