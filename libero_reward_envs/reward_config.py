"""The `reward:` block of a YAML configuration."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_NONE_WORDS = ("None", "none")  # YAML reads these as strings, and means null


@dataclass(frozen=True)
class DataCollectionConfig:
    """`reward.data_collection`: what `RewardDataCollector` is given; None where nothing is said."""

    positive_dir: str | None = None
    negative_dir: str | None = None
    image_keys: tuple[str, ...] | None = None
    image_size: tuple[int, ...] | None = None  # (C, H, W)
    max_positive_trajectories: int | None = None  # None: unlimited
    max_negative_trajectories: int | None = None
    storage: str = "auto"  # "npy", "hdf5"


@dataclass(frozen=True)
class RewardModelConfig:
    """`reward.reward_model`: the classifier. None where nothing is said: the checkpoint decides."""

    checkpoint_path: str | None = None
    image_keys: tuple[str, ...] | None = None
    image_size: tuple[int, ...] | None = None  # (C, H, W)
    hidden_dim: int | None = None
    num_spatial_blocks: int | None = None
    pretrained_encoder_path: str | None = None
    use_pretrain: bool | None = None
    freeze_encoder: bool | None = None
    reward_type: str = "binary"  # "continuous"


@dataclass(frozen=True)
class RewardConfig:
    """The `reward:` block; `group_name` is read and has no effect here."""

    group_name: str = "RewardGroup"
    use_reward_model: bool = False
    collect_data: bool = False
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    data_collection: DataCollectionConfig = field(default_factory=DataCollectionConfig)


_CHOICES = {
    "reward.reward_model.reward_type": ("binary", "continuous"),
    "reward.data_collection.storage": ("auto", "npy", "hdf5"),
}


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
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read {str(path)!r} as YAML: {error}.") from error
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
    block = document["reward"]
    for override in overrides:
        block = _override(block, override)
    config: RewardConfig = _build(RewardConfig, block, "reward")
    _check(config)
    return config


def _override(block: Any, override: str) -> Any:
    """Return the block with one value set."""
    name, equals, text = override.partition("=")
    first, *keys = name.split(".")
    if not equals or first != "reward" or not keys or "" in keys:
        raise ValueError(f"Expected 'reward.<key>=<value>', got {override!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"Cannot read the value of {override!r} as YAML.") from error
    return _set(block, keys, value)


def _set(block: Any, keys: Sequence[str], value: Any) -> Any:
    if not keys:
        return value
    if block is not None and not isinstance(block, Mapping):
        raise ValueError(f"`{keys[0]}` cannot be set in {block!r}, which is no mapping.")
    inner = dict(block or {})
    inner[keys[0]] = _set(inner.get(keys[0]), keys[1:], value)
    return inner


def _build(kind: Any, block: Any, name: str) -> Any:
    """Make a dataclass of a mapping, key by key."""
    block = {} if block is None else block
    if not isinstance(block, Mapping):
        raise ValueError(f"Expected a mapping under `{name}`, got {block!r}.")
    hints = typing.get_type_hints(kind)
    for key in block:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(hints)}."
            raise ValueError(f"Unknown key `{name}.{key}`. {hint}")
    values = {key: _convert(hints[key], value, f"{name}.{key}") for key, value in block.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name)
    if isinstance(hint, types.UnionType):  # X | None
        if value is None or value in _NONE_WORDS:
            return None
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"Expected a list for `{name}`, got {value!r}.")
        return tuple(_convert(item, part, name) for part in value)
    if type(value) is not hint:  # a bool is no int here
        raise ValueError(f"Expected {hint.__name__} for `{name}`, got {value!r}.")
    if value not in _CHOICES.get(name, (value,)):
        raise ValueError(
            f"Expected one of {', '.join(_CHOICES[name])} for `{name}`, got {value!r}."
        )
    return value


def _check(config: RewardConfig) -> None:
    """Check what is switched on, and every size and limit."""
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
    for name, size in (("data_collection", collection), ("reward_model", model)):
        if size.image_size is not None and (len(size.image_size) != 3 or min(size.image_size) < 1):
            raise ValueError(
                f"Expected `reward.{name}.image_size` as [C, H, W], got {list(size.image_size)}."
            )
    numbers = {
        "data_collection.max_positive_trajectories": (collection.max_positive_trajectories, 0),
        "data_collection.max_negative_trajectories": (collection.max_negative_trajectories, 0),
        "reward_model.hidden_dim": (model.hidden_dim, 1),
        "reward_model.num_spatial_blocks": (model.num_spatial_blocks, 1),
    }
    for name, (number, least) in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"`reward.{name}` must be at least {least}, got {number}.")
