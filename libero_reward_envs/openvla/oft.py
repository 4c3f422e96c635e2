"""Chunks of actions in one pass, after Kim et al. (2025), arXiv 2502.19645 ("OpenVLA-OFT").

OFT puts one empty token for each number of a chunk of actions behind the prompt, lets all
positions attend to each other, and reads the whole chunk from one forward pass: as tokens, or as
numbers by a small network (trained with an L1 loss). The robot's own state can be one more token.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from libero_reward_envs.openvla.action_normalization import (
    ActionStatistics,
    find_statistics,
    unnormalize,
)
from libero_reward_envs.openvla.action_tokenizer import ActionTokenizer
from libero_reward_envs.openvla.generation import align_prompts

if TYPE_CHECKING:
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

CHUNK_SIZE = 8  # actions at LIBERO's 20 Hz; the authors took 25 for ALOHA and 5 for Bridge
_N_BLOCKS = 2
_NO_MASKS = ("flash_attention_2",)


class _Block(nn.Module):
    """x + ReLU(Linear(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ffn(x)


class _ResNet(nn.Module):
    """The network of `ActionHead`, under the name that its parameters have in checkpoints."""

    def __init__(self, input_dim: int, width: int, action_dim: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(input_dim)
        self.fc1 = nn.Linear(input_dim, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Block(width) for _ in range(_N_BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ActionHead(nn.Module):
    """Reads each action of a chunk from the hidden states of its tokens.

    Parameters have the names of the original checkpoints.

    Args:
        hidden_dim: Numbers d of a hidden state.
        action_dim: Numbers a of an action; it is read from a hidden states.
        width: Of the layers between; d in the original.
    """

    def __init__(self, hidden_dim: int, action_dim: int, width: int | None = None) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = _ResNet(hidden_dim * action_dim, width or hidden_dim, action_dim)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return normalised actions, (n, k, a), of hidden states, (n, k * a, d)."""
        return self.model(hidden.reshape(len(hidden), -1, self.action_dim * hidden.shape[-1]))


class ProprioProjector(nn.Module):
    """Makes a token of the robot's own state: Linear, GELU, Linear.

    Args:
        proprio_dim: Numbers p of the state.
        hidden_dim: Numbers of a token.
    """

    def __init__(self, proprio_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proprio_dim = proprio_dim
        self.fc1 = nn.Linear(proprio_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, proprio: torch.Tensor) -> torch.Tensor:
        """Return tokens, (n, 1, d), of normalised states, (n, p)."""
        return self.fc2(nn.functional.gelu(self.fc1(proprio)))[:, None]


class OFTParts(NamedTuple):
    """What OFT adds to a model.

    Attributes:
        action_head: None if actions are read as tokens.
        proprio_projector: None if the model does not know the robot's own state.
        chunk_size: Actions of a chunk.
    """

    action_head: ActionHead | None = None
    proprio_projector: ProprioProjector | None = None
    chunk_size: int = CHUNK_SIZE


@torch.inference_mode()
def predict_chunk(
    model: "OpenVLAForActionPrediction",
    parts: OFTParts,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor,
    unnorm_key: str | None = None,
    attention_mask: torch.Tensor | None = None,
    *,
    proprio: np.ndarray | None = None,
    normalization: str = "q99",
) -> np.ndarray:
    """Return a chunk of actions for each prompt and its images, as exactly as for each row alone.

    Args:
        model: The model.
        parts: What it was trained with.
        input_ids: Prompts, (n, L), padded on either side; see `generation.align_prompts`.
        pixel_values: (n, 3 * towers * views, H, W).
        unnorm_key: Whose statistics give the actions their unit; None if there is one dataset.
        attention_mask: (n, L), 0 for padding; if None, all padding tokens are padding.
        proprio: The robots' own states, normalised, (n, p); None for a model without.
        normalization: How actions were normalised in training, see `NORMALIZATIONS`.

    Returns:
        Actions, (n, k, a) float64.

    Raises:
        ValueError: If `proprio` and the model do not fit, the action head is of other statistics,
            or attention has no room for a mask; and as `generate_tokens`.
    """
    _check_attention(model)
    _, statistics = find_statistics(model.norm_stats, unnorm_key)
    check_parts(model, parts, statistics)
    hidden = compute_chunk_states(
        model,
        parts,
        input_ids,
        pixel_values,
        statistics.mean.size,
        attention_mask=attention_mask,
        proprio=proprio,
    )
    if parts.action_head is not None:
        values = parts.action_head(hidden).float().cpu().numpy().astype(np.float64)
    else:
        token_ids = model.get_output_embeddings()(hidden).argmax(dim=-1).cpu().numpy()
        tokenizer = ActionTokenizer(model.config.n_text_rows, model.config.n_action_bins)
        values = tokenizer.decode(token_ids).reshape(len(hidden), parts.chunk_size, -1)
    return unnormalize(values, statistics, normalization)


def compute_chunk_states(
    model: "OpenVLAForActionPrediction",
    parts: OFTParts,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor,
    action_dim: int,
    *,
    attention_mask: torch.Tensor | None = None,
    proprio: np.ndarray | None = None,
) -> torch.Tensor:
    """Return the hidden states that actions are read from, (n, k * a, d); see `predict_chunk`.

    The sequence is [beginning of text, patches, state of the robot, rest of the prompt, k * a times
    zeros, end of text]. A number is read one position before its own, the first one at the prompt's
    last token.
    """
    text = model.config.text_config
    n_numbers = parts.chunk_size * action_dim
    prompts = align_prompts(input_ids, attention_mask, text.bos_token_id, model.config.pad_token_id)
    further = n_numbers + 1 + (parts.proprio_projector is not None)
    embeddings = model.embed_inputs(prompts.input_ids, pixel_values, n_tokens_to_come=further)
    n_rows, n_words, dim = len(embeddings), prompts.input_ids.shape[1], embeddings.shape[2]
    kept = model.extend_mask(prompts.attention_mask, embeddings.shape[1]).to(embeddings.device)
    if (token := _project_proprio(parts, proprio, n_rows)) is not None:
        at = embeddings.shape[1] - n_words + 1  # behind the beginning of text and the patches
        token = token.to(embeddings)
        embeddings = torch.cat([embeddings[:, :at], token, embeddings[:, at:]], dim=1)
        kept = torch.cat([kept.new_ones(n_rows, 1), kept], dim=1)
    end = torch.full((n_rows, 1), text.eos_token_id, device=embeddings.device)
    end = model.get_input_embeddings()(end).to(embeddings)
    zeros = embeddings.new_zeros(n_rows, n_numbers, dim)
    first = embeddings.shape[1] - 1
    embeddings = torch.cat([embeddings, zeros, end], dim=1)
    kept = torch.cat([kept, kept.new_ones(n_rows, n_numbers + 1)], dim=1)
    hidden = model.language_model.model(
        inputs_embeds=embeddings,
        attention_mask=_make_mask(kept, embeddings.dtype),
        position_ids=kept.long().cumsum(dim=1) - 1,
        use_cache=False,
    ).last_hidden_state
    return hidden[:, first : first + n_numbers]


def check_parts(
    model: "OpenVLAForActionPrediction", parts: OFTParts, statistics: ActionStatistics
) -> None:
    """Raise ValueError unless what OFT adds fits the model and the statistics of its actions."""
    head, size = parts.action_head, statistics.mean.size
    hidden_dim = model.config.text_config.hidden_size
    if head is not None and head.action_dim != size:
        raise ValueError(
            f"Expected an action head for actions of {size} numbers, as the statistics have them, "
            f"got one for {head.action_dim}. Name the data that it was trained on by `unnorm_key`."
        )
    found = set()
    if head is not None:
        found.add(head.model.fc1.in_features // head.action_dim)
    if parts.proprio_projector is not None:
        found.add(parts.proprio_projector.fc2.out_features)
    if found - {hidden_dim}:
        raise ValueError(
            f"Expected an action head and a projector for hidden states of {hidden_dim} numbers, "
            f"got {sorted(found)}. They belong to another model."
        )


def _project_proprio(
    parts: OFTParts, proprio: np.ndarray | None, n_rows: int
) -> torch.Tensor | None:
    projector = parts.proprio_projector
    if projector is None:
        if proprio is not None:
            raise ValueError("Expected no `proprio` for a model without a projector for it.")
        return None
    shape = (n_rows, projector.proprio_dim)
    if proprio is None or np.shape(proprio) != shape:
        got = "none" if proprio is None else f"shape {np.shape(proprio)}"
        raise ValueError(
            f"Expected `proprio` of shape {shape}, normalised by the statistics of the training "
            f"data, got {got}."
        )
    weight = projector.fc1.weight
    return projector(torch.as_tensor(np.asarray(proprio, np.float32)).to(weight))


def _make_mask(kept: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores, (n, 1, S, S): all positions see all but padding."""
    least = torch.finfo(dtype).min
    added = torch.zeros(kept.shape, dtype=dtype, device=kept.device).masked_fill(~kept, least)
    return added[:, None, None, :].expand(-1, 1, kept.shape[1], -1)


def _check_attention(model: "OpenVLAForActionPrediction") -> None:
    """Raise ValueError if attention does not take a mask instead of the causal one."""
    name = getattr(model.language_model.config, "_attn_implementation", "sdpa")
    if name in _NO_MASKS:
        raise ValueError(
            f"Expected attention 'sdpa' or 'eager' for chunks of actions, which see both ways, got "
            f"{name!r}, which only sees backwards. Load the model with attn_implementation='sdpa'."
        )
