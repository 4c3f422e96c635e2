"""Randomized return decomposition: fitting a reward per step to the returns of episodes."""

import functools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.reward_models.rrd_data import FlatEpisodes, SubsequenceSampler
from libero_reward_envs.reward_models.rrd_loss import randomized_return_loss
from libero_reward_envs.reward_models.rrd_model import (
    RewardNetwork,
    RRDRewardModel,
    compute_reward_offset,
)

__all__ = ["RRDRewardModel", "compute_reward_offset", "fit_rrd", "randomized_return_loss"]

# As the released code's DDPG normaliser. What moves by less than 1 cm or 0.01 rad in the data, say
# an object that was never touched, must not become the loudest input when it does move.
_STD_FLOOR = 1e-2
_BLOCK_ROWS = 16384
_logger = logging.getLogger(__name__)


def fit_rrd(
    dataset: Sequence[Episode] | EpisodeDataset,
    *,
    observation_keys: Sequence[str] = ("state",),
    n_steps: int = 10_000,
    episodes_per_step: int = 4,
    steps_per_episode: int = 64,
    learning_rate: float = 3e-4,
    bias_correction: bool = False,
    variance_weight: float | Literal["paper"] = "paper",
    scale: Literal["mean", "return"] = "mean",
    episode_sampling: Literal["length", "uniform"] = "length",
    hidden_sizes: Sequence[int] = (256, 256),
    normalize: bool = True,
    return_scale: float | Literal["auto"] = "auto",
    offset_margin: float | None = 0.25,
    holdout: Sequence[Episode] | EpisodeDataset | None = None,
    log_interval: int | None = None,
    on_progress: Callable[[Mapping[str, float]], None] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> RRDRewardModel:
    """Fit a reward per step whose sum over an episode is its return.

    Minimises `randomized_return_loss` with Adam. The defaults are those of the code released with
    Ren et al. (2022), arXiv 2111.13485: 64 steps of each of 4 episodes in a batch, an episode being
    drawn in proportion to its length. Differs from it: `normalize`, because LIBERO's states mix
    metres, radians and gripper widths, and a position moves by millimetres between two steps;
    `return_scale`, because a return of 1 is 0.01 a step, a hundredth of what a new network puts
    out; and `offset_margin`, because a LIBERO episode ends by success. `normalize=False,
    return_scale=1.0, offset_margin=None` is the paper's method.

    Args:
        dataset: Episodes with their own rewards. Their returns must vary, so it takes failures too.
        observation_keys: What the model reads; several observations are joined in this order.
        n_steps: Steps of the optimiser.
        episodes_per_step: Episodes in the loss of one step.
        steps_per_episode: K, drawn without replacement from an episode with T >= K, else with it.
        learning_rate: Of Adam.
        bias_correction: See `randomized_return_loss`.
        variance_weight: See `randomized_return_loss`.
        scale: See `randomized_return_loss`.
        episode_sampling: "length" or "uniform".
        hidden_sizes: Width of each hidden layer.
        normalize: Whether to scale states by mean and standard deviation of the data, the latter at
            least 0.01, and to clip them at 5 standard deviations.
        return_scale: What returns are multiplied with; the rewards of an episode then sum to its
            return times this, which changes no optimal behaviour. "auto" fits with the mean size of
            return / T at one, and puts out rewards whose spread on the data is one, which suits
            agents: with the default offset they cost 0.25 to 1.25 a step. Measured on 160 episodes
            of LIBERO-Object: held-out episodes are told apart at equal lengths with an AUROC of
            1.00 for three seeds, against 0.43 to 0.90 for two with a scale of 1.
        offset_margin: The `margin` of `compute_reward_offset`, for the rewards predicted on the
            data. None subtracts nothing; an agent may then linger rather than finish.
        holdout: Other episodes, on which the loss L_RD is reported.
        log_interval: Steps between two reports; by default there are 100 of them.
        on_progress: Called with each report.
        seed: Draws initial weights and batches. On the CPU, one seed gives the same weights again.
        device: Where the model is fitted, and then computes rewards.

    Returns:
        The model. Its `training` holds the arguments, statistics of the data and the reports, under
        "history": "step", "loss" (what is minimised) and "data_loss" (L_Rand-RD), both means since
        the last report, and "holdout_loss".

    Raises:
        ValueError: If there is no episode, sizes differ between episodes, or an argument is wrong.
    """
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in locals().items()
        if name not in ("dataset", "holdout", "on_progress", "device")
    }
    for name, count in (("n_steps", n_steps), ("episodes_per_step", episodes_per_step)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}.")
    data = FlatEpisodes(dataset, observation_keys, device)
    holdout_data = None if holdout is None else FlatEpisodes(holdout, observation_keys, device)
    if holdout_data is not None:
        data.check_same_sizes(holdout_data)
    sampler = SubsequenceSampler(
        data.lengths.cpu().numpy(), steps_per_episode, episode_sampling, seed
    )
    returns_vary = _check_returns_vary(data.returns)
    mean_return = float(data.returns.mean())
    scale_used = _scale_returns(return_scale, data, holdout_data)
    model = _make_model(data, hidden_sizes, normalize, seed, device)
    history = _minimise(
        functools.partial(
            randomized_return_loss,
            bias_correction=bias_correction,
            variance_weight=variance_weight,
            scale=scale,
        ),
        model.network,
        data,
        sampler,
        holdout_data,
        n_steps=n_steps,
        episodes_per_step=episodes_per_step,
        learning_rate=learning_rate,
        log_interval=log_interval or max(1, n_steps // 100),
        on_progress=on_progress,
    )
    rewards = predict_rewards(model.network, data)
    if return_scale == "auto" and returns_vary:  # else the spread is noise, not to be made larger
        factor = 1.0 / max(float(rewards.max() - rewards.min()), 1e-6)
        model.network.scale_output(factor)
        rewards, data.returns, scale_used = (
            rewards * factor,
            data.returns * factor,
            scale_used * factor,
        )
    description = {
        **_describe(data, rewards), "mean_return": mean_return, "return_scale": scale_used
    }  # fmt: skip
    if offset_margin is not None:
        lowest, highest = description["reward_range"]
        model.reward_offset = compute_reward_offset(lowest, highest, offset_margin)
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    model.training = {**arguments, **description, "versions": versions, "history": history}
    return model


def _make_model(
    data: FlatEpisodes, hidden_sizes: Sequence[int], normalize: bool, seed: int, device: str
) -> RRDRewardModel:
    model = RRDRewardModel(
        data.observation_shapes,
        data.actions.shape[1],
        hidden_sizes=hidden_sizes,
        normalize=normalize,
        seed=seed,
        device=device,
    )
    if normalize:
        model.network.state_mean.copy_(data.states.mean(0))
        model.network.state_std.copy_(data.states.std(0, correction=0).clamp(min=_STD_FLOOR))
    return model


def _minimise(
    loss: Callable[..., torch.Tensor],
    network: RewardNetwork,
    data: FlatEpisodes,
    sampler: SubsequenceSampler,
    holdout: FlatEpisodes | None,
    *,
    n_steps: int,
    episodes_per_step: int,
    learning_rate: float,
    log_interval: int,
    on_progress: Callable[[Mapping[str, float]], None] | None,
) -> list[dict[str, float]]:
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    history: list[dict[str, float]] = []
    losses: list[torch.Tensor] = []
    network.train()
    for step in range(1, n_steps + 1):
        episodes, steps = sampler.draw(episodes_per_step, data.states.device)
        rewards = network(*data.gather(episodes, steps))
        targets = data.returns[episodes], data.lengths[episodes]
        value = loss(rewards, *targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        data_loss = randomized_return_loss(rewards.detach(), *targets)
        losses.append(torch.stack([value.detach(), data_loss]))
        if step % log_interval == 0 or step == n_steps:
            mean_loss, mean_data_loss = torch.stack(losses).mean(0).tolist()
            losses.clear()
            report = {"step": step, "loss": mean_loss, "data_loss": mean_data_loss}
            if holdout is not None:
                report["holdout_loss"] = compute_holdout_loss(network, holdout)
            history.append(report)
            _logger.info("RRD step %d of %d: %s", step, n_steps, report)
            if on_progress is not None:
                on_progress(report)
    network.eval()
    return history


def compute_holdout_loss(network: RewardNetwork, data: FlatEpisodes) -> float:
    """Return L_RD in the mean scale: the squared error of whole episodes' reward per step."""
    means = data.episode_means(predict_rewards(network, data))
    return float(((means - data.returns / data.lengths) ** 2).mean())


def predict_rewards(network: RewardNetwork, data: FlatEpisodes) -> torch.Tensor:
    """Return the network's rewards of all N steps, without an offset, shape (N,)."""
    with torch.inference_mode():
        blocks = torch.arange(len(data), device=data.states.device).split(_BLOCK_ROWS)
        return torch.cat([network(*data.rows(block)) for block in blocks])


def _scale_returns(scale: float | str, data: FlatEpisodes, holdout: FlatEpisodes | None) -> float:
    """Multiply the returns of all episodes, and return the factor."""
    if scale == "auto":
        size = float((data.returns.abs() / data.lengths).mean())
        scale = 1.0 / size if size > 0 else 1.0
    elif not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise ValueError(f"`return_scale` must be 'auto' or a positive number, got {scale!r}.")
    for episodes in (data, holdout):
        if episodes is not None:
            episodes.returns = episodes.returns * scale
    return float(scale)


def _describe(data: FlatEpisodes, rewards: torch.Tensor) -> dict[str, Any]:
    means = data.episode_means(rewards)
    variances = (data.episode_means(rewards.double() ** 2) - means**2).clamp(min=0)
    return_per_step = (data.returns.abs() / data.lengths).mean()
    return {
        "n_episodes": len(data.returns),
        "n_transitions": len(data),
        "success_rate": float(np.mean([summary.success for summary in data.summaries])),
        "tasks": sorted({summary.task for summary in data.summaries}),
        "assets": sorted({str(s.metadata.get("assets")) for s in data.summaries}),
        "reward_range": [float(rewards.min()), float(rewards.max())],
        # Near zero for a reward spread evenly over its episode, which tells an agent nothing.
        "relative_deviation": float(variances.sqrt().mean() / (return_per_step + 1e-8)),
    }


def _check_returns_vary(returns: torch.Tensor) -> bool:
    """Whether anything can be learned from the returns; warns if not."""
    spread = float(returns.max() - returns.min())
    varies = spread > 1e-6 * max(1.0, float(returns.abs().max()))
    if not varies:
        warnings.warn(
            f"All {len(returns)} episodes have a return of {float(returns[0]):g}, which the same "
            "reward at every step explains: nothing about the task can be learned from them. Add "
            "episodes with other returns, such as failures.",
            stacklevel=3,
        )
    return varies
