"""The reward network on OpenVLA features: language, vision, their changes and the action."""

from collections.abc import Mapping, Sequence

import torch

from libero_reward_envs.reward_models.rrd_network import (
    make_linear,
    make_mlp,
    scale_last_layer,
    scale_states,
)

LANGUAGE_KEY = "openvla/language"
VISION_KEY = "openvla/vision"

# Of the root mean square deviation of a kind of features; a channel that hardly varies in the
# data is not to become the loudest when it does.
_RELATIVE_STD_FLOOR = 0.01


class OpenVLARewardNet(torch.nn.Module):
    """r(s, a, s') = MLP([l, v, l - l', v - v', a]) of OpenVLA's language and vision features.

    Features of several tokens or patches are averaged over them. Then l and v are linear maps of
    the normalised averages to half the width of the first hidden layer each; l' and v' are those
    of the next step. The instruction stays the same in an episode, so l - l' is zero on LIBERO,
    and l tells tasks apart.

    Args:
        observation_shapes: Of "openvla/language", (d,) or (tokens, d), and of "openvla/vision",
            (d,) or (patches, d).
        action_size: a.
        hidden_sizes: Width of each hidden layer.
        normalize: Whether averages are scaled by `state_mean` and `state_std`, and clipped.
        generator: Draws the initial weights, Xavier uniform; biases begin at zero.

    Raises:
        ValueError: If the observations are others than these two, or there is no hidden layer.
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
        if set(observation_shapes) != {LANGUAGE_KEY, VISION_KEY}:
            raise ValueError(
                f"Expected the observations {LANGUAGE_KEY!r} and {VISION_KEY!r}, got: "
                f"{', '.join(map(repr, observation_shapes))}. Add them with "
                "`load_openvla_encoders` and `encode_dataset`, `Encode` or `VecEncode`."
            )
        if not hidden_sizes or hidden_sizes[0] < 2:
            raise ValueError(
                f"Expected at least one hidden layer of two units or more, got {hidden_sizes}."
            )
        self._sizes = [observation_shapes[key][-1] for key in (LANGUAGE_KEY, VISION_KEY)]
        half = hidden_sizes[0] // 2
        self.language = make_linear(self._sizes[0], half, generator)
        self.vision = make_linear(self._sizes[1], half, generator)
        self.layers = make_mlp([4 * half + action_size, *hidden_sizes, 1], generator)
        self.normalize = normalize
        self.register_buffer("state_mean", torch.zeros(sum(self._sizes)))
        self.register_buffer("state_std", torch.ones(sum(self._sizes)))

    def forward(
        self,
        observations: Mapping[str, torch.Tensor],
        actions: torch.Tensor,
        next_observations: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return rewards of shape (n,) for observations (n, ...) and actions (n, a)."""
        language, vision = self._pool(observations)
        next_language, next_vision = self._pool(next_observations)
        inputs = [language, vision, language - next_language, vision - next_vision, actions]
        return self.layers(torch.cat(inputs, -1)).squeeze(-1)

    def join(self, observations: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the features averaged over tokens and patches, side by side, shape (n, s).

        Rows of zeros fill up short instructions; they are no tokens.
        """
        language, vision = observations[LANGUAGE_KEY], observations[VISION_KEY]
        if language.ndim > 2:
            n_tokens = (language != 0).any(-1).sum(1, keepdim=True).clamp(min=1)
            language = language.sum(1) / n_tokens
        if vision.ndim > 2:
            vision = vision.mean(1)
        return torch.cat([language, vision], -1)

    def set_normalization(self, states: torch.Tensor, std_floor: float) -> None:
        """Take mean and standard deviation from states (n, s).

        Features have no unit, so instead of `std_floor` the deviation of a channel is at least a
        hundredth of the root mean square of those of its kind; a kind that never varies in the
        data, such as the language of one task, gets a deviation of one.
        """
        del std_floor
        std = states.std(0, correction=0)
        floors = [
            (_RELATIVE_STD_FLOOR * part.square().mean().sqrt()).expand(len(part))
            for part in std.split(self._sizes)
        ]
        floor = torch.cat(floors)
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(torch.where(floor > 0, torch.maximum(std, floor), 1.0))

    def scale_output(self, factor: float) -> None:
        """Multiply what the network puts out."""
        scale_last_layer(self.layers, factor)

    def _pool(self, observations: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.join(observations)
        if self.normalize:
            states = scale_states(states, self.state_mean, self.state_std)
        language, vision = states.split(self._sizes, -1)
        return self.language(language), self.vision(vision)
