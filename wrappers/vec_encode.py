"""Features of frozen encoders as a Stable-Baselines3 vector wrapper."""

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from libero_reward_envs.encoders.base import Encoder
from libero_reward_envs.encoders.orientation import check_orientation
from libero_reward_envs.wrappers.observation_encoding import (
    ObservationEncoding,
    as_mapping,
    get_instruction,
)


class VecEncode(VecEnvWrapper):
    """Adds features to the observations of n envs, and drops images unless they are kept.

    Observations become a Dict: what there was but images, and under the key of each encoder a Box
    of float32. The observations after a step and the `terminal_observation` of envs that ended are
    one batch. The instruction that encoders read is `info["instruction"]` of each env's last
    reset; it is no observation.

    Put `VecLearnedReward` outside of it, and `VecNormalize` outside with `norm_obs_keys` that name
    none of the features.

    Args:
        venv: The envs; the observation of a Box stands under "state".
        encoders: What adds features.
        keep: Images to keep.
        cache_bytes: How many bytes of features of former observations are kept in memory.

    Raises:
        ValueError: If the envs lack what an encoder reads or `keep` names, already have the key of
            an encoder, or their images are turned otherwise than an encoder's.
    """

    def __init__(
        self,
        venv: VecEnv,
        encoders: Sequence[Encoder],
        *,
        keep: Sequence[str] = (),
        cache_bytes: int = 2**28,
    ) -> None:
        if venv.has_attr("orientation"):
            for orientation in set(venv.get_attr("orientation")):
                check_orientation(encoders, orientation, "an env")
        self._encoding = ObservationEncoding(venv.observation_space, encoders, keep, cache_bytes)
        super().__init__(venv, observation_space=self._encoding.space)
        self._instructions = [""] * venv.num_envs

    def reset(self) -> dict[str, np.ndarray]:
        """Reset all envs."""
        observations = self.venv.reset()
        for index in range(self.num_envs):
            self._take_instruction(index)
        return self._encoding.encode(observations, self._instructions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step; encoded are its observations and those of the ends of episodes."""
        observations, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones).tolist()
        told = [get_instruction(infos[index], self._instructions[index]) for index in ended]
        for index in ended:
            self._take_instruction(index)
        rows = as_mapping(observations)
        last = [as_mapping(infos[index]["terminal_observation"]) for index in ended]
        if last:
            rows = {
                key: np.concatenate([value, np.stack([part[key] for part in last])])
                for key, value in rows.items()
            }
        encoded = self._encoding.encode(rows, [*self._instructions, *told])
        infos = [dict(info) for info in infos]
        for place, index in enumerate(ended, start=self.num_envs):
            infos[index]["terminal_observation"] = {k: v[place] for k, v in encoded.items()}
        return {k: v[: self.num_envs] for k, v in encoded.items()}, rewards, dones, infos

    def _take_instruction(self, index: int) -> None:
        """Take that of the episode that an env has begun."""
        self._instructions[index] = get_instruction(self.venv.unwrapped.reset_infos[index])
