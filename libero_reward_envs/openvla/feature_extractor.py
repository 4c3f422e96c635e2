"""Features of images and instructions from an OpenVLA checkpoint, without its language model.

Of the published checkpoint's 15 GB it reads 1.7: the parts of the two vision towers that features
depend on, and the table of token embeddings. Of the Hub only the shards that hold them are
downloaded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from libero_reward_envs.openvla.checkpoint_files import (
    StoredTensor,
    check_shapes,
    find_checkpoint,
    list_tensors,
    read_tensors,
)
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.guard import check_features_differ
from libero_reward_envs.openvla.loading import find_dtype, read_config
from libero_reward_envs.openvla.memory import check_room, estimate_extractor_memory
from libero_reward_envs.openvla.processor import TOKENIZER_FILE, OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt
from libero_reward_envs.openvla.vision import VisionBackbone

_PREFIX = "vision_backbone."
EMBEDDING_NAME = "language_model.model.embed_tokens.weight"
# What of the configuration features depend on.
_CONFIG_FIELDS = ("timm_model_ids", "timm_model_kwargs", "timm_override_act_layers", "image_sizes")


class OpenVLAFeatureExtractor:
    """Vision features before the projector, and embeddings of the prompt's tokens.

    Use `from_pretrained`. All sizes come from the checkpoint.

    Args:
        config: The checkpoint's.
        vision_backbone: The towers, on the device.
        embeddings: The table of token embeddings, on the same device.
        processor: Makes prompts and images into what the model reads.
        prompt_version: The form of the prompt, see `make_prompt`.
        tensors_read: Names of the tensors that were read from the checkpoint.
        fingerprint: See the attribute.

    Attributes:
        vision_dim: Numbers a patch: the towers' widths together.
        language_dim: Numbers a token embedding.
        n_patches: Patches a view.
        image_size: Side of the square images that the towers see, in pixels.
        tensors_read: Names of the tensors that were read, nothing else was.
        fingerprint: SHA-256, 64 hex digits, over all that features depend on: tensors,
            configuration, preprocessing, tokenizer and precision; not the folder or the sharding.
    """

    def __init__(
        self,
        config: OpenVLAConfig,
        vision_backbone: VisionBackbone,
        embeddings: nn.Embedding,
        processor: OpenVLAProcessor,
        *,
        prompt_version: str,
        tensors_read: Sequence[str],
        fingerprint: str,
    ) -> None:
        self.config = config
        self.processor = processor
        self.prompt_version = prompt_version
        self.vision_dim = vision_backbone.feature_dim
        self.language_dim = embeddings.embedding_dim
        self.n_patches = vision_backbone.n_patches
        self.image_size = vision_backbone.image_size
        self.tensors_read = tuple(tensors_read)
        self.fingerprint = fingerprint
        self.vision_backbone = vision_backbone.eval().requires_grad_(False)
        self._embeddings = embeddings.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        prompt_version: str = "v02",
        revision: str | None = None,
        local_files_only: bool = False,
        n_rows: int = 8,
        n_views: int = 1,
        check: bool = True,
    ) -> "OpenVLAFeatureExtractor":
        """Read the towers and the embedding table of a checkpoint; its other shards may be absent.

        Args:
            name_or_path: A folder, a Hub id, or `checkpoint_files.TINY_OPENVLA`.
            device: Where to compute.
            dtype: Precision of weights and computing; if None float32 on a CPU, else the
                checkpoint's own.
            prompt_version: The form of the prompt, "v02" or "v01".
            revision: Branch, tag or commit on the Hub.
            local_files_only: Do not go to the network.
            n_rows: Moments a batch, for the estimate of memory.
            n_views: Cameras, for the estimate of memory.
            check: Whether to check that different images and instructions give different features.

        Raises:
            FileNotFoundError: If there is no checkpoint, or a shard with these tensors is missing.
            MemoryError: If the device has no room.
            ValueError: If a file is damaged, or a tensor missing or of another shape.
            RuntimeError: If inputs make no difference.
        """
        device = torch.device(device)
        folder = find_checkpoint(
            name_or_path, wanted=_may_be_read, revision=revision, local_files_only=local_files_only
        )
        config = read_config(folder)
        precision = find_extractor_dtype(dtype, config, device)
        vision, embeddings, expected = make_meta_parts(config)
        tensors = list_tensors(folder, expected.__contains__)
        check_shapes(tensors, expected, folder)
        check_room(estimate_extractor_memory(expected, precision, n_rows, n_views), device)
        processor = OpenVLAProcessor.from_pretrained(folder)
        values, digests = _read(tensors, device, precision)
        embeddings.load_state_dict({"weight": values.pop(EMBEDDING_NAME)}, assign=True)
        vision.load_state_dict(
            {name.removeprefix(_PREFIX): value for name, value in values.items()}, assign=True
        )
        extractor = cls(
            config,
            vision,
            embeddings,
            processor,
            prompt_version=prompt_version,
            tensors_read=sorted(tensors),
            fingerprint=_hash(
                digests, config, processor, folder / TOKENIZER_FILE, prompt_version, precision
            ),
        )
        if check:
            check_features_differ(extractor)
        return extractor

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return self._embeddings.weight.dtype

    def to(self, device: str | torch.device) -> "OpenVLAFeatureExtractor":
        """Move it to another device, and return it."""
        self.vision_backbone.to(device)
        self._embeddings.to(device)
        return self

    def extract_vision(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Return patch features of n moments' views.

        Args:
            images: One array (n, H, W, 3) uint8 for each camera, in the order and orientation in
                which the checkpoint saw them in training.

        Returns:
            Features, (n, cameras * patches, vision_dim), on the device, in its precision.

        Raises:
            ValueError: If the images are not uint8, there is no camera, or the shapes do not fit.
        """
        return self.extract_vision_resized(self.resize_images(images))

    def resize_images(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Do the part of `extract_vision` that runs on the CPU, in another thread if wished.

        Args:
            images: See `extract_vision`.

        Returns:
            For each camera what `extract_vision_resized` takes.

        Raises:
            ValueError: See `extract_vision`.
        """
        if len({len(view) for view in images}) != 1:
            raise ValueError(
                "Expected one array (n, H, W, 3) for each camera, with one n, got shapes "
                f"{[np.shape(view) for view in images]}."
            )
        return [self.processor.image_processor.resize(view) for view in images]

    @torch.no_grad()
    def extract_vision_resized(self, resized: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
        """Do the rest of `extract_vision`, on the device.

        Args:
            resized: What `resize_images` returned, or tensors of it, which may be pinned.

        Returns:
            See `extract_vision`.
        """
        normalize = self.processor.image_processor.normalize
        views = [normalize(view, device=self.device, dtype=self.dtype) for view in resized]
        return self.vision_backbone(torch.cat(views, dim=1))

    @torch.no_grad()
    def extract_language(self, instructions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of the tokens of prompts.

        Args:
            instructions: What to do, n in number, such as "pick up the bowl".

        Returns:
            Embeddings, (n, L, language_dim), on the device, in its precision, 0 where a prompt is
            shorter than the longest; and which are tokens, (n, L) bool.

        Raises:
            ValueError: If an instruction is empty or too long.
        """
        prompts = [make_prompt(text, self.prompt_version) for text in instructions]
        tokens = self.processor(prompts)
        mask = tokens["attention_mask"].to(self.device).bool()
        return self._embeddings(tokens["input_ids"].to(self.device)) * mask[..., None].to(
            self.dtype
        ), mask


def make_meta_parts(
    config: OpenVLAConfig,
) -> tuple[VisionBackbone, nn.Embedding, dict[str, torch.Tensor]]:
    """Return the towers, the embeddings and all their tensors by name, without memory for them."""
    with torch.device("meta"):
        vision = VisionBackbone(config, used_parts_only=True)
        embeddings = nn.Embedding(config.text_config.vocab_size, config.text_config.hidden_size)
    expected = {_PREFIX + name: value for name, value in vision.state_dict().items()}
    return vision, embeddings, {**expected, EMBEDDING_NAME: embeddings.weight}


def find_extractor_dtype(
    dtype: str | torch.dtype | None, config: OpenVLAConfig, device: torch.device
) -> torch.dtype:
    """Return a precision by name; if None float32 on a CPU, else the checkpoint's own.

    Raises:
        ValueError: If it is not known.
    """
    default = "float32" if device.type == "cpu" else None
    return find_dtype(default if dtype is None else dtype, config)


def _may_be_read(name: str) -> bool:
    """Return whether features can depend on a tensor; which ones do follows from config.json."""
    return name.startswith(_PREFIX) or name == EMBEDDING_NAME


def _read(
    tensors: Mapping[str, StoredTensor], device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors, and the hash of each as it is stored."""
    values, digests = {}, {}
    for name, value in read_tensors(tensors):
        digest = hashlib.sha256(f"{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
        digests[name] = digest.hexdigest()
        values[name] = value.to(device, dtype)
    return values, digests


def _hash(
    digests: Mapping[str, str],
    config: OpenVLAConfig,
    processor: OpenVLAProcessor,
    tokenizer_file: Path,
    prompt_version: str,
    dtype: torch.dtype,
) -> str:
    """Return the hash over all that features depend on."""
    parts = [
        sorted(digests.items()),
        {name: getattr(config, name, None) for name in _CONFIG_FIELDS},
        processor.image_processor.as_json(),
        hashlib.sha256(tokenizer_file.read_bytes()).hexdigest(),
        prompt_version,
        str(dtype),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
