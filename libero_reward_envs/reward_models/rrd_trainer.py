"""Training of an RRD reward, one step of the optimiser after another."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd_data import (
    EpisodeSampling,
    SubsequenceSampler,
    SubsequenceSource,
)
from libero_reward_envs.reward_models.rrd_loss import (
    check_loss_arguments,
    combine_return_loss,
    compute_loss_terms,
    whole_episode_loss,
)
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel

# As the released code's DDPG normaliser. What moves by less than 1 cm or 0.01 rad in the data, say
# an object that was never touched, must not become the loudest input when it does move.
STD_FLOOR = 1e-2
_N_NORMALIZED = 2048  # transitions, drawn at random
LOSS_NAMES = ("loss", "data_loss", "variance_term")


class RRDTrainer:
    """Minimises `randomized_return_loss` with Adam, on data that may grow from step to step.

    `fit_rrd` uses it on a dataset; `TrainRewardModel` while an agent learns. The defaults are those
    of the code released with Ren et al. (2022), arXiv 2111.13485.

    Args:
        model: What is trained, in place.
        episodes_per_step: Episodes in the loss of one step.
        steps_per_episode: K. None takes all steps of each episode, which is plain least squares
            (L_RD) and costs memory in proportion to the longest episode.
        learning_rate: Of Adam.
        bias_correction: See `randomized_return_loss`.
        variance_weight: See `randomized_return_loss`.
        scale: See `randomized_return_loss`.
        episode_sampling: "length" draws an episode in proportion to its length, "uniform" does not.
        return_scale: What returns are multiplied with.
        normalize_from_data: Whether the first step takes the model's mean and deviation of states
            from the episodes there are then.
        seed: Draws the batches.

    Attributes:
        model: The model.
        n_steps: Steps of the optimiser so far.

    Raises:
        ValueError: If an argument is wrong, or two do not fit together.
    """

    def __init__(
        self,
        model: RRDRewardModel,
        *,
        episodes_per_step: int = 4,
        steps_per_episode: int | None = 64,
        learning_rate: float = 3e-4,
        bias_correction: bool = False,
        variance_weight: float | Literal["paper"] = "paper",
        scale: Literal["mean", "return"] = "mean",
        episode_sampling: EpisodeSampling = "length",
        return_scale: float = 1.0,
        normalize_from_data: bool = False,
        seed: int = 0,
    ) -> None:
        n_sampled = 2 if steps_per_episode is None else steps_per_episode
        check_loss_arguments(n_sampled, bias_correction, variance_weight, scale)
        if steps_per_episode is None and (bias_correction or variance_weight != "paper"):
            raise ValueError("All steps of an episode leave no variance to correct: give a K.")
        if episodes_per_step < 1:
            raise ValueError(f"`episodes_per_step` must be at least 1, got {episodes_per_step}.")
        if not isinstance(return_scale, (int, float)) or not 0 < return_scale < float("inf"):
            raise ValueError(f"`return_scale` must be a positive number, got {return_scale!r}.")
        self.model = model
        self.n_steps = 0
        self.return_scale = float(return_scale)
        if normalize_from_data and not model.normalize:
            raise ValueError("`normalize_from_data` needs a model with normalize=True.")
        self._normalize_from_data = normalize_from_data
        self._n_episodes = episodes_per_step
        self._all_steps = steps_per_episode is None
        self._loss_arguments: dict[str, Any] = {
            "bias_correction": bias_correction, "variance_weight": variance_weight, "scale": scale
        }  # fmt: skip
        self._settings = {
            **self._loss_arguments,
            "episodes_per_step": episodes_per_step,
            "steps_per_episode": steps_per_episode,
            "learning_rate": learning_rate,
            "episode_sampling": episode_sampling,
            "return_scale": self.return_scale,
        }
        self._returns_seen: np.ndarray | None = None
        self._sampler = SubsequenceSampler(
            1 if steps_per_episode is None else steps_per_episode, episode_sampling, seed
        )
        # Fused: one call instead of several a tensor, a third of a step's time on small networks.
        self._optimizer = torch.optim.Adam(model.network.parameters(), learning_rate, fused=True)

    def train(self, source: SubsequenceSource, n_steps: int = 1) -> dict[str, float]:
        """Do `n_steps` steps of the optimiser.

        Returns:
            Means over the steps: "loss", which is minimised; "data_loss", L_Rand-RD in the mean
            scale; "variance_term", λ s², the part of it that a correction takes off. Empty if the
            source has no episode yet.

        Raises:
            ValueError: If `n_steps` is not positive, or a return is not finite.
            RuntimeError: If the loss is not finite; the model is then as before that step.
        """
        if n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1, got {n_steps}.")
        lengths, returns = source.lengths, source.returns
        if not len(lengths):
            return {}
        self._check_returns(returns)
        if self._normalize_from_data and self.n_steps == 0 and self.model.state_size:
            self._fit_normalization(source)
        losses = np.zeros(len(LOSS_NAMES))
        for _ in range(n_steps):  # no layer of the network differs between training and use
            losses += self._step(source, lengths, returns)
        # A saved model then says how it was made, and goes on from there, see OnlineTraining.
        self.model.training["return_scale"] = self.return_scale
        self.model.training["reward_steps"] = self.n_steps
        return dict(zip(LOSS_NAMES, (losses / n_steps).tolist(), strict=True))

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return weights, optimiser, counter and generator: arrays by name, and JSON values."""
        arrays = {f"model/{name}": value for name, value in self.model.get_weights().items()}
        for index, parameter in enumerate(self._parameters()):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                arrays[f"optimizer/{index}/{name}"] = value.detach().cpu().numpy()
        values = {
            "arguments": self.model.arguments,
            "settings": self._settings,
            "n_steps": self.n_steps,
            "generator": self._sampler.rng.bit_generator.state,
        }
        return {name: np.array(value) for name, value in arrays.items()}, values

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the trainer would have that gave this state.

        Raises:
            ValueError: If the state belongs to a model of other sizes or to other settings.
        """
        self._check_settings(values)
        sizes = {k: v for k, v in self.model.arguments.items() if k != "reward_offset"}
        found = {k: v for k, v in values["arguments"].items() if k != "reward_offset"}
        if found != sizes:
            raise ValueError(f"Expected the state of a model with {sizes}, got one with {found}.")
        prefix = "model/"
        self.model.set_weights(
            {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
        )
        self.model.reward_offset = float(values["arguments"]["reward_offset"])
        self._optimizer.state.clear()
        for index, parameter in enumerate(self._parameters()):
            prefix = f"optimizer/{index}/"
            state = {
                n.removeprefix(prefix): torch.from_numpy(np.array(v)).to(parameter.device)
                for n, v in arrays.items()
                if n.startswith(prefix)
            }
            if state.keys() != {"step", "exp_avg", "exp_avg_sq"} and values["n_steps"]:
                raise ValueError(f"The state of the optimiser lacks arrays: {sorted(state)}.")
            if state:
                self._optimizer.state[parameter] = state
        self.n_steps = int(values["n_steps"])
        self._sampler.rng.bit_generator.state = values["generator"]

    def _fit_normalization(self, source: SubsequenceSource) -> None:
        lengths = source.lengths
        episodes = self._sampler.draw_episodes(lengths, _N_NORMALIZED)
        steps = (self._sampler.rng.random(_N_NORMALIZED) * lengths[episodes]).astype(np.int64)
        tensors = self.model.to_tensors(source.gather(episodes, steps[:, None]), torch.float32)
        self.model.network.set_normalization(self.model.network.join(tensors[0]), STD_FLOOR)

    def _check_settings(self, values: Mapping[str, Any]) -> None:
        found = values.get("settings", {})
        for name, value in self._settings.items():
            if found.get(name) != value:
                raise ValueError(
                    f"The state is of a training with {name}={found.get(name)!r}, this one has "
                    f"{value!r}. Make the trainer as it was made then."
                )

    def _check_returns(self, returns: np.ndarray) -> None:
        if returns is self._returns_seen:  # a source gives another array on any change
            return
        if not np.isfinite(returns).all():
            bad = int(np.flatnonzero(~np.isfinite(returns))[0])
            raise ValueError(f"Expected finite returns, got {returns[bad]} in episode {bad}.")
        self._returns_seen = returns

    def _parameters(self) -> list[torch.nn.Parameter]:
        return self._optimizer.param_groups[0]["params"]

    def _step(
        self, source: SubsequenceSource, all_lengths: np.ndarray, all_returns: np.ndarray
    ) -> tuple[float, float, float]:
        if self._all_steps:
            episodes = self._sampler.draw_episodes(all_lengths, self._n_episodes)
            steps = np.arange(all_lengths[episodes].max())[None]
            steps = np.minimum(steps, all_lengths[episodes][:, None] - 1)  # padding, masked below
        else:
            episodes, steps = self._sampler.draw(all_lengths, self._n_episodes)
        rewards = self._predict(source.gather(episodes, steps)).view(steps.shape)
        returns = torch.from_numpy(all_returns[episodes] * self.return_scale).to(rewards)
        lengths = torch.from_numpy(all_lengths[episodes]).to(rewards)
        if self._all_steps:
            loss = whole_episode_loss(
                rewards, returns, lengths, scale=self._loss_arguments["scale"]
            )
            data_loss = whole_episode_loss(rewards.detach(), returns, lengths).item()
            variance_term = 0.0
        else:
            terms = compute_loss_terms(rewards, returns, lengths)
            loss = combine_return_loss(*terms, lengths, **self._loss_arguments)
            data_loss = terms[0].detach().mean().item()
            variance_term = torch.dot(terms[1].detach(), terms[2]).item() / self._n_episodes
        value = loss.item()
        if not math.isfinite(value):
            raise RuntimeError(
                f"The loss of the reward is {value} at step {self.n_steps + 1}, with returns "
                f"from {all_returns.min():g} to {all_returns.max():g}. Lower the learning rate or "
                "`return_scale`."
            )
        for parameter in self._parameters():
            parameter.grad = None  # what zero_grad does, at a twentieth of its time
        loss.backward()
        self._optimizer.step()
        self.n_steps += 1
        return value, data_loss, variance_term

    def _predict(self, transitions: Transitions) -> torch.Tensor:
        return self.model.network(*self.model.to_tensors(transitions, torch.float32))
