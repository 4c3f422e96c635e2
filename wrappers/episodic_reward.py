"""Any environment as one that tells its return at the end of an episode and nothing before."""

import warnings
from typing import Any

import gymnasium as gym

DENSE_REWARD_KEY = "reward/dense"  # in the info of every step: the reward that was withheld


class EpisodicReward(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Withholds all rewards until an episode ends, then pays their sum.

    r_t = 0 for t < T and r_T = sum of the T rewards, undiscounted: the setting of Ren et al.
    (2022), "Learning Long-Term Reward Redistribution via Randomized Return Decomposition", section
    2. An episode ends where the env says `terminated` or `truncated`, so a `TimeLimit` must stand
    inside this wrapper, as `gym.make` puts it. Every step's info gains "reward/dense", the reward
    that was withheld; nothing else in it changes.

    Args:
        env: An env whose episodes end.

    Example:
        >>> env = EpisodicReward(gym.make("Pendulum-v1", max_episode_steps=2))
        >>> _ = env.reset(seed=0)
        >>> steps = [env.step(env.action_space.sample()) for _ in range(2)]
        >>> steps[0][1], steps[1][1] == sum(step[4]["reward/dense"] for step in steps)
        (0.0, True)
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._withheld = 0.0
        self._n_steps = 0
        self._is_warned = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env and forget what an unfinished episode still owes."""
        if self._n_steps and not self._is_warned:
            self._is_warned = True
            warnings.warn(
                f"Expected a reset after the end of an episode, but after {self._n_steps} steps it "
                "had not ended, so its return was never paid. If a TimeLimit stands outside "
                "EpisodicReward, put it inside.",
                stacklevel=2,
            )
        self._withheld, self._n_steps = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env; the reward is 0.0 until the last step of an episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        dense = float(reward)
        self._withheld += dense
        self._n_steps += 1
        paid = 0.0
        if terminated or truncated:
            paid, self._withheld, self._n_steps = self._withheld, 0.0, 0
        return observation, paid, terminated, truncated, {**info, DENSE_REWARD_KEY: dense}
