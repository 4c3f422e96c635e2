"""Transitions with labels of success, in memory, for fitting a classifier on features."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.frame_draw import FrameDraw
from libero_reward_envs.reward_models.frame_scores import FrameScores
from libero_reward_envs.reward_models.openvla_reward_net import OpenVLARewardNet
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel

_MAX_ROWS = 1024  # a forward pass without gradients


class FeatureNetwork(torch.nn.Module):
    """A scorer's network under the names by which `ClassifierRun` trains one.

    Args:
        scorer: Its network is trained in place.
    """

    freeze_encoder = False  # there is none inside: features come from outside

    def __init__(self, scorer: RRDRewardModel) -> None:
        super().__init__()
        assert isinstance(scorer.network, OpenVLARewardNet)
        self.network = scorer.network

    @property
    def classifier(self) -> torch.nn.Sequential:
        """The layers whose last one gives the logit."""
        return self.network.layers

    def classify(self, features: Any) -> torch.Tensor:
        """Return logits (n,) of what `RRDRewardModel.to_tensors` returns."""
        return self.network(*features)


class FeatureBatches:
    """Gives labelled transitions in shuffled batches, and scores held-out ones.

    Args:
        scorer: Makes tensors of transitions and computes the logits.
        train: Episodes to learn from, and labels of their steps, (steps,) bool.
        holdout: Episodes to be scored, and theirs.
        batch_size: Transitions a batch.
        seed: Decides the order, with the epoch.
        draw: Which transitions each epoch gives.
    """

    def __init__(
        self,
        scorer: RRDRewardModel,
        train: tuple[EpisodeStore, np.ndarray],
        holdout: tuple[EpisodeStore, np.ndarray],
        *,
        batch_size: int,
        seed: int,
        draw: FrameDraw,
    ) -> None:
        self._scorer, self._train, self._holdout = scorer, train, holdout
        self._batch_size, self._seed, self.draw = batch_size, seed, draw

    def iterate(self, epoch: int) -> Iterator[tuple[Any, torch.Tensor]]:
        """Return tensors and labels, (B,) float32, of an epoch's batches, on the device."""
        store, labels = self._train
        rng = np.random.default_rng([self._seed, epoch])
        episodes, steps = _list_steps(store)
        order = rng.permutation(len(labels))
        targets = torch.from_numpy(labels.astype(np.float32))
        if not self.draw.keeps_all:
            order = order[self.draw.choose(targets[torch.from_numpy(order)], rng).numpy()]
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            part = store.gather(episodes[rows], steps[rows][:, None])
            tensors = self._scorer.to_tensors(part, torch.float32)
            yield tensors, targets[rows].to(self._scorer.device)

    def score(self) -> FrameScores:
        """Return the logits of all held-out transitions, as the reward model computes them."""
        store, labels = self._holdout
        episodes, steps = _list_steps(store)
        logits = np.empty(len(labels), np.float64)
        for start in range(0, len(labels), _MAX_ROWS):
            rows = slice(start, start + _MAX_ROWS)
            part: Transitions = store.gather(episodes[rows], steps[rows][:, None])
            logits[rows] = self._scorer.compute_reward(part)
        return FrameScores(logits, labels, episodes)


def _list_steps(store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    """Return episode and step of every transition, each (steps,), in order."""
    lengths = store.lengths
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    return episodes, np.concatenate([np.arange(length) for length in lengths])
