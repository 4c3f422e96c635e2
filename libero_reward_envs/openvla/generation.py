"""Greedy generation of action tokens, for one prompt or a batch of prompts of different lengths.

OpenVLA's sequence is [beginning of text, patches of all views, rest of the prompt, action tokens].
The loop is our own: it does not depend on how transformers prepares the steps of its `generate`,
which from version 4.50 on made the original model skip the image without a word.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import DynamicCache

if TYPE_CHECKING:
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

# Llama's piece for a lone space. In training it stands between "Out:" and the first action token;
# the tokenizer leaves it out at the end of a prompt.
LONE_SPACE_ID = 29871


class Prompts(NamedTuple):
    """Prompts of different lengths in one array.

    Attributes:
        input_ids: (n, L) int64: the beginning of text, padding, the rest of the prompt.
        attention_mask: Which are no padding, (n, L) bool.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


class GeneratedTokens(NamedTuple):
    """What was generated.

    Attributes:
        token_ids: (n, n_tokens) int64.
        scores: Logits that each was chosen from, (n, n_tokens, vocabulary) float32, or None.
    """

    token_ids: torch.Tensor
    scores: torch.Tensor | None


def align_prompts(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    bos_token_id: int,
    pad_token_id: int,
) -> Prompts:
    """Bring prompts into the form in which a batch gives exactly what each row gives alone.

    The beginning of text stays first, because the patches stand behind it; padding follows, and all
    prompts end together. A missing `LONE_SPACE_ID` is appended.

    Args:
        input_ids: (n, L) integers, padded on either side.
        attention_mask: (n, L), 0 for padding. If None, all `pad_token_id` are padding.
        bos_token_id: What each prompt must begin with.
        pad_token_id: What to pad with.

    Raises:
        TypeError: If the ids are not integers.
        ValueError: If the shapes differ, or a prompt is empty or lacks its beginning of text.
    """
    if input_ids.is_floating_point():
        raise TypeError(f"Expected `input_ids` as integers, got {input_ids.dtype}.")
    mask = input_ids != pad_token_id if attention_mask is None else attention_mask.bool()
    if input_ids.ndim != 2 or mask.shape != input_ids.shape:
        raise ValueError(
            "Expected `input_ids` and `attention_mask` of one shape (n, L), got "
            f"{tuple(input_ids.shape)} and {tuple(mask.shape)}."
        )
    mask = mask.to(input_ids.device)
    rows = [ids[row_mask].tolist() for ids, row_mask in zip(input_ids, mask, strict=True)]
    for index, row in enumerate(rows):
        if len(row) < 2 or row[0] != bos_token_id:
            raise ValueError(
                f"Expected prompt {index} to begin with the beginning of text ({bos_token_id}) and "
                f"to go on, got ids {row[:8]}. Make prompts with the checkpoint's own processor."
            )
        if row[-1] != LONE_SPACE_ID:
            row.append(LONE_SPACE_ID)
    width = max(map(len, rows), default=0)
    ids = [[row[0], *[pad_token_id] * (width - len(row)), *row[1:]] for row in rows]
    kept = [[True, *[False] * (width - len(row)), *[True] * (len(row) - 1)] for row in rows]
    device = input_ids.device
    return Prompts(
        torch.tensor(ids, dtype=torch.long, device=device).reshape(len(rows), width),
        torch.tensor(kept, dtype=torch.bool, device=device).reshape(len(rows), width),
    )


@torch.inference_mode()
def generate_tokens(
    model: "OpenVLAForActionPrediction",
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor,
    n_tokens: int,
    *,
    attention_mask: torch.Tensor | None = None,
    return_scores: bool = False,
) -> GeneratedTokens:
    """Generate a fixed number of tokens, always the most probable one.

    The end of text does not end it, unlike in the original, where prompt tokens would then be taken
    for actions.

    Args:
        model: The model.
        input_ids: Prompts, (n, L), padded on either side.
        pixel_values: Their images, (n, 3 * towers * views, H, W), normalised.
        n_tokens: How many to generate, at least 1.
        attention_mask: See `align_prompts`.
        return_scores: Whether to keep the logits.

    Raises:
        TypeError: See `align_prompts` and `VisionBackbone`.
        ValueError: Likewise, or if the sequence is longer than the model's positions.
        RuntimeError: If the language model does not fill its cache.
    """
    text = model.config.text_config
    prompts = align_prompts(input_ids, attention_mask, text.bos_token_id, model.config.pad_token_id)
    embeddings = model.embed_inputs(prompts.input_ids, pixel_values, n_tokens_to_come=n_tokens - 1)
    mask = model.extend_mask(prompts.attention_mask, embeddings.shape[1]).to(embeddings.device)
    positions = mask.long().cumsum(dim=1) - 1
    # Without padding no mask is given, so that the fast causal kernels are used.
    is_padded = not bool(prompts.attention_mask.all())
    cache = DynamicCache(config=text)
    step: dict[str, torch.Tensor] = {"inputs_embeds": embeddings}
    token_ids, scores = [], []
    for _ in range(n_tokens):
        logits = model.language_model(
            **step,
            attention_mask=mask if is_padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        _check_cache(cache, mask.shape[1])
        token_ids.append(logits.argmax(dim=-1))
        if return_scores:
            scores.append(logits.float())
        step = {"input_ids": token_ids[-1][:, None]}
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return GeneratedTokens(
        torch.stack(token_ids, dim=1), torch.stack(scores, dim=1) if return_scores else None
    )


def _check_cache(cache: DynamicCache, length: int) -> None:
    """Without its cache the language model would see one token a step, no image and no prompt."""
    if cache.get_seq_length() != length:
        raise RuntimeError(
            f"Expected a cache of {length} positions, got "
            f"{cache.get_seq_length()}. Call `model.eval()` before generating: gradient "
            "checkpointing keeps no cache in training mode."
        )
