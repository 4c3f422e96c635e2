"""The files of a saved reward model: writing them whole or not at all, and reading with care."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.atomic_files import write_atomically

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT_VERSION = 1

# New weights wait under this name until the configuration that names their hash is in place.
_PENDING_WEIGHTS_FILE = ".model.safetensors.new"
_CONFIG_FIELDS = {
    "class_name": str,
    "format_version": int,
    "observation_keys": list,
    "arguments": dict,
    "training": dict,
}


def write_folder(
    folder: Path, config: dict[str, Any], weights: Mapping[str, np.ndarray], card: str
) -> None:
    """Write a model so that a kill at any moment leaves either the old or the new one.

    Two files cannot be replaced at once. So the weights are written beside the old ones, then
    `config.json`, which holds their SHA-256, is replaced: this is the moment the new model counts.
    Then the weights take their name. `read_weights` goes by the hash and so finds them either way.
    """
    from safetensors.numpy import save

    blob = save({name: np.asarray(value, order="C") for name, value in weights.items()})
    config = {**config, "weights_sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    _finish_interrupted_write(folder)
    write_atomically(folder / _PENDING_WEIGHTS_FILE, [blob])
    write_atomically(folder / CONFIG_FILE, [text.encode()])
    os.replace(folder / _PENDING_WEIGHTS_FILE, folder / WEIGHTS_FILE)
    write_atomically(folder / CARD_FILE, [card.encode()])


def _finish_interrupted_write(folder: Path) -> None:
    """Give waiting weights their name if they count, so that the next ones do not replace them."""
    pending = folder / _PENDING_WEIGHTS_FILE
    if pending.is_file():
        digest = hashlib.sha256(pending.read_bytes()).hexdigest()
        with contextlib.suppress(OSError, ValueError):  # no or no readable model to keep
            if digest == read_config(folder).get("weights_sha256"):
                os.replace(pending, folder / WEIGHTS_FILE)


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If it is not JSON, lacks a field, or is of a newer format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No {CONFIG_FILE} in {str(folder)!r}: not a saved reward model.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for name, kind in _CONFIG_FIELDS.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise ValueError(f"{path} has no field {name!r} of type {kind.__name__}.")
    if config["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {config['format_version']}, this package reads up to "
            f"{FORMAT_VERSION}. Upgrade libero_reward_envs."
        )
    return config


def read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the weights that belong to `config`.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If the file is damaged or belongs to another configuration.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    paths = [folder / WEIGHTS_FILE, folder / _PENDING_WEIGHTS_FILE]
    blobs = [path.read_bytes() for path in paths if path.is_file()]
    if not blobs:
        raise FileNotFoundError(f"No {WEIGHTS_FILE} in {str(folder)!r}.")
    expected = config.get("weights_sha256")  # absent from a configuration written by hand
    if expected is not None:
        blobs = [blob for blob in blobs if hashlib.sha256(blob).hexdigest() == expected]
        if not blobs:
            raise ValueError(
                f"{paths[0]} is damaged or not the one of its {CONFIG_FILE}: its SHA-256 differs."
            )
    try:
        return load(blobs[0])
    except SafetensorError as error:
        raise ValueError(f"{paths[0]} is damaged: {error}") from error


def check_weights(
    weights: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], source: str
) -> None:
    """Check names, shapes, types and that every number is finite.

    Raises:
        ValueError: If something differs, naming `source` and the tensor.
    """
    missing, extra = (
        sorted(expected.keys() - weights.keys()),
        sorted(weights.keys() - expected.keys()),
    )
    if missing or extra:
        raise ValueError(f"Wrong tensors in {source}: missing {missing}, unexpected {extra}.")
    for name, value in weights.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise ValueError(
                f"Expected tensor {name!r} of shape {expected[name].shape} and type "
                f"{expected[name].dtype}, got {value.shape} and {value.dtype} in {source}."
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"Tensor {name!r} in {source} holds NaN or infinity.")


def make_card(config: Mapping[str, Any], docstring: str | None) -> str:
    """Return the card: what the model is, what it reads, how it was trained, how it is loaded."""
    summary = (docstring or "A reward model.").strip().splitlines()[0]
    training = {
        key: value for key, value in config["training"].items() if not isinstance(value, list)
    }
    features = config["training"].get("openvla_features")
    if features is not None and features.get("random_weights"):
        summary += (
            "\n\n**The OpenVLA that its features come from has random weights and knows nothing: "
            "no figure below means anything.**"
        )
    return f"""---
library_name: libero_reward_envs
tags:
- reward-model
- robotics
- reinforcement-learning
---

# {config["class_name"]}

{summary}

Reads the observations: {", ".join(f"`{key}`" for key in config["observation_keys"])}.

```python
from libero_reward_envs.reward_models.base import load_reward_model

model = load_reward_model("this folder or its Hub id")
```

## Training

```json
{json.dumps(training, indent=2)}
```

A learned reward is for training agents. Judge them by their success rate, not by it.
"""
