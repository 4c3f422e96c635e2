"""The network of return decomposition: a reward of one transition, from vectors and images."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch

_STATE_CLIP = 5.0  # standard deviations, as the released code's DDPG normaliser

# Channels, kernel and stride of each convolution: those of the released code for Atari.
_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
_MIN_IMAGE_SIZE = 36  # what is left of it after the convolutions is one pixel
_IMAGE_FEATURES = 64

_Layer = TypeVar("_Layer", torch.nn.Linear, torch.nn.Conv2d)


def is_image(shape: Sequence[int]) -> bool:
    """Whether an observation of this shape is taken for an image, (H, W, C)."""
    return len(shape) == 3


class RewardNetwork(torch.nn.Module):
    """r(s, a, s') = MLP([s, a, s - s', images]).

    The state s joins all observations that are not images, normalised. Each image x, (H, W, C) with
    values of a byte, goes through three convolutions on [x, x - x'] and a layer of 64 units.

    Args:
        observation_shapes: The shape of one observation by key.
        action_size: a.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether states are scaled by `state_mean` and `state_std`, and clipped.
        generator: Draws the initial weights, Xavier uniform; biases begin at zero.

    Raises:
        ValueError: If an image is smaller than 36 x 36.
    """

    state_mean: torch.Tensor
    state_std: torch.Tensor

    def __init__(
        self,
        observation_shapes: Mapping[str, Sequence[int]],
        action_size: int,
        hidden_sizes: Sequence[int],
        normalize: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._state_keys = [k for k, shape in observation_shapes.items() if not is_image(shape)]
        self._image_keys = [k for k, shape in observation_shapes.items() if is_image(shape)]
        state_size = sum(torch.Size(observation_shapes[key]).numel() for key in self._state_keys)
        n_features = _IMAGE_FEATURES * len(self._image_keys)
        sizes = [2 * state_size + action_size + n_features, *hidden_sizes, 1]
        self.layers = make_mlp(sizes, generator)
        if self._image_keys:  # else no empty entry among the weights
            shapes = [observation_shapes[key] for key in self._image_keys]
            self.images = torch.nn.ModuleList(_make_encoder(s, generator) for s in shapes)
        self.normalize = normalize
        self.register_buffer("state_mean", torch.zeros(state_size))
        self.register_buffer("state_std", torch.ones(state_size))

    def forward(
        self,
        observations: Mapping[str, torch.Tensor],
        actions: torch.Tensor,
        next_observations: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return rewards of shape (n,) for observations (n, ...) and actions (n, a)."""
        inputs = [actions]
        if self._state_keys:
            states, next_states = self.join(observations), self.join(next_observations)
            if self.normalize:
                moments = self.state_mean, self.state_std
                states, next_states = (scale_states(s, *moments) for s in (states, next_states))
            inputs = [states, actions, states - next_states]
        for index, key in enumerate(self._image_keys):
            images, next_images = observations[key], next_observations[key]
            inputs.append(self.images[index](_stack_images(images, next_images, actions.dtype)))
        return self.layers(torch.cat(inputs, -1)).squeeze(-1)

    def join(self, observations: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what is not an image as one state, shape (n, s)."""
        parts = [observations[key].flatten(1) for key in self._state_keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def set_normalization(self, states: torch.Tensor, std_floor: float) -> None:
        """Take mean and standard deviation, at least `std_floor`, from states (n, s)."""
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(states.std(0, correction=0).clamp(min=std_floor))

    def scale_output(self, factor: float) -> None:
        """Multiply what the network puts out."""
        scale_last_layer(self.layers, factor)


def scale_states(states: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return states (n, s) in standard deviations from the mean, clipped."""
    return ((states - mean) / std).clamp(-_STATE_CLIP, _STATE_CLIP)


def scale_last_layer(layers: torch.nn.Sequential, factor: float) -> None:
    """Multiply what an MLP puts out."""
    last = layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)


def make_mlp(sizes: Iterable[int], generator: torch.Generator) -> torch.nn.Sequential:
    """Return linear layers between these sizes, with ReLU between them."""
    layers: list[torch.nn.Module] = []
    for n_inputs, n_outputs in itertools.pairwise(sizes):
        layers += [make_linear(n_inputs, n_outputs, generator), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def make_linear(n_inputs: int, n_outputs: int, generator: torch.Generator) -> torch.nn.Linear:
    """Return a linear layer, Xavier uniform, the bias zero."""
    # Made empty: the default initialisation draws from torch's global generator.
    linear = torch.nn.Linear(n_inputs, n_outputs, device="meta").to_empty(device="cpu")
    return _initialize(linear, generator)


def _make_encoder(shape: Sequence[int], generator: torch.Generator) -> torch.nn.Sequential:
    height, width, n_inputs = shape[0], shape[1], 2 * shape[2]
    if min(height, width) < _MIN_IMAGE_SIZE:
        raise ValueError(
            f"Expected images of at least {_MIN_IMAGE_SIZE} x {_MIN_IMAGE_SIZE} pixels, got "
            f"{height} x {width}."
        )
    layers: list[torch.nn.Module] = []
    for n_outputs, kernel, stride in _CONVOLUTIONS:
        convolution = torch.nn.Conv2d(n_inputs, n_outputs, kernel, stride, device="meta")
        layers += [_initialize(convolution.to_empty(device="cpu"), generator), torch.nn.ReLU()]
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        n_inputs = n_outputs
    linear = torch.nn.Linear(n_inputs * height * width, _IMAGE_FEATURES, device="meta")
    layers += [torch.nn.Flatten(), _initialize(linear.to_empty(device="cpu"), generator)]
    return torch.nn.Sequential(*layers, torch.nn.ReLU())


def _initialize(layer: _Layer, generator: torch.Generator) -> _Layer:
    torch.nn.init.xavier_uniform_(layer.weight, generator=generator)
    assert layer.bias is not None
    torch.nn.init.zeros_(layer.bias)
    return layer


def _stack_images(
    images: torch.Tensor, next_images: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return [x, x - x'] in [-1, 1], channels first."""
    images, next_images = images.to(dtype) / 255, next_images.to(dtype) / 255
    return torch.cat([images, images - next_images], -1).movedim(-1, 1)
