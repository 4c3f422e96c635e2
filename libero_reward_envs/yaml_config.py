"""YAML files as typed settings: reading, values of the command line, refusing what is unknown."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

_Settings = TypeVar("_Settings")
_NONE_WORDS = ("None", "none")  # YAML alone reads these as strings; people mean null
_OTHERS = "takes the other keys"


class _Loader(yaml.SafeLoader):
    """YAML without objects, without a key twice, and with the numbers and None of Python."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping, unless a key would silently lose its first value."""
        seen = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes a number for one only if it has a point: 3e-4 would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(f"({'|'.join(_NONE_WORDS)})$"), list("Nn")
)


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, has a key twice, or asks for an object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No configuration file {str(path)!r}.")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read {str(path)!r} as YAML: {error}.") from error


def other_keys() -> Any:
    """Return the default of a field that takes the keys of its block that are no fields."""
    return dataclasses.field(default_factory=dict, metadata={_OTHERS: True})


def apply_overrides(document: Any, overrides: Iterable[str], names: Sequence[str]) -> Any:
    """Return a document with values of the command line, such as "reward.collect_data=True".

    Args:
        document: What a YAML file holds; left as it is.
        overrides: Each "<block>.<key>=<value>", the value in YAML.
        names: The blocks, and keys outside of any block, that may be changed.

    Raises:
        ValueError: If an override is none, or reaches into something that is no mapping.

    Example:
        >>> apply_overrides({"agent": {"seed": 0}}, ["agent.seed=1", "agent.gamma=9e-1"], ["agent"])
        {'agent': {'seed': 1, 'gamma': 0.9}}
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.split(".")
        if not equals or "" in keys or keys[0] not in names:
            raise ValueError(
                f"Expected '{names[0]}.<key>=<value>', got {override!r}. "
                f"First may come: {', '.join(names)}."
            )
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"Cannot read the value of {override!r} as YAML.") from error
        document = _set(document, keys, value)
    return document


def build_settings(kind: type[_Settings], block: Any, name: str) -> _Settings:
    """Return the dataclass `kind` with the values of a mapping, key by key.

    Args:
        kind: A dataclass, whose fields have defaults; they may be dataclasses, and one of them
            `other_keys()`.
        block: The mapping; None for an empty one.
        name: What the block is called in messages, "" for a whole file.

    Raises:
        ValueError: If a key is unknown, or a value has another type; the message names the key.
    """
    block = {} if block is None else block
    if not isinstance(block, Mapping):
        where = f"under `{name}`" if name else "of settings"
        raise ValueError(f"Expected a mapping {where}, got {block!r}.")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(typing.cast("Any", kind))
    others = next((field.name for field in fields if _OTHERS in field.metadata), None)
    if others is None:
        check_known(block, hints, name)
    known = {key: value for key, value in block.items() if key in hints and key != others}
    values = {key: _convert(hints[key], value, _join(name, key)) for key, value in known.items()}
    if others is not None:
        values[others] = {str(key): value for key, value in block.items() if key not in known}
    return kind(**values)


def check_known(keys: Iterable[Any], known: Iterable[str], name: str) -> None:
    """Raise ValueError if a key of block `name` is not known; a close match is named."""
    known = list(known)
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(known)}."
            raise ValueError(f"Unknown key `{_join(name, str(key))}`. {hint}")


def _set(block: Any, keys: Sequence[str], value: Any) -> Any:
    if not keys:
        return value
    if block is not None and not isinstance(block, Mapping):
        raise ValueError(f"`{keys[0]}` cannot be set in {block!r}, which is no mapping.")
    inner = dict(block or {})
    inner[keys[0]] = _set(inner.get(keys[0]), keys[1:], value)
    return inner


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build_settings(typing.cast("type[Any]", hint), value, name)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # X | None
        if value is None or value in _NONE_WORDS:
            return None
        hint = typing.get_args(hint)[0]
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"Expected a list for `{name}`, got {value!r}.")
        return tuple(_convert(item, part, name) for part in value)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"Expected one of {', '.join(choices)} for `{name}`, got {value!r}.")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # a bool is no int here
        raise ValueError(f"Expected {hint.__name__} for `{name}`, got {value!r}.")
    return value
