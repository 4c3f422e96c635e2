"""The loss of randomized return decomposition, a pure function on tensors."""

import math
from typing import Literal

import torch


def randomized_return_loss(
    sampled_rewards: torch.Tensor,
    returns: torch.Tensor,
    lengths: torch.Tensor,
    *,
    bias_correction: bool = False,
    variance_weight: float | Literal["paper"] = "paper",
    scale: Literal["mean", "return"] = "mean",
    replacement: bool | None = None,
) -> torch.Tensor:
    """Compare the mean of K sampled rewards of an episode with its return per step.

    With m and s² the mean and the variance (divisor K - 1) of the K rewards, R the return and T the
    length of an episode, the loss is the mean over episodes of (m - R / T)². That is L_Rand-RD of
    Ren et al. (2022), arXiv 2111.13485, divided by T² as in the code they released.
    `scale="return"` gives the formula of the paper, (R - (T / K) sum of rewards)².

    Sampling adds a penalty to the least-squares loss L_RD: in expectation, λ times the variance of
    the rewards within the episode, with λ = 1 / K - 1 / T for steps drawn without replacement and
    1 / K for steps drawn with it. `bias_correction` takes λ s² off, which leaves an unbiased
    estimate of L_RD (RRD-L(RD) in the paper); its value can be negative. `variance_weight` sets λ
    freely, apart from K; this is not in the paper.

    Args:
        sampled_rewards: Predicted rewards of K steps an episode, shape (episodes, K), any float.
        returns: R, shape (episodes,).
        lengths: T, shape (episodes,).
        bias_correction: Whether to estimate L_RD. Needs K >= 2.
        variance_weight: "paper" keeps λ, a number replaces it, in the mean scale. Needs K >= 2.
        scale: "mean" or "return"; the latter multiplies each episode's loss by T².
        replacement: Whether steps were drawn with replacement; None means in episodes with T < K.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes or arguments do not fit together.
    """
    check_loss_arguments(sampled_rewards.shape[-1], bias_correction, variance_weight, scale)
    return combine_return_loss(
        *compute_loss_terms(sampled_rewards, returns, lengths, replacement=replacement),
        lengths,
        bias_correction=bias_correction,
        variance_weight=variance_weight,
        scale=scale,
    )


def whole_episode_loss(
    rewards: torch.Tensor,
    returns: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: Literal["mean", "return"] = "mean",
) -> torch.Tensor:
    """Return L_RD, the least-squares loss on all steps of each episode.

    Args:
        rewards: Predicted rewards, shape (episodes, L); in a row, those beyond T count nothing.
        returns: R, shape (episodes,).
        lengths: T, at most L, shape (episodes,).
        scale: See `randomized_return_loss`.
    """
    inside = torch.arange(rewards.shape[1], device=rewards.device) < lengths[:, None]
    lengths = lengths.to(rewards.dtype)
    errors = ((rewards * inside).sum(1) - returns.to(rewards.dtype)) / lengths
    if scale == "return":
        errors = errors * lengths
    return (errors**2).mean()


def compute_loss_terms(
    sampled_rewards: torch.Tensor,
    returns: torch.Tensor,
    lengths: torch.Tensor,
    *,
    replacement: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the three terms of `randomized_return_loss`, which has the same arguments.

    Returns:
        (m - R / T)², s² (zeros if K is 1) and λ of each episode, each of shape (episodes,).

    Raises:
        ValueError: If shapes do not fit together.
    """
    shape = tuple(sampled_rewards.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"Expected `sampled_rewards` of shape (episodes, K), got {shape}.")
    for name, values in (("returns", returns), ("lengths", lengths)):
        if tuple(values.shape) != shape[:1]:
            raise ValueError(f"Expected `{name}` of shape {shape[:1]}, got {tuple(values.shape)}.")
    lengths = lengths.to(sampled_rewards.dtype)
    variances, means = torch.var_mean(sampled_rewards, 1, correction=min(1, shape[1] - 1))
    errors = (means - returns.to(sampled_rewards.dtype) / lengths) ** 2
    without_replacement = lengths >= shape[1]
    if replacement is not None:
        without_replacement = torch.full_like(without_replacement, not replacement)
    weights = 1 / shape[1] - without_replacement / lengths
    return errors, variances, weights


def combine_return_loss(
    errors: torch.Tensor,
    variances: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    *,
    bias_correction: bool,
    variance_weight: float | Literal["paper"],
    scale: Literal["mean", "return"],
) -> torch.Tensor:
    """Return the loss of the terms that `compute_loss_terms` gave, with checked arguments."""
    loss = errors
    if bias_correction or variance_weight != "paper":
        target = 0.0 if variance_weight == "paper" else float(variance_weight)
        loss = loss + (target - weights) * variances
    if scale == "return":
        loss = loss * lengths.to(loss.dtype) ** 2
    return loss.mean()


def check_loss_arguments(
    n_sampled: int, bias_correction: bool, variance_weight: float | str, scale: str
) -> None:
    """Raise ValueError unless the arguments of the loss fit together; `n_sampled` holds K."""
    if scale not in ("mean", "return"):
        raise ValueError(f"`scale` must be 'mean' or 'return', got {scale!r}.")
    if variance_weight != "paper" and (
        isinstance(variance_weight, str) or not math.isfinite(variance_weight)
    ):
        raise ValueError(f"`variance_weight` must be 'paper' or a number, got {variance_weight!r}.")
    if bias_correction and variance_weight != "paper":
        raise ValueError("`bias_correction` means a `variance_weight` of 0: give one of the two.")
    if (bias_correction or variance_weight != "paper") and n_sampled < 2:
        raise ValueError(f"A variance needs at least 2 sampled steps an episode, got {n_sampled}.")
