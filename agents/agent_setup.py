"""From a configuration to envs and agent: what contradicts the checkpoint is corrected from it."""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from libero_reward_envs.agent_config import TrainAgentConfig, get_env_parameters
from libero_reward_envs.agents.agent_making import settle_agent
from libero_reward_envs.factory import choose_images, make_vec_env
from libero_reward_envs.reward_config import RewardModelConfig
from libero_reward_envs.reward_models.base import RewardModel, load_reward_model
from libero_reward_envs.wrappers.lazy_reward_model import check_observation_keys

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from libero_reward_envs.reward_models.classifier import ClassifierRewardModel

_STORED = (
    *("image_keys", "image_size", "hidden_dim", "num_spatial_blocks"),
    *("use_pretrain", "freeze_encoder"),
)
_RULE = ("mode", "env_weight", "model_weight", "step_cost", "success_window", "success_threshold")


@dataclass(frozen=True)
class AgentPlan:
    """What a run is going to do.

    Attributes:
        config: The configuration, corrected from the checkpoint and with all that it left open.
        reward_model: The learned reward, loaded; None without one.
        notes: What a user may like to know about how it was read.
    """

    config: TrainAgentConfig
    reward_model: RewardModel | None
    notes: tuple[str, ...]


def make_plan(config: TrainAgentConfig) -> AgentPlan:
    """Load the reward model and settle everything else, before any env is started.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        RuntimeError: If the checkpoint's weights are not there.
        ValueError: If the checkpoint is damaged, or the env cannot give its images.
    """
    notes: list[str] = []
    model = None
    settings = config.reward.reward_model
    if config.reward.use_reward_model:
        model = _load_model(settings, config.agent.device, notes)
        settings = _correct_settings(settings, model)
        if settings.gamma is None:
            settings = dataclasses.replace(settings, gamma=config.agent.gamma)
        elif settings.mode == "potential" and settings.gamma != config.agent.gamma:
            warnings.warn(
                f"`reward.reward_model.gamma` is {settings.gamma}, the agent's is "
                f"{config.agent.gamma}. Only with the agent's does 'potential' keep the best "
                "policy the best.",
                stacklevel=2,
            )
        reward = dataclasses.replace(config.reward, reward_model=settings)
        config = dataclasses.replace(config, reward=reward)
    arguments = _settle_env(config, model, notes)
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, arguments=arguments))
    space = _probe_space(config)
    if model is not None:
        _check_observations(model, space)
    agent = settle_agent(config.agent, config.env.n_envs, space, notes)
    return AgentPlan(dataclasses.replace(config, agent=agent), model, tuple(notes))


def make_envs(plan: AgentPlan) -> "VecEnv":
    """Return the envs with what stands around them: collection inside, learned reward outside.

    Raises:
        ValueError: If the envs lack an image that is to be collected, or it has another size.
    """
    from libero_reward_envs.wrappers.vec_learned_reward import VecLearnedReward
    from libero_reward_envs.wrappers.vec_reward_data_collector import VecRewardDataCollector

    config, reward = plan.config, plan.config.reward
    env = config.env
    venv = make_vec_env(
        env.id, env.n_envs, seed=config.agent.seed, subprocesses=env.subprocesses, **env.arguments
    )
    try:
        if reward.collect_data:
            settings: Any = dataclasses.asdict(reward.data_collection)
            made_by = {"policy": config.agent.algorithm, "seed": config.agent.seed}
            venv = VecRewardDataCollector(venv, **settings, metadata=made_by)
        if plan.reward_model is not None:
            settings = {name: getattr(reward.reward_model, name) for name in (*_RULE, "gamma")}
            kind = reward.reward_model.reward_type
            venv = VecLearnedReward(venv, plan.reward_model, reward_type=kind, **settings)
    except BaseException:
        venv.close()  # else its processes would go on
        raise
    return venv


def _load_model(settings: RewardModelConfig, device: str, notes: list[str]) -> RewardModel:
    from stable_baselines3.common.utils import get_device

    from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
    from libero_reward_envs.reward_models.classifier_files import is_checkpoint

    path = settings.checkpoint_path
    assert path is not None  # checked when the file was read
    model = load_reward_model(path)
    if not isinstance(model, ClassifierRewardModel):
        return model
    _check_weights(model, path)
    beside = Path(path).with_suffix("")
    if is_checkpoint(path) and beside.is_dir():
        notes.append(
            f"{path} knows neither threshold nor temperature, taken as 0.5 and 1; they stand in "
            f"the folder {beside}, which can be given as `checkpoint_path` instead."
        )
    if settings.pretrained_encoder_path is not None:
        notes.append(
            f"{settings.pretrained_encoder_path} is not read: the encoder in {path} takes "
            "precedence."
        )
    return model.to(get_device(device))


