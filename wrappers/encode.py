"""Features of frozen encoders as a Gymnasium wrapper."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.encoders.base import Encoder
from libero_reward_envs.encoders.orientation import check_orientation
from libero_reward_envs.wrappers.observation_encoding import (
    ObservationEncoding,
    as_mapping,
    get_instruction,
)


class Encode(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Adds features to the observations of an env, and drops images unless they are kept.

    Observations become a Dict: what there was but images, and under the key of each encoder a Box
    of float32. The instruction that encoders read is `info["instruction"]` of the last reset; it
    is no observation. For several envs `VecEncode` makes one batch of them.

    Args:
        env: The env; the observation of a Box stands under "state".
        encoders: What adds features.
        keep: Images to keep.
        cache_bytes: How many bytes of features of former observations are kept in memory.

    Raises:
        ValueError: If the env lacks what an encoder reads or `keep` names, already has the key of
            an encoder, or its images are turned otherwise than an encoder's.
    """

    def __init__(
        self,
        env: gym.Env,
        encoders: Sequence[Encoder],
        *,
        keep: Sequence[str] = (),
        cache_bytes: int = 2**28,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,  # encoders are shared, not copied
            encoders=encoders,
            keep=keep,
            cache_bytes=cache_bytes,
        )
        gym.Wrapper.__init__(self, env)
        check_orientation(encoders, getattr(env.unwrapped, "orientation", None), "the env")
        self._encoding = ObservationEncoding(env.observation_space, encoders, keep, cache_bytes)
        self.observation_space = self._encoding.space
        self._instruction = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset the env."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._instruction = get_instruction(info)
        return self._encode(observation), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._encode(observation), reward, terminated, truncated, info

    def _encode(self, observation: Any) -> dict[str, np.ndarray]:
        rows = {key: np.asarray(value)[None] for key, value in as_mapping(observation).items()}
        encoded = self._encoding.encode(rows, [self._instruction])
        return {key: value[0] for key, value in encoded.items()}
