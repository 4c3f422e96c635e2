"""Agents that Stable-Baselines3 saved, to be evaluated."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

AGENT_FILE, _SETTINGS_FILE = "agent.zip", "config.yaml"  # of `train_agent`
_STATE, _IMAGE_SUFFIX = "state", "_image"
_COLOURS = 3
_MAX_DATA_BYTES = 64 * 2**20
# The module of a policy's class, and an algorithm whose `predict` is that policy's.
_ALGORITHMS = {
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3",
    "stable_baselines3.common.policies": "PPO",
}


class SharedAgent:
    """One agent of Stable-Baselines3 for all environments.

    Args:
        model: The agent.
    """

    prepare = None

    def __init__(self, model: Any) -> None:
        self._model = model

    def begin(self, row: int, task: str, instruction: str | None) -> None:
        """Nothing is kept from one step to the next."""

    def act(self, rows: Sequence[int], prepared: Sequence[Any]) -> np.ndarray:
        """Return an action for each observation, the agent's mode."""
        first = prepared[0]
        if isinstance(first, Mapping):
            batch: Any = {key: np.stack([each[key] for each in prepared]) for key in first}
        else:
            batch = np.stack(prepared)
        return self._model.predict(batch, deterministic=True)[0]


def load_sb3_agent(path: Path) -> tuple[SharedAgent, dict[str, Any], dict[str, Any]]:
    """Load an agent that SB3 saved: only one's own, as SB3 unpickles parts of such files.

    Args:
        path: The `.zip`.

    Returns:
        The agent; what it is, as JSON holds it; and the arguments of `LiberoEnv` that it asks for.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of an algorithm that is not known, or sees other things than
            LIBERO shows.
    """
    import stable_baselines3

    if not path.is_file():
        raise FileNotFoundError(f"No agent {str(path)!r}.")
    name = _find_algorithm(path)
    try:
        model: Any = getattr(stable_baselines3, name).load(path, device="cpu")
    except Exception as error:  # a damaged file can raise anything at all
        raise ValueError(f"{str(path)!r} cannot be loaded as {name}: {error}") from error
    shapes = find_shapes(model.observation_space)
    description = {
        "kind": name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "observations": shapes,
    }
    arguments = {**_find_env_arguments(shapes, path), **_read_orientation(path)}
    return SharedAgent(model), description, arguments


def _find_algorithm(path: Path) -> str:
    """Return the name of the algorithm of a file, of which nothing is unpickled for that."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > _MAX_DATA_BYTES:
                raise ValueError("its settings are too large")
            data = json.loads(archive.read("data"))
        module = str(data["policy_class"]["__module__"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is no agent of Stable-Baselines3: {error}") from error
    if module not in _ALGORITHMS:
        raise ValueError(
            f"Expected an agent of {', '.join(sorted({*_ALGORITHMS.values()}))} in {str(path)!r}, "
            f"got a policy of {module!r}."
        )
    return _ALGORITHMS[module]


def find_shapes(space: gym.Space[Any]) -> dict[str, list[int]]:
    """Return the shapes of observations by name, images with their colours last, as envs have them.

    A `Box` stands under "state".
    """
    spaces = space.spaces if isinstance(space, gym.spaces.Dict) else {_STATE: space}
    shapes = {}
    for key, part in sorted(spaces.items()):
        shape = list(part.shape or ())
        if len(shape) == 3 and shape[0] == _COLOURS != shape[2]:  # as SB3 turns them
            shape = [*shape[1:], _COLOURS]
        shapes[key] = shape
    return shapes


def _find_env_arguments(shapes: Mapping[str, list[int]], path: Path) -> dict[str, Any]:
    """Return the arguments of `LiberoEnv` that give such observations."""
    images = [key for key in shapes if key.endswith(_IMAGE_SUFFIX)]
    sizes = {size for key in images for size in shapes[key][:2]}
    others = shapes.keys() - set(images)
    if not images and others == {_STATE} and len(shapes[_STATE]) == 1:
        return {"obs_type": "state"}
    if images and len(sizes) == 1 and others <= {_STATE}:
        return {
            "obs_type": "pixels_state" if others else "pixels",
            "cameras": [key.removesuffix(_IMAGE_SUFFIX) for key in images],
            "image_size": int(sizes.pop()),
        }
    raise ValueError(
        f"Expected an agent that sees LIBERO's state or pictures, got one that sees {dict(shapes)} "
        f"in {str(path)!r}."
    )


def _read_orientation(path: Path) -> dict[str, Any]:
    """Return how pictures lay in training, where the settings beside the agent say it."""
    settings = path.parent / _SETTINGS_FILE
    if not settings.is_file():
        return {}
    import yaml

    fields = yaml.safe_load(settings.read_text(encoding="utf-8"))
    env = fields.get("env") if isinstance(fields, dict) else None
    found = env.get("orientation") if isinstance(env, dict) else None
    return {"orientation": found} if isinstance(found, str) else {}
