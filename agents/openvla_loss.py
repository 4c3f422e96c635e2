"""The loss of OpenVLA's training, and how many of its action tokens are right."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from libero_reward_envs.openvla.action_normalization import ActionStatistics, unnormalize
from libero_reward_envs.openvla.action_tokenizer import ActionTokenizer
from libero_reward_envs.openvla.modeling import IGNORED_LABEL

MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")


class ActionLoss(NamedTuple):
    """What came of a batch of n rows.

    Attributes:
        losses: Mean cross entropy of each row's action tokens and its end of text, (n,) float32.
        predicted: Most probable ids at the places of the action tokens, (n, a) int64.
        target: The right ones, (n, a) int64.
    """

    losses: torch.Tensor
    predicted: torch.Tensor
    target: torch.Tensor


class ActionErrors(NamedTuple):
    """How far actions are off; each a mean over rows and dimensions.

    Attributes:
        accuracy: Share of tokens that are right.
        l1_normalized: Distance of the bins' middles, in [-1, 1].
        l1_physical: The same in the unit of the data.
    """

    accuracy: float
    l1_normalized: float
    l1_physical: float


def compute_action_loss(model: Any, batch: Mapping[str, torch.Tensor]) -> ActionLoss:
    """Return the loss of a batch of `RowEncoder.encode`, which lies on the model's device.

    The same as the model's own loss over its labels, row by row; logits are made only for the end
    of the sequence, where the labels are, a tenth of it.

    Args:
        model: `OpenVLAForActionPrediction`, or what wraps it.
        batch: With `labels`, of which each row has as many.
    """
    labels = batch["labels"]
    is_label = labels != IGNORED_LABEL
    first = int(is_label.int().argmax(dim=1).min())
    outputs = model(
        **{name: batch[name] for name in MODEL_INPUTS},
        logits_to_keep=labels.shape[1] - first + 1,
        use_cache=False,
    )
    logits, labels, is_label = outputs.logits[:, :-1], labels[:, first:], is_label[:, first:]
    # Only what counts is turned to float32.
    n, n_labels = len(labels), int(is_label[0].sum())
    picked = logits[is_label].float().reshape(n, n_labels, -1)
    target = labels[is_label].reshape(n, n_labels)
    losses = cross_entropy(picked.transpose(1, 2), target, reduction="none").mean(dim=1)
    return ActionLoss(losses, picked[:, :-1].argmax(dim=-1), target[:, :-1])


def measure_errors(
    predicted: np.ndarray,
    target: np.ndarray,
    tokenizer: ActionTokenizer,
    statistics: ActionStatistics,
    normalization: str = "q99",
) -> ActionErrors:
    """Compare predicted and right ids, each (n, a), n at least 1."""
    distances = np.abs(tokenizer.decode(predicted) - tokenizer.decode(target))
    physical = [
        unnormalize(tokenizer.decode(ids), statistics, normalization) for ids in (predicted, target)
    ]
    return ActionErrors(
        float((predicted == target).mean()),
        float(distances.mean()),
        float(np.abs(physical[0] - physical[1]).mean()),
    )
