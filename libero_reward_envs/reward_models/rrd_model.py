"""The reward model of randomized return decomposition."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libero_reward_envs.reward_models.base import PretrainedRewardModel, Transitions
from libero_reward_envs.reward_models.openvla_reward_net import OpenVLARewardNet
from libero_reward_envs.reward_models.resnet10 import check_choice
from libero_reward_envs.reward_models.rrd_network import RewardNetwork, is_image

ARCHITECTURES = {"mlp": RewardNetwork, "openvla": OpenVLARewardNet}

# Rows a forward pass, so that annotating a data set needs little memory, and numbers in them:
# features of every patch of a picture are half a million a row.
_MAX_ROWS = 16384
_MAX_NUMBERS = 2**24
_MAX_IMAGE_ROWS = 256


class RRDRewardModel(PretrainedRewardModel):
    """Spreads the return of an episode over its steps, after Ren et al. (2022), arXiv 2111.13485.

    r_t = MLP([s_t, a_t, s_t - s_{t+1}]) - `reward_offset`, fitted by `fit_rrd`. The network is that
    of the code the authors released: two hidden layers of 256 ReLU units, Xavier initialisation,
    no output squashing. Differs from it: states are normalised before the difference (`fit_rrd`
    tells why and switches it off), and a constant can be subtracted from the reward.

    Without images, rewards are computed in double precision and rounded once, so that a transition
    has the same reward alone and in a batch of any size. With images, which cost a hundred times
    more, single precision is used, and the last digits depend on the batch.

    Args:
        observation_shapes: What it reads: the shape of one observation by key. Shapes of three
            numbers are images, (H, W, C) uint8, for which see `RewardNetwork`; the others (states,
            features of an encoder) are flattened and joined in this order to the state s.
        action_size: a; 0 for a reward of observations alone.
        architecture: "mlp", or "openvla" for an `OpenVLARewardNet` on OpenVLA's features.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether states are scaled by the mean and deviation among the weights.
        reward_offset: What is subtracted from every reward, see `compute_reward_offset`.
        seed: Draws the initial weights.
        device: Where rewards are computed.

    Raises:
        ValueError: If there is no observation, a size is not positive, or an image is smaller than
            36 x 36.
    """

    def __init__(
        self,
        observation_shapes: Mapping[str, Sequence[int]],
        action_size: int,
        *,
        architecture: str = "mlp",
        hidden_sizes: Sequence[int] = (256, 256),
        normalize: bool = True,
        reward_offset: float = 0.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice("architecture", architecture, ARCHITECTURES)
        self.architecture = architecture
        self.observation_shapes = {key: tuple(s) for key, s in observation_shapes.items()}
        self.observation_keys = tuple(self.observation_shapes)
        self.action_size = action_size
        self.hidden_sizes = tuple(hidden_sizes)
        self.normalize = normalize
        self.reward_offset = float(reward_offset)
        self.training: dict[str, Any] = {}
        if not self.observation_keys:
            raise ValueError("`observation_shapes` must name at least one observation, got none.")
        if not isinstance(action_size, int) or action_size < 0:
            raise ValueError(f"`action_size` must be a whole number from 0 on, got {action_size}.")
        sizes = [*self.hidden_sizes, *sum(self.observation_shapes.values(), ())]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"Sizes must be positive whole numbers, got {sizes}.")
        if not np.isfinite(self.reward_offset):
            raise ValueError(f"`reward_offset` must be finite, got {reward_offset}.")
        generator = torch.Generator().manual_seed(int(seed))
        network = ARCHITECTURES[architecture](
            self.observation_shapes, action_size, self.hidden_sizes, normalize, generator
        )
        self.network = network.to(device).eval()

    @property
    def device(self) -> torch.device:
        """Where rewards are computed."""
        return self.network.state_mean.device

    @property
    def state_size(self) -> int:
        """The length of the joined observations, images left out."""
        return self.network.state_mean.numel()

    @property
    def was_normalized(self) -> bool:
        """Whether mean and deviation of states were ever taken from data."""
        mean, std = self.network.state_mean, self.network.state_std
        return bool((mean != 0).any() or (std != 1).any())

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""
        return {
            "observation_shapes": {key: list(s) for key, s in self.observation_shapes.items()},
            "action_size": self.action_size,
            "architecture": self.architecture,
            "hidden_sizes": list(self.hidden_sizes),
            "normalize": self.normalize,
            "reward_offset": self.reward_offset,
        }

    def get_weights(self) -> dict[str, np.ndarray]:
        """Return copies of weights and normalisation by name, on the CPU."""
        state = self.network.state_dict()
        return {name: np.array(value.cpu().numpy()) for name, value in state.items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over weights and normalisation."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        self.network.load_state_dict(tensors)

    def to_tensors(self, transitions: Transitions, dtype: torch.dtype) -> tuple[Any, Any, Any]:
        """Return o, a, o' as the network takes them; images stay bytes.

        Raises:
            ValueError: If an observation is missing or of another shape, or actions are.
        """
        actions = np.asarray(transitions.actions)
        if actions.ndim != 2 or actions.shape[1] != self.action_size:
            raise ValueError(f"Expected actions (n, {self.action_size}), got {actions.shape}.")
        sides = transitions.observations, transitions.next_observations
        first, second = (
            {key: self._to_tensor(side, key, dtype) for key in self.observation_keys}
            for side in sides
        )
        return first, torch.as_tensor(actions).to(self.device, dtype), second

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32."""
        has_images = any(map(is_image, self.observation_shapes.values()))
        dtype, block = (
            (torch.float32, _MAX_IMAGE_ROWS) if has_images else (torch.float64, _MAX_ROWS)
        )
        n_numbers = sum(torch.Size(shape).numel() for shape in self.observation_shapes.values())
        block = min(block, max(1, _MAX_NUMBERS // n_numbers))
        n = len(transitions.actions)
        rewards = np.empty(n, np.float32)
        with torch.inference_mode():
            weights = {name: value.to(dtype) for name, value in self.network.state_dict().items()}
            for start in range(0, n, block):
                rows = slice(start, start + block)
                part = transitions if n <= block else self._read(transitions).rows(rows)
                inputs = self.to_tensors(part, dtype)
                predicted = torch.func.functional_call(self.network, weights, inputs)
                rewards[rows] = (predicted - self.reward_offset).cpu().numpy()
        return rewards

    def _read(self, transitions: Transitions) -> Transitions:
        """Return only the observations that the model reads."""
        first, second = (
            {key: side[key] for key in self.observation_keys if key in side}
            for side in (transitions.observations, transitions.next_observations)
        )
        return transitions._replace(observations=first, next_observations=second)

    def _to_tensor(
        self, observations: Mapping[str, np.ndarray], key: str, dtype: torch.dtype
    ) -> torch.Tensor:
        if key not in observations:
            raise ValueError(f"No observation {key!r}. There is: {', '.join(observations)}.")
        value, shape = np.asarray(observations[key]), self.observation_shapes[key]
        if value.shape[1:] != shape:
            raise ValueError(f"Expected {key!r} of shape {('n', *shape)}, got {value.shape}.")
        if is_image(shape):
            if value.dtype != np.uint8:
                raise ValueError(f"Expected images {key!r} as uint8, got {value.dtype}.")
            return torch.as_tensor(value).to(self.device)
        return torch.as_tensor(value).to(self.device, dtype)


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
