"""What `Encode` and `VecEncode` share: observations in, observations with features out."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.encoders.base import Encoder, check_encoders, is_image, select_inputs
from libero_reward_envs.encoders.memory_cache import MemoryFeatureCache
from libero_reward_envs.reward_models.base import BOX_OBSERVATION_KEY


class ObservationEncoding:
    """Adds features to rows of observations, and drops images unless they are kept.

    Args:
        space: The observation space of one env, a Dict, or a Box that stands under "state".
        encoders: What adds features.
        keep: Images to keep.
        cache_bytes: How many bytes of features of former rows are kept.

    Attributes:
        space: The observation space with features.
        cache: The features of former rows.

    Raises:
        ValueError: If the space is another, lacks what an encoder reads or `keep` names, or has the
            key of an encoder.
    """

    def __init__(
        self, space: gym.Space, encoders: Sequence[Encoder], keep: Sequence[str], cache_bytes: int
    ) -> None:
        if isinstance(space, gym.spaces.Dict):
            spaces = dict(space.spaces)
        elif isinstance(space, gym.spaces.Box):
            spaces = {BOX_OBSERVATION_KEY: space}
        else:
            raise ValueError(f"Expected a Dict or Box observation space, got {space}.")
        check_encoders(encoders, spaces)
        if isinstance(keep, str) or not set(keep) <= spaces.keys():
            raise ValueError(
                f"`keep` must be a list of observations, got {keep!r}. There are: "
                f"{', '.join(spaces)}."
            )
        self._encoders = tuple(encoders)
        self._kept = [
            key
            for key, part in spaces.items()
            if key in keep or part.shape is None or not is_image(part.shape, part.dtype)
        ]
        features = {
            encoder.key: gym.spaces.Box(-np.inf, np.inf, tuple(encoder.shape), np.float32)
            for encoder in encoders
        }
        self.space = gym.spaces.Dict({**{key: spaces[key] for key in self._kept}, **features})
        self.cache = MemoryFeatureCache(cache_bytes)

    def encode(self, observations: Any, instructions: Sequence[str]) -> dict[str, np.ndarray]:
        """Return n observations with features, each (n, ...).

        Args:
            observations: By key, each (n, ...), or (n, ...) of a Box.
            instructions: One a row, "" where it is not known.
        """
        rows = as_mapping(observations)
        features = {
            encoder.key: self.cache.encode(encoder, select_inputs(encoder, rows, instructions))
            for encoder in self._encoders
        }
        return {**{key: rows[key] for key in self._kept}, **features}


def as_mapping(observation: Any) -> Mapping[str, np.ndarray]:
    """Return observations by key; that of a Box stands under "state"."""
    if isinstance(observation, Mapping):
        return observation
    return {BOX_OBSERVATION_KEY: observation}


def get_instruction(info: Mapping[str, Any], default: str = "") -> str:
    """Return the instruction in an info, or `default` where it has none."""
    return str(info.get("instruction") or default)
