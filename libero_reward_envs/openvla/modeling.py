"""OpenVLA (Kim et al., 2024): two vision towers, a projector, and a language model that acts.

Written from the published interface: names of parameters, configuration and numbers are those of
the original checkpoints, which are loaded as they are; no code from them is run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from libero_reward_envs.openvla.action_normalization import find_statistics, unnormalize
from libero_reward_envs.openvla.action_tokenizer import ActionTokenizer
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.generation import generate_tokens
from libero_reward_envs.openvla.loading import load_pretrained
from libero_reward_envs.openvla.vision import VisionBackbone

# What the loss passes over, as everywhere in transformers.
IGNORED_LABEL = -100


class Projector(nn.Module):
    """Maps patch features to embeddings of the language model, (n, p, v) to (n, p, d).

    One hidden layer for one tower; for two, three layers, the first of width 4v. GELU between them.

    Args:
        vision_dim: Numbers v a patch.
        language_dim: Numbers d an embedding.
        fused: Whether there are two towers.
    """

    def __init__(self, vision_dim: int, language_dim: int, *, fused: bool) -> None:
        super().__init__()
        width = 4 * vision_dim if fused else language_dim
        self.fc1 = nn.Linear(vision_dim, width)
        self.fc2 = nn.Linear(width, language_dim)
        self.fc3 = nn.Linear(language_dim, language_dim) if fused else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of patches."""
        hidden = self.fc2(nn.functional.gelu(self.fc1(features)))
        return hidden if self.fc3 is None else self.fc3(nn.functional.gelu(hidden))


