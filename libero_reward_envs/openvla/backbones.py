"""What the names of backbones in a checkpoint's configuration stand for.

The tables are those of the published configuration: a checkpoint stores a backbone's name, and
often what follows from it too, which then counts (`OpenVLAConfig`).
"""

from typing import NamedTuple

_DINOV2 = "vit_large_patch14_reg4_dinov2.lvd142m"
_SIGLIP_224 = "vit_so400m_patch14_siglip_224"
_SIGLIP_384 = "vit_so400m_patch14_siglip_384"
_CLIP_224 = "vit_large_patch14_clip_224.openai"
_CLIP_336 = "vit_large_patch14_clip_336.openai"


class VisionTowers(NamedTuple):
    """The towers of a vision backbone, in the order of the image's channels.

    Attributes:
        timm_ids: Names of timm's models.
        image_sizes: Side of the square image that each sees, in pixels.
        act_layers: Activation of each, or None for timm's own.
    """

    timm_ids: tuple[str, ...]
    image_sizes: tuple[int, ...]
    act_layers: tuple[str | None, ...]


class LanguageModel(NamedTuple):
    """A language model: its type in transformers, and the repository it came from."""

    model_type: str
    hub_id: str


VISION_BACKBONES = {
    "clip-vit-l": VisionTowers((_CLIP_224,), (224,), ("quick_gelu",)),
    "clip-vit-l-336px": VisionTowers((_CLIP_336,), (336,), ("quick_gelu",)),
    "dinoclip-vit-l-336px": VisionTowers((_DINOV2, _CLIP_336), (336, 336), (None, "quick_gelu")),
    "dinosiglip-vit-so-224px": VisionTowers((_DINOV2, _SIGLIP_224), (224, 224), (None, None)),
    "dinosiglip-vit-so-384px": VisionTowers((_DINOV2, _SIGLIP_384), (384, 384), (None, None)),
    "dinov2-vit-l": VisionTowers((_DINOV2,), (224,), (None,)),
    "in1k-vit-l": VisionTowers(("vit_large_patch16_224.augreg_in21k_ft_in1k",), (224,), (None,)),
    "siglip-vit-so400m": VisionTowers((_SIGLIP_224,), (224,), (None,)),
    "siglip-vit-so400m-384px": VisionTowers((_SIGLIP_384,), (384,), (None,)),
}
LANGUAGE_MODELS = {
    "llama2-7b-pure": LanguageModel("llama", "meta-llama/Llama-2-7b-hf"),
    "llama2-7b-chat": LanguageModel("llama", "meta-llama/Llama-2-7b-chat-hf"),
    "llama2-13b-pure": LanguageModel("llama", "meta-llama/Llama-2-13b-hf"),
    "llama2-13b-chat": LanguageModel("llama", "meta-llama/Llama-2-13b-chat-hf"),
    "vicuna-v15-7b": LanguageModel("llama", "lmsys/vicuna-7b-v1.5"),
    "vicuna-v15-13b": LanguageModel("llama", "lmsys/vicuna-13b-v1.5"),
    "mistral-v0.1-7b-pure": LanguageModel("mistral", "mistralai/Mistral-7B-v0.1"),
    "mistral-v0.1-7b-instruct": LanguageModel("mistral", "mistralai/Mistral-7B-Instruct-v0.1"),
    "phi-2-3b": LanguageModel("phi", "microsoft/phi-2"),
}


def find_vision_towers(backbone_id: str) -> VisionTowers:
    """Return the towers of a vision backbone.

    Raises:
        ValueError: If the name is not known.
    """
    if backbone_id not in VISION_BACKBONES:
        raise ValueError(
            f"Unknown vision backbone {backbone_id!r}. "
            f"Choose one of: {', '.join(VISION_BACKBONES)}."
        )
    return VISION_BACKBONES[backbone_id]


def find_language_model(backbone_id: str) -> LanguageModel:
    """Return the type of a language model.

    Raises:
        ValueError: If the name is not known.
    """
    if backbone_id not in LANGUAGE_MODELS:
        raise ValueError(
            f"Unknown language model {backbone_id!r}. Choose one of: {', '.join(LANGUAGE_MODELS)}."
        )
    return LANGUAGE_MODELS[backbone_id]
