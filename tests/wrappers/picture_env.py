"""A small env that shows pictures and tells an instruction, another one in each episode."""

import gymnasium as gym
import numpy as np


class PictureEnv(gym.Env):
    """Every picture is drawn anew; an episode has `number` + 2 steps and ends by itself or not."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, number=0, tells=True, orientation=None, terminates=True):
        picture = gym.spaces.Box(0, 255, (4, 6, 3), np.uint8)
        state = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.spaces = gym.spaces.Dict(
            {"agentview_image": picture, "wrist_image": picture, "state": state}
        )
        self.observation_space = self.spaces
        self.number, self.tells, self.terminates = number, tells, terminates
        self.n_episodes = 0
        if orientation is not None:
            self.orientation = orientation

    def observe(self):
        draw = self.np_random
        pictures = {
            key: draw.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            for key in ("agentview_image", "wrist_image")
        }
        self.shown = {**pictures, "state": draw.normal(size=2).astype(np.float32)}
        return self.shown

    def info(self):
        words = " ".join(["go"] * (1 + 10 * self.number + self.n_episodes))
        return {"instruction": words} if self.tells else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_episodes += 1
        self.n_steps = 0
        return self.observe(), self.info()

    def step(self, action):
        self.n_steps += 1
        ended = self.n_steps == self.number + 2
        return self.observe(), 0.0, ended and self.terminates, ended, self.info()
