"""The configuration of an OpenVLA checkpoint, as its `config.json` holds it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from libero_reward_envs.openvla.backbones import (
    LANGUAGE_MODELS,
    find_language_model,
    find_vision_towers,
)
from libero_reward_envs.openvla.tower_fields import read_towers

RESIZE_STRATEGIES = ("resize-naive", "letterbox", "resize-crop")
# Llama's own rows; `pad_to_multiple_of` more are added for the padding token and for alignment.
_LLAMA_ROWS = 32000
# What transformers heeds in a `config.json` and could load code or other files by. Weights come
# from the safetensors of the folder, and kernels from what is installed, whatever a file says.
_IGNORED_FIELDS = (
    "attribute_map",  # would let a field stand for another, behind the checks
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "custom_pipelines",
    "fusion_config",
    "transformers_weights",
)


class OpenVLAConfig(PretrainedConfig):
    """What an OpenVLA model is made of; the defaults are those of the published 7B model.

    Fields that follow from the backbones' names (`timm_model_ids`, `image_sizes`,
    `timm_override_act_layers`, `hf_llm_id`) are taken from the file where it stores them. The
    stored `text_config` holds only what differs from the defaults of its class, so the epsilon of
    RMSNorm is 1e-6 and the longest sequence 2048, not Llama 2's 1e-5 and 4096.

    Args:
        vision_backbone_id: Name of the vision backbone, see `backbones.VISION_BACKBONES`.
        llm_backbone_id: Name of the language model, see `backbones.LANGUAGE_MODELS`.
        arch_specifier: What the projector is; informative only.
        use_fused_vision_backbone: Whether there are two towers; follows from the name if None.
        image_resize_strategy: "resize-naive", "letterbox" or "resize-crop".
        text_config: The language model's configuration, or its fields.
        llm_max_length: Longest prompt in tokens.
        pad_token_id: Id of the padding token.
        pad_to_multiple_of: Vocabulary rows behind the tokenizer's own; none of them is an action.
        output_projector_states: Kept, unused.
        norm_stats: Statistics by dataset, `{name: {"action": {"q01": ..., "q99": ...}}}`.
        n_action_bins: Bins of each action dimension.
        timm_model_kwargs: Numbers of each tower's architecture, for models smaller than timm's; the
            published checkpoints have no such field. See `tower_fields` for which there may be.
        kwargs: All other fields of the file.

    Raises:
        ValueError: If a backbone is not known, a field of a tower or of the language model is not
            one that it may have, or the towers' fields do not fit each other.
    """

    model_type = "openvla"
    # In the base class a property of the class since transformers 5; a plain dict serves both.
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(
        self,
        vision_backbone_id: str = "dinosiglip-vit-so-224px",
        llm_backbone_id: str = "llama2-7b-pure",
        arch_specifier: str = "no-align+fused-gelu-mlp",
        use_fused_vision_backbone: bool | None = None,
        image_resize_strategy: str = "resize-naive",
        text_config: Mapping[str, Any] | PretrainedConfig | None = None,
        llm_max_length: int = 2048,
        pad_token_id: int = 32000,
        pad_to_multiple_of: int = 64,
        output_projector_states: bool = False,
        norm_stats: dict[str, Any] | None = None,
        n_action_bins: int = 256,
        timm_model_kwargs: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        towers = find_vision_towers(vision_backbone_id)
        language_model = find_language_model(llm_backbone_id)
        self.vision_backbone_id = vision_backbone_id
        self.llm_backbone_id = llm_backbone_id
        self.arch_specifier = arch_specifier
        n_towers = len(towers.timm_ids)
        fused = n_towers == 2 if use_fused_vision_backbone is None else use_fused_vision_backbone
        self.use_fused_vision_backbone = fused
        self.image_resize_strategy = image_resize_strategy
        self.llm_max_length = llm_max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.output_projector_states = output_projector_states
        self.norm_stats = norm_stats
        self.n_action_bins = n_action_bins
        self.timm_model_ids = list(kwargs.pop("timm_model_ids", towers.timm_ids))
        self.image_sizes = list(kwargs.pop("image_sizes", towers.image_sizes))
        self.timm_override_act_layers = list(
            kwargs.pop("timm_override_act_layers", towers.act_layers)
        )
        if timm_model_kwargs is not None:
            self.timm_model_kwargs = timm_model_kwargs
        self.hf_llm_id = kwargs.pop("hf_llm_id", language_model.hub_id)
        if not isinstance(text_config, PretrainedConfig):
            text_config = _make_text_config(
                language_model.model_type, text_config, pad_token_id, pad_to_multiple_of
            )
        self.text_config = text_config
        self._check()
        kwargs = {key: value for key, value in kwargs.items() if key not in _IGNORED_FIELDS}
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**{"pad_token_id": pad_token_id, **kwargs})

    @property
    def n_towers(self) -> int:
        """Vision towers, each of which sees three channels of an image."""
        return 2 if self.use_fused_vision_backbone else 1

    @property
    def n_text_rows(self) -> int:
        """Vocabulary rows that belong to the tokenizer; the last `n_action_bins` are actions."""
        return self.text_config.vocab_size - self.pad_to_multiple_of

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what `config.json` is to hold, in the form of the published checkpoints.

        Their `text_config` holds only what differs from the defaults of its class, and the type of
        the weights stands under "torch_dtype".
        """
        fields = super().to_diff_dict()
        full, default = self.text_config.to_dict(), type(self.text_config)().to_dict()
        text = {key: value for key, value in full.items() if value != default.get(key, ...)}
        if text.get("head_dim", 0) * full["num_attention_heads"] == full["hidden_size"]:
            del text["head_dim"]  # follows from the others
        fields["text_config"] = {**text, "model_type": self.text_config.model_type}
        if not fields.get("tie_word_embeddings"):
            fields.pop("tie_word_embeddings", None)
        for part in (fields, fields["text_config"]):
            if (dtype := part.pop("dtype", None)) is not None:
                part["torch_dtype"] = str(dtype).removeprefix("torch.")
        return fields

    def _check(self) -> None:
        if not isinstance(self.use_fused_vision_backbone, bool):
            raise ValueError(
                "Expected `use_fused_vision_backbone` as true or false, got "
                f"{self.use_fused_vision_backbone!r}. Mend the checkpoint's config.json."
            )
        if self.image_resize_strategy not in RESIZE_STRATEGIES:
            raise ValueError(
                f"Unknown `image_resize_strategy` {self.image_resize_strategy!r}. "
                f"Choose one of: {', '.join(RESIZE_STRATEGIES)}."
            )
        read_towers(self)


def _make_text_config(
    model_type: str,
    fields: Mapping[str, Any] | None,
    pad_token_id: int,
    pad_to_multiple_of: int,
) -> PretrainedConfig:
    if fields is not None and not isinstance(fields, Mapping):
        raise ValueError(f"Expected `text_config` as an object of fields, got {fields!r}.")
    fields = dict(fields or {"vocab_size": _LLAMA_ROWS + pad_to_multiple_of})
    fields = {key: value for key, value in fields.items() if key not in _IGNORED_FIELDS}
    fields.setdefault("pad_token_id", pad_token_id)
    model_type = fields.pop("model_type", model_type)
    known = sorted({model.model_type for model in LANGUAGE_MODELS.values()})
    if model_type not in known:
        raise ValueError(
            f"Expected `model_type` in `text_config` as one of {', '.join(known)}, got "
            f"{model_type!r}. Mend the checkpoint's config.json."
        )
    try:
        return CONFIG_MAPPING[model_type](**fields)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(
            f"Expected a `text_config` of a {model_type!r} model, got fields that do not fit: "
            f"{error}. Mend the checkpoint's config.json."
        ) from error


AutoConfig.register(OpenVLAConfig.model_type, OpenVLAConfig, exist_ok=True)
