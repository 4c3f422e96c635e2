"""Writes the whole built-in set into a folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from libero_reward_envs.envs.builtin_assets.containers import CONTAINERS
from libero_reward_envs.envs.builtin_assets.fixtures import FIXTURES
from libero_reward_envs.envs.builtin_assets.groceries import GROCERIES
from libero_reward_envs.envs.builtin_assets.model import object_mjcf
from libero_reward_envs.envs.builtin_assets.scenes import SCENES, scene_mjcf
from libero_reward_envs.envs.builtin_assets.tableware import TABLEWARE
from libero_reward_envs.envs.builtin_assets.textures import TEXTURES, paint

# Part of the cache folder's name: change it with every change of what is written.
BUILTIN_ASSETS_VERSION = "3"


def write_builtin_assets(folder: Path) -> None:
    """Writes every object, arena and texture that LIBERO's 130 tasks use.

    The same files, byte for byte, at every call. Paths below `folder` are those that LIBERO's
    classes look up.

    Args:
        folder: Must not exist yet, or be empty.

    Raises:
        ValueError: If `folder` already holds something.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"`folder` must be empty or not exist, got {str(folder)!r}.")
    for make_object in (*TABLEWARE, *GROCERIES, *CONTAINERS, *FIXTURES):
        model = make_object()
        _write_text(folder / model.path, object_mjcf(model))
    for make_scene in SCENES:
        scene = make_scene()
        _write_text(folder / scene.path, scene_mjcf(scene))
    textures = folder / "textures"
    textures.mkdir()
    for name in TEXTURES:
        Image.fromarray(paint(name)).save(textures / f"{name}.png", compress_level=9)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
