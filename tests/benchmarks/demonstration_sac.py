"""SAC that learns from demonstrations as well, after Ball et al. (2023), arXiv 2302.02948.

Half of each batch are demonstrations, the critics have layer normalisation, and returns are summed
over n steps. Differs from it: two critics, no random subset of them, one gradient step a step.
"""

from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy

from libero_reward_envs.agents.episode_replay_buffer import EpisodeReplayBuffer
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer


class LayerNormPolicy(SACPolicy):
    """SAC's policy with layer normalisation after each hidden layer of the critics."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        critic: ContinuousCritic = super().make_critic(features_extractor)
        for index, network in enumerate(critic.q_networks):
            assert isinstance(network, torch.nn.Sequential)
            critic.q_networks[index] = _add_layer_norm(network)
            setattr(critic, f"qf{index}", critic.q_networks[index])
        return critic.to(self.device)


def _add_layer_norm(network: torch.nn.Sequential) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for layer in network[:-1]:
        layers.append(layer)
        if isinstance(layer, torch.nn.Linear):
            layers.append(torch.nn.LayerNorm(layer.out_features))
    return torch.nn.Sequential(*layers, network[-1])


class _HalfDemonstrations:
    """Half of each batch comes from `demonstrations`, a buffer of the same kind.

    The buffer itself holds the agent's own steps only, and so do its checkpoints.
    """

    demonstrations: Any = None

    def sample(self, batch_size: int, env: Any = None) -> Any:
        if self.demonstrations is None:  # this is the buffer of the demonstrations
            return super().sample(batch_size, env)  # pyright: ignore  # a mixin
        first = self.demonstrations.sample(batch_size // 2, env)
        second = super().sample(batch_size - batch_size // 2, env)  # pyright: ignore  # a mixin
        joined = (
            None if one is None else torch.cat([one, other])
            for one, other in zip(first, second, strict=True)
        )
        return type(second)(*joined)


class HalfDemonstrationsBuffer(_HalfDemonstrations, EpisodeReplayBuffer):
    """Gives the rewards that were stored."""


class HalfDemonstrationsRelabelBuffer(_HalfDemonstrations, RelabelReplayBuffer):
    """Gives the rewards of a model, of the demonstrations too."""