class OpenVLAForActionPrediction(PreTrainedModel):
    """A policy that reads an instruction and images and writes an action as tokens.

    Parameters have the names of the original checkpoints: `vision_backbone`, `projector` and
    `language_model`. Built by its constructor it has random weights; use `from_pretrained`.

    Args:
        config: What it is made of.
    """

    config_class = OpenVLAConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer", "Block"]  # noqa: RUF012 (the base's type; timm's Block)

    config: OpenVLAConfig

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__(config)
        language_dim = config.text_config.hidden_size
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(
            self.vision_backbone.feature_dim, language_dim, fused=config.use_fused_vision_backbone
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (see Args)
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: OpenVLAConfig | None = None,
        attn_implementation: str = "sdpa",
        check: bool | None = None,
        **kwargs: Any,
    ) -> "OpenVLAForActionPrediction":
        """Load a checkpoint, and check that the model then sees images and instructions.

        Before any weights are read the shards, the names and shapes of all tensors, and the room on
        the device are checked. Only safetensors are read and no code of the checkpoint is run
        (`trust_remote_code` is accepted and has no effect). A `dataset_statistics.json` beside the
        weights takes the place of the configuration's `norm_stats`.

        Args:
            pretrained_model_name_or_path: A folder, an id of the Hugging Face Hub, or
                `checkpoint_files.TINY_OPENVLA`.
            config: Instead of the checkpoint's own.
            attn_implementation: Of the language model: "sdpa", "eager" or "flash_attention_2".
            check: Whether to run `check_sees_inputs`; None for all but large models on a CPU.
            kwargs: Those of transformers: `dtype`, `device_map`, `quantization_config`, `revision`,
                `local_files_only`, `token`, `cache_dir` and more.

        Raises:
            FileNotFoundError: If there is no checkpoint, or a shard is missing.
            ImportError: If flash attention is asked for and not installed.
            MemoryError: If the device has no room for it.
            ValueError: If a file is damaged, a tensor is missing or of another shape, or the
                configuration names an unknown backbone.
            RuntimeError: If images or instructions make no difference.
        """
        return load_pretrained(
            cls,
            super().from_pretrained,
            pretrained_model_name_or_path,
            config=config,
            attn_implementation=attn_implementation,
            check=check,
            **kwargs,
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Leave modules as their constructors began them; the language model sees to its own."""

    @property
    def norm_stats(self) -> Mapping[str, Any] | None:
        """Statistics of the actions by dataset, None if the checkpoint has none."""
        return self.config.norm_stats

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding table of tokens."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table of tokens."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer that gives the logits."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the layer that gives the logits."""
        self.language_model.set_output_embeddings(new_embeddings)

    def extract_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return patch features before the projector, (n, views * patches, d)."""
        weight = self.vision_backbone.featurizer.patch_embed.proj.weight
        device = self.device if weight.is_meta else weight.device  # meta: offloaded by accelerate
        return self.vision_backbone(pixel_values.to(device))

    def embed_inputs(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, *, n_tokens_to_come: int = 0
    ) -> torch.Tensor:
        """Return what the language model reads: [first token, patches of all views, other tokens].

        Args:
            input_ids: (n, L) int64; the first of each row is the beginning of text.
            pixel_values: (n, 3 * towers * views, H, W), floating point.
            n_tokens_to_come: Further tokens that must find room behind.

        Returns:
            Embeddings, (n, L + views * patches, d).

        Raises:
            TypeError: If the types are wrong.
            ValueError: If the shapes do not fit, an id is outside the vocabulary, or the sequence
                is longer than the language model's positions.
        """
        text = self.config.text_config
        if input_ids.ndim != 2 or len(input_ids) != len(pixel_values) or not input_ids.numel():
            raise ValueError(
                "Expected `input_ids` (n, L) and `pixel_values` (n, c, H, W) with one n, got "
                f"{tuple(input_ids.shape)} and {tuple(pixel_values.shape)}."
            )
        if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < text.vocab_size:
            raise ValueError(
                f"Expected token ids from 0 to {text.vocab_size - 1}, got {int(input_ids.min())} "
                f"to {int(input_ids.max())}. Use the checkpoint's own tokenizer."
            )
        table = self.get_input_embeddings()
        words = table(input_ids.to(self.device))
        patches = self.projector(self.extract_vision_features(pixel_values)).to(words)
        length = words.shape[1] + patches.shape[1]
        if length + n_tokens_to_come > text.max_position_embeddings:
            raise ValueError(
                f"Expected at most {text.max_position_embeddings} positions, got {words.shape[1]} "
                f"tokens, {patches.shape[1]} patches and {n_tokens_to_come} tokens to come. "
                "Use fewer views or a shorter instruction."
            )
        return torch.cat([words[:, :1], patches, words[:, 1:]], dim=1)

    @staticmethod
    def extend_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
        """Return a mask or labels of tokens, (n, L), with ones for patches, (n, `length`)."""
        return _insert(mask, length - mask.shape[1], 1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits of the whole sequence, and the loss where there are labels.

        Args:
            input_ids: (n, L), padded on the right; to generate, use `predict_action`.
            attention_mask: (n, L), 0 for padding; none if None.
            pixel_values: (n, 3 * towers * views, H, W).
            labels: (n, L): ids to predict, -100 for what the loss passes over.
            kwargs: Those of the language model, such as `output_hidden_states`.

        Returns:
            `logits`, (n, L + views * patches, vocabulary); `loss`, the mean cross entropy of the
            labels, each compared with the logits one position before.

        Raises:
            TypeError: See `embed_inputs`.
            ValueError: Likewise, or if the mask leaves out a row's first token.
        """
        if attention_mask is not None and not bool(attention_mask[:, 0].all()):
            raise ValueError(
                "Expected prompts padded on the right, got an `attention_mask` that begins with 0: "
                "patches stand behind the first token. Set the tokenizer's `padding_side` to "
                "'right'."
            )
        embeddings = self.embed_inputs(input_ids, pixel_values)
        length = embeddings.shape[1]
        if attention_mask is not None:
            attention_mask = self.extend_mask(attention_mask, length).to(embeddings.device)
        if labels is not None:
            labels = _insert(labels, length - labels.shape[1], IGNORED_LABEL).to(embeddings.device)
        return self.language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, labels=labels, **kwargs
        )

    def predict_action(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        unnorm_key: str | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        normalization: str = "q99",
    ) -> np.ndarray:
        """Return one action for each prompt and its images, as exactly as for each row alone.

        Args:
            input_ids: Prompts, (n, L), padded on either side; see `generation.align_prompts`.
            pixel_values: (n, 3 * towers * views, H, W).
            unnorm_key: Whose statistics give the actions their unit; None if there is one dataset.
            attention_mask: (n, L), 0 for padding; if None, all padding tokens are padding.
            normalization: How actions were normalised in training, see `NORMALIZATIONS`.

        Returns:
            Actions, (n, a) float64.

        Raises:
            TypeError: See `generate_tokens`.
            ValueError: Likewise, or if there are no statistics under `unnorm_key`.
        """
        _, statistics = find_statistics(self.norm_stats, unnorm_key)
        generated = generate_tokens(
            self, input_ids, pixel_values, statistics.mean.size, attention_mask=attention_mask
        )
        tokenizer = ActionTokenizer(self.config.n_text_rows, self.config.n_action_bins)
        values = tokenizer.decode(generated.token_ids.cpu().numpy())
        return unnormalize(values, statistics, normalization)


def _insert(rows: torch.Tensor, n_columns: int, value: int) -> torch.Tensor:
    """Return (n, L) with `n_columns` of one value behind the first column."""
    inserted = rows.new_full((len(rows), n_columns), value)
    return torch.cat([rows[:, :1], inserted, rows[:, 1:]], dim=1)


AutoModelForImageTextToText.register(OpenVLAConfig, OpenVLAForActionPrediction, exist_ok=True)
