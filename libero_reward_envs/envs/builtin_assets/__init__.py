"""The built-in object and scene models: primitive shapes with our own colours and textures."""

from libero_reward_envs.envs.builtin_assets.writer import (
    BUILTIN_ASSETS_VERSION,
    write_builtin_assets,
)

__all__ = ["BUILTIN_ASSETS_VERSION", "write_builtin_assets"]
