"""The `reward:` block of a YAML configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from libero_reward_envs.yaml_config import apply_overrides, build_settings, read_yaml


@dataclass(frozen=True)
class DataCollectionConfig:
    """`reward.data_collection`: what `RewardDataCollector` is given; None where nothing is said."""

    positive_dir: str | None = None
    negative_dir: str | None = None
    image_keys: tuple[str, ...] | None = None
    image_size: tuple[int, ...] | None = None  # (C, H, W)
    max_positive_trajectories: int | None = None  # None: unlimited
    max_negative_trajectories: int | None = None
    storage: Literal["auto", "npy", "hdf5"] = "auto"


@dataclass(frozen=True)
class RewardModelConfig:
    """`reward.reward_model`: the classifier and what its reward does to the env's.

    None where nothing is said: the checkpoint decides, and of `gamma` the agent.
    """

    checkpoint_path: str | None = None
    image_keys: tuple[str, ...] | None = None
    image_size: tuple[int, ...] | None = None  # (C, H, W)
    hidden_dim: int | None = None
    num_spatial_blocks: int | None = None
    pretrained_encoder_path: str | None = None
    use_pretrain: bool | None = None
    freeze_encoder: bool | None = None
    reward_type: Literal["binary", "continuous"] | None = None
    # The rest are arguments of `RewardMix`.
    mode: Literal["replace", "mix", "terminal", "success", "difference", "potential"] = "replace"
    env_weight: float = 1.0
    model_weight: float = 1.0
    step_cost: float = 0.0
    gamma: float | None = None
    success_window: tuple[int, ...] = (2, 3)  # k of the last n frames
    success_threshold: float | None = None


@dataclass(frozen=True)
class RewardConfig:
    """The `reward:` block; `group_name` is read and has no effect here."""

    group_name: str = "RewardGroup"
    use_reward_model: bool = False
    collect_data: bool = False
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    data_collection: DataCollectionConfig = field(default_factory=DataCollectionConfig)


def load_reward_config(path: str | Path, overrides: Sequence[str] = ()) -> RewardConfig:
    """Read the `reward:` block of a YAML file; other blocks are left to others.

    Args:
        path: The file.
        overrides: Values of the command line such as "reward.collect_data=True", which win.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, a key is unknown, a value has the wrong type, or what is
            switched on lacks what it needs; the message names the key.
    """
    document = read_yaml(path)
    try:
        return parse_reward_config(document, overrides)
    except ValueError as error:
        raise ValueError(f"In {str(path)!r}: {error}") from error


def parse_reward_config(document: Any, overrides: Sequence[str] = ()) -> RewardConfig:
    """Read the `reward:` block of what a YAML file holds.

    Args:
        document: A mapping with the key "reward".
        overrides: As for `load_reward_config`.

    Raises:
        ValueError: As for `load_reward_config`.

    Example:
        >>> config = parse_reward_config({"reward": {}}, ["reward.data_collection.storage=npy"])
        >>> config.collect_data, config.data_collection.storage
        (False, 'npy')
    """
    if not isinstance(document, Mapping) or "reward" not in document:
        raise ValueError("Expected a mapping with the key 'reward'. Add a `reward:` block.")
    document = apply_overrides(document, overrides, ["reward"])
    config = build_settings(RewardConfig, document["reward"], "reward")
    check_reward_config(config)
    return config


def check_reward_config(config: RewardConfig) -> None:
    """Raise ValueError if what is switched on lacks what it needs, or a number is out of range."""
    _check_needs(config)
    collection, model = config.data_collection, config.reward_model
    for name, size in (("data_collection", collection), ("reward_model", model)):
        if size.image_size is not None and (len(size.image_size) != 3 or min(size.image_size) < 1):
            raise ValueError(
                f"Expected `reward.{name}.image_size` as [C, H, W], got {list(size.image_size)}."
            )
    least = {
        "data_collection.max_positive_trajectories": (collection.max_positive_trajectories, 0),
        "data_collection.max_negative_trajectories": (collection.max_negative_trajectories, 0),
        "reward_model.hidden_dim": (model.hidden_dim, 1),
        "reward_model.num_spatial_blocks": (model.num_spatial_blocks, 1),
    }
    for name, (number, smallest) in least.items():
        if number is not None and number < smallest:
            raise ValueError(f"`reward.{name}` must be at least {smallest}, got {number}.")
    for name in ("env_weight", "model_weight", "step_cost", "success_threshold"):
        number = getattr(model, name)
        if number is not None and not math.isfinite(number):
            raise ValueError(f"`reward.reward_model.{name}` must be finite, got {number}.")
    if model.gamma is not None and not 0 <= model.gamma <= 1:
        raise ValueError(f"`reward.reward_model.gamma` must be in [0, 1], got {model.gamma}.")
    window = model.success_window
    if len(window) != 2 or not 1 <= window[0] <= window[1]:
        raise ValueError(
            "Expected `reward.reward_model.success_window` as [k, n] with 1 <= k <= n, "
            f"got {list(window)}."
        )


def _check_needs(config: RewardConfig) -> None:
    collection, model = config.data_collection, config.reward_model
    needs: list[tuple[str, str, Any]] = []
    if config.collect_data:
        for key in ("positive_dir", "negative_dir", "image_keys"):
            needs.append(("collect_data", f"data_collection.{key}", getattr(collection, key)))
    if config.use_reward_model:
        needs.append(("use_reward_model", "reward_model.checkpoint_path", model.checkpoint_path))
    for switch, key, value in needs:
        if value is None:
            raise ValueError(f"`reward.{switch}` is on, but `reward.{key}` is missing. Add it.")