def _check_weights(model: "ClassifierRewardModel", path: str) -> None:
    """Raise RuntimeError if the weights are not those that were trained."""
    from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier

    stated, found = model.training.get("encoder_hash"), model.classifier.encoder_hash
    if stated is not None and stated != found:
        raise RuntimeError(
            f"Expected the encoder {stated[:16]}... in {path!r}, as its configuration says, got "
            f"{found[:16]}.... Train it again, or get all files of one training."
        )
    new = BinaryRewardClassifier(**model.classifier.arguments, weights_follow=True).state_dict()
    loaded = model.classifier.state_dict()
    if all(value.equal(loaded[name].cpu()) for name, value in new.items()):
        raise RuntimeError(
            f"Expected trained weights in {path!r}, got those of a new network: its rewards would "
            "be random. Train it with `libero-reward train-classifier`."
        )


def _correct_settings(settings: RewardModelConfig, model: RewardModel) -> RewardModelConfig:
    """Return the settings with what the checkpoint knows better, and warn of what differed."""
    stored: Mapping[str, Any] = getattr(model, "arguments", {})
    corrected = {}
    for name in _STORED:
        if name not in stored:
            continue
        given, value = getattr(settings, name), stored[name]
        value = tuple(value) if isinstance(value, list) else value
        if given is not None and given != value:
            warnings.warn(
                f"`reward.reward_model.{name}` is {_as_yaml(given)}, the checkpoint "
                f"{settings.checkpoint_path!r} was trained with {_as_yaml(value)}. Taking "
                f"{_as_yaml(value)}.",
                stacklevel=3,
            )
        corrected[name] = value
    return dataclasses.replace(settings, **corrected)


def _settle_env(
    config: TrainAgentConfig, model: RewardModel | None, notes: list[str]
) -> dict[str, Any]:
    """Return the env's arguments, with the images that reward model or collection read."""
    arguments = dict(config.env.arguments)
    for name in ("reward_model", "reward_kwargs", "seed"):
        if name in arguments:
            raise ValueError(
                f"`env.{name}` does not belong there. A learned reward is given under `reward`, "
                "the seed under `agent`."
            )
    known = get_env_parameters(config.env.id) or set()
    if not {"obs_type", "cameras", "image_size"} <= known:
        return arguments
    keys = _read_keys(config, model)
    if model is None or hasattr(model, "classifier"):
        arguments.setdefault("obs_type", "pixels")
    if keys and all(key.endswith("_image") for key in keys):
        if model is not None:
            stored: Any = model
            settings = {**stored.arguments, "training": stored.training}
            arguments |= choose_images(settings, arguments)
        else:
            arguments.setdefault("cameras", [key.removesuffix("_image") for key in keys])
    size = config.reward.data_collection.image_size or config.reward.reward_model.image_size
    if keys and size and size[1] == size[2]:
        arguments.setdefault("image_size", size[1])
    rule = config.reward.reward_model
    waits = model is not None and rule.mode == "success" and rule.success_window[0] > 1
    if waits and "terminate_on_success" not in arguments:
        arguments["terminate_on_success"] = False
        notes.append(
            "Episodes go on after true success, so that the model can see "
            f"{rule.success_window[0]} frames of it. To end them there, set "
            "`env.terminate_on_success: True` and `reward.reward_model.success_window: [1, 1]`."
        )
    return arguments


def _read_keys(config: TrainAgentConfig, model: RewardModel | None) -> list[str]:
    if model is not None:
        return list(model.observation_keys) if hasattr(model, "classifier") else []
    reward = config.reward
    return list(reward.data_collection.image_keys or reward.reward_model.image_keys or ())


def _probe_space(config: TrainAgentConfig) -> gym.Space[Any]:
    """Return the observation space, from an env that is never reset."""
    try:
        env = gym.make(config.env.id, **config.env.arguments)
    except TypeError as error:
        raise ValueError(f"{config.env.id} cannot be made with `env`: {error}") from error
    space = env.observation_space
    env.close()
    return space


def _check_observations(model: RewardModel, space: gym.Space[Any]) -> None:
    check_observation_keys(model.observation_keys, space)
    needed = getattr(model, "image_shape", None)
    if needed is None or not isinstance(space, gym.spaces.Dict):
        return
    for key in model.observation_keys:
        if space[key].shape != needed:
            raise ValueError(
                f"Expected {key!r} of {needed}, (H, W, C), as the classifier was trained on, the "
                f"env gives {space[key].shape}. Change the image size under `env`."
            )


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
