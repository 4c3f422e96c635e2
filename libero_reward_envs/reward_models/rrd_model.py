"""The reward model of randomized return decomposition."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libero_reward_envs.reward_models.base import PretrainedRewardModel, Transitions

_MAX_ROWS = 16384  # rows a forward pass, so that annotating a data set needs little memory
_STATE_CLIP = 5.0  # standard deviations, as the released code's DDPG normaliser


class RewardNetwork(torch.nn.Module):
    """r(s, a, s') = MLP([s, a, s - s']), on normalised states.

    Args:
        state_size: s.
        action_size: a.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether states are scaled by `state_mean` and `state_std`, and clipped.
        generator: Draws the initial weights, Xavier uniform; biases begin at zero.
    """

    state_mean: torch.Tensor
    state_std: torch.Tensor

    def __init__(
        self,
        state_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        normalize: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = [2 * state_size + action_size, *hidden_sizes, 1]
        layers: list[torch.nn.Module] = []
        for n_inputs, n_outputs in itertools.pairwise(sizes):
            # Made empty: the default initialisation draws from torch's global generator.
            linear = torch.nn.Linear(n_inputs, n_outputs, device="meta").to_empty(device="cpu")
            torch.nn.init.xavier_uniform_(linear.weight, generator=generator)
            torch.nn.init.zeros_(linear.bias)
            layers += [linear, torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])
        self.normalize = normalize
        self.register_buffer("state_mean", torch.zeros(state_size))
        self.register_buffer("state_std", torch.ones(state_size))

    def forward(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor
    ) -> torch.Tensor:
        """Return rewards of shape (...) for states (..., s) and actions (..., a)."""
        states, next_states = self._scale(states), self._scale(next_states)
        return self.layers(torch.cat([states, actions, states - next_states], -1)).squeeze(-1)

    def scale_output(self, factor: float) -> None:
        """Multiply what the network puts out."""
        last = self.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        with torch.no_grad():
            last.weight.mul_(factor)
            last.bias.mul_(factor)

    def _scale(self, states: torch.Tensor) -> torch.Tensor:
        if not self.normalize:
            return states
        scaled = (states - self.state_mean) / self.state_std
        return scaled.clamp(-_STATE_CLIP, _STATE_CLIP)


class RRDRewardModel(PretrainedRewardModel):
    """Spreads the return of an episode over its steps, after Ren et al. (2022), arXiv 2111.13485.

    r_t = MLP([s_t, a_t, s_t - s_{t+1}]) - `reward_offset`, fitted by `fit_rrd`. The network is that
    of the code the authors released: two hidden layers of 256 ReLU units, Xavier initialisation,
    no output squashing. Differs from it: states are normalised before the difference (`fit_rrd`
    tells why and switches it off), and a constant can be subtracted from the reward.

    Rewards are computed in double precision and rounded once, so that a transition has the same
    reward alone and in a batch of any size.

    Args:
        observation_shapes: What it reads: the shape of one observation by key. Several are
            flattened and joined in this order to the state s.
        action_size: a.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether states are scaled by the mean and deviation among the weights.
        reward_offset: What is subtracted from every reward, see `compute_reward_offset`.
        seed: Draws the initial weights.
        device: Where rewards are computed.

    Raises:
        ValueError: If there is no observation, or a size is not positive.
    """

    def __init__(
        self,
        observation_shapes: Mapping[str, Sequence[int]],
        action_size: int,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        normalize: bool = True,
        reward_offset: float = 0.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.observation_shapes = {key: tuple(s) for key, s in observation_shapes.items()}
        self.observation_keys = tuple(self.observation_shapes)
        self.action_size = action_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.normalize = normalize
        self.reward_offset = float(reward_offset)
        self.training: dict[str, Any] = {}
        if not self.observation_keys:
            raise ValueError("`observation_shapes` must name at least one observation, got none.")
        sizes = [action_size, *self.hidden_sizes, *sum(self.observation_shapes.values(), ())]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"Sizes must be positive whole numbers, got {sizes}.")
        if not np.isfinite(self.reward_offset):
            raise ValueError(f"`reward_offset` must be finite, got {reward_offset}.")
        generator = torch.Generator().manual_seed(seed)
        network = RewardNetwork(
            self.state_size, action_size, self.hidden_sizes, normalize, generator
        )
        self.network = network.to(device).eval()

    @property
    def state_size(self) -> int:
        """The length of the joined observations."""
        return sum(int(np.prod(shape)) for shape in self.observation_shapes.values())

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""
        return {
            "observation_shapes": {key: list(s) for key, s in self.observation_shapes.items()},
            "action_size": self.action_size,
            "hidden_sizes": list(self.hidden_sizes),
            "normalize": self.normalize,
            "reward_offset": self.reward_offset,
        }

    def get_weights(self) -> dict[str, np.ndarray]:
        """Return weights and normalisation by name, on the CPU."""
        return {name: value.cpu().numpy() for name, value in self.network.state_dict().items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over weights and normalisation."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        self.network.load_state_dict(tensors)

    def join_observations(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the states, shape (n, s).

        Raises:
            ValueError: If an observation is missing or of another shape.
        """
        parts = []
        for key, shape in self.observation_shapes.items():
            if key not in observations:
                raise ValueError(f"No observation {key!r}. There is: {', '.join(observations)}.")
            part = np.asarray(observations[key])
            if part.shape[1:] != shape:
                raise ValueError(f"Expected {key!r} of shape {('n', *shape)}, got {part.shape}.")
            parts.append(part.reshape(len(part), -1))
        return np.concatenate(parts, 1)

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32."""
        actions = np.asarray(transitions.actions)
        if actions.ndim != 2 or actions.shape[1] != self.action_size:
            raise ValueError(f"Expected actions (n, {self.action_size}), got {actions.shape}.")
        states = self.join_observations(transitions.observations)
        next_states = self.join_observations(transitions.next_observations)
        rewards = np.empty(len(actions), np.float32)
        device = self.network.state_mean.device
        with torch.inference_mode():
            weights = {name: value.double() for name, value in self.network.state_dict().items()}
            for start in range(0, len(actions), _MAX_ROWS):
                rows = slice(start, start + _MAX_ROWS)
                inputs = tuple(
                    torch.from_numpy(array[rows].astype(np.float64)).to(device)
                    for array in (states, actions, next_states)
                )
                predicted = torch.func.functional_call(self.network, weights, inputs)
                rewards[rows] = (predicted - self.reward_offset).cpu().numpy()
        return rewards


def compute_reward_offset(lowest: float, highest: float, margin: float) -> float:
    """Return what to subtract from rewards so that finishing a task pays more than lingering.

    An agent that discounts by gamma and is paid at every step stays where the pay is good rather
    than end the episode by success. With the rewards seen between `lowest` and `highest`,

        offset = highest + margin * (highest - lowest),

    every step costs between `margin` and `margin + 1` times their spread. Then k steps to the end
    cost less than lingering for ever at the best place if gamma^k >= 1 / (1 + margin), whatever
    the rewards in between. That is the worst case. Measured on LIBERO-Object, with the expert once
    finishing and once stopped at six places on its way (`tests/benchmarks/measure_lingering.py`),
    finishing was best in none of the initial states without an offset and in all of them with a
    margin of 0, 0.25, 1 or 3, for three rewards and a gamma of 0.98 and 0.99. The default of 0.25
    leaves room for rewards above those seen, and keeps the returns small that a critic must learn.

    Where an episode can also end by failure, a cost for each step makes failing early attractive;
    LIBERO's end by success only.

    Raises:
        ValueError: If `margin` is negative or not finite.
    """
    if margin < 0 or not np.isfinite(margin):
        raise ValueError(f"`margin` must be zero or more, got {margin}.")
    return highest + margin * (highest - lowest)
