"""Encoders whose features are known beforehand."""

import numpy as np

from libero_reward_envs.encoders.base import INSTRUCTION_KEY, compute_fingerprint


class ImageMeanEncoder:
    """The mean of each channel of an image, times a factor: (C,)."""

    def __init__(self, image_key="agentview_image", factor=1.0, key="mean", orientation=None):
        self.key, self.observation_keys, self.shape = key, (image_key,), (3,)
        self.settings = {"image_key": image_key, "factor": factor, "orientation": orientation}
        self.orientation = orientation
        self.factor = factor
        self.batches: list[int] = []

    @property
    def fingerprint(self):
        return compute_fingerprint(self.settings)

    def encode(self, observations):
        images = observations[self.observation_keys[0]]
        assert images.dtype == np.uint8
        self.batches.append(len(images))
        return (images.mean((1, 2), dtype=np.float32) * np.float32(self.factor)).astype(np.float32)


class WordCountEncoder:
    """How many words and letters the instruction has: (2,)."""

    key, observation_keys, shape = "words", (INSTRUCTION_KEY,), (2,)
    settings: dict = {}  # noqa: RUF012
    fingerprint = "words"

    def __init__(self):
        self.batches: list[int] = []

    def encode(self, observations):
        texts = observations[INSTRUCTION_KEY].tolist()
        self.batches.append(len(texts))
        if "" in texts:
            raise ValueError("Expected an instruction, got none.")
        return np.array([[len(text.split()), len(text)] for text in texts], np.float32)


class StagedMeanEncoder(ImageMeanEncoder):
    """The same in two steps."""

    def prepare(self, observations):
        return observations[self.observation_keys[0]].astype(np.float32)

    def encode_prepared(self, prepared):
        self.batches.append(len(prepared))
        return prepared.mean((1, 2), dtype=np.float32) * np.float32(self.factor)
