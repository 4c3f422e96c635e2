"""OpenVLA's vision patches and token embeddings as features of observations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libero_reward_envs.data.orientations import ORIENTATIONS, turn_images
from libero_reward_envs.encoders.base import INSTRUCTION_KEY, compute_fingerprint
from libero_reward_envs.encoders.feature_chunks import FEATURE_DTYPES, round_features
from libero_reward_envs.openvla.feature_extractor import OpenVLAFeatureExtractor

POOLS = ("mean", "none")
_SEEN_ORIENTATION = "vla180"  # how the pictures lay that OpenVLA was trained on for LIBERO
_KEPT_INSTRUCTIONS = 256


class OpenVLAVisionEncoder:
    """Patch features of one or several cameras, from before OpenVLA's projector.

    OpenVLA saw LIBERO's pictures turned by 180 degrees from how they come out of OpenGL: upright
    but mirrored. Images are turned so whatever their orientation.

    With pool="mean" a row is (cameras * d,), each camera's mean over its patches, in float32; with
    "none" (cameras * patches, d), camera after camera; `OpenVLARewardNet` then averages over all.

    Args:
        extractor: The towers, on their device.
        image_keys: The images to read, (n, H, W, 3) uint8, one of each camera.
        pool: "mean" or "none".
        orientation: How the images are turned, see `turn_images`.
        stored_dtype: "float16" or "bfloat16": features are rounded to what a cache keeps them in,
            so that they are the same computed and read.
        key: The observation it adds.

    Raises:
        ValueError: If there is no image key, or an argument is not one of those named.
    """

    def __init__(
        self,
        extractor: OpenVLAFeatureExtractor,
        *,
        image_keys: Sequence[str],
        pool: str = "mean",
        orientation: str = "upright",
        stored_dtype: str = "float16",
        key: str = "openvla/vision",
    ) -> None:
        _check_choices(pool, stored_dtype)
        if isinstance(image_keys, str) or not image_keys or len({*image_keys}) < len(image_keys):
            raise ValueError(
                f"`image_keys` must be a list of different observations, got {image_keys!r}."
            )
        if orientation not in ORIENTATIONS:
            known = ", ".join(ORIENTATIONS)
            raise ValueError(f"Unknown orientation {orientation!r}. Choose one of: {known}.")
        self._extractor = extractor
        self.key, self.pool, self.orientation = key, pool, orientation
        self.stored_dtype = stored_dtype
        # The tiny checkpoint that is made on the spot says so itself, under whatever name.
        self.has_random_weights = getattr(extractor.config, "random_weights_seed", None) is not None
        self.observation_keys = tuple(image_keys)
        n_views, n_patches, d = len(image_keys), extractor.n_patches, extractor.vision_dim
        self.shape: tuple[int, ...] = (n_views * d,)
        if pool == "none":
            self.shape = (n_views * n_patches, d)
        self.settings: dict[str, Any] = {
            "checkpoint_fingerprint": extractor.fingerprint,
            "precision": str(extractor.dtype).removeprefix("torch."),
            "features": "vision patches before the projector",
            "image_size": extractor.image_size,
            "orientation": orientation,
            "seen_orientation": _SEEN_ORIENTATION,
            "pool": pool,
            "stored_dtype": stored_dtype,
        }
        self.fingerprint = compute_fingerprint(self.settings)

    def encode(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features, (n, *shape) float32, of images by key, (n, H, W, 3) uint8 each.

        Raises:
            MemoryError: If the device has no room for so many at once.
            ValueError: If an image is of another shape or type.
        """
        return self.encode_prepared(self.prepare(observations))

    def prepare(self, observations: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return what the towers see of each camera, turned and resized, as bytes."""
        processor = self._extractor.processor.image_processor
        return [
            processor.resize(turn_images(observations[key], self.orientation, _SEEN_ORIENTATION))
            for key in self.observation_keys
        ]

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features of what was prepared."""
        extractor = self._extractor
        processor, device = extractor.processor.image_processor, extractor.device
        try:
            views = [
                processor.normalize(view, device=device, dtype=extractor.dtype) for view in prepared
            ]
            features = extractor.vision_backbone(torch.cat(views, dim=1)).float()
            if self.pool == "mean":
                by_view = features.unflatten(1, (len(views), -1))
                features = by_view.mean(dim=2).flatten(1)
            return round_features(features, self.stored_dtype).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"No room on {device} for {len(prepared[0])} rows of {len(prepared)} images at "
                "once. Give fewer (a lower batch size, fewer envs), or load the checkpoint in "
                "bfloat16."
            ) from error


class OpenVLALanguageEncoder:
    """Token embeddings of the prompt that OpenVLA makes of an instruction.

    With pool="mean" a row is (d,), the mean over the prompt's tokens, in float32; with "none"
    (n_tokens, d), zeros after the last token. One instruction is computed once.

    Args:
        extractor: The table of embeddings, and the tokenizer.
        pool: "mean" or "none".
        task_description: The instruction for all rows; None for that of the env or episode.
        n_tokens: The length to fill up to, for pool="none".
        stored_dtype: See `OpenVLAVisionEncoder`.
        key: The observation it adds.

    Raises:
        ValueError: If an argument is not one of those named, or `task_description` is too long.
    """

    observation_keys = (INSTRUCTION_KEY,)

    def __init__(
        self,
        extractor: OpenVLAFeatureExtractor,
        *,
        pool: str = "mean",
        task_description: str | None = None,
        n_tokens: int = 64,
        stored_dtype: str = "float16",
        key: str = "openvla/language",
    ) -> None:
        _check_choices(pool, stored_dtype)
        if n_tokens < 1:
            raise ValueError(f"`n_tokens` must be at least 1, got {n_tokens}.")
        self._extractor = extractor
        self.key, self.pool, self.task_description = key, pool, task_description
        self.stored_dtype = stored_dtype
        d = extractor.language_dim
        self.shape: tuple[int, ...] = (d,) if pool == "mean" else (n_tokens, d)
        self.settings: dict[str, Any] = {
            "checkpoint_fingerprint": extractor.fingerprint,
            "precision": str(extractor.dtype).removeprefix("torch."),
            "features": "token embeddings of the prompt",
            "task_description": task_description,
            "pool": pool,
            "n_tokens": None if pool == "mean" else n_tokens,
            "stored_dtype": stored_dtype,
        }
        self.fingerprint = compute_fingerprint(self.settings)
        self._known: dict[str, np.ndarray] = {}
        if task_description is not None:
            self._embed(task_description)

    def encode(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features, (n, *shape) float32, of instructions, (n,) of str.

        Raises:
            ValueError: If an instruction is empty or too long.
        """
        texts = observations[INSTRUCTION_KEY].tolist()
        features = np.empty((len(texts), *self.shape), np.float32)
        for row, text in enumerate(texts):
            features[row] = self._embed(
                text if self.task_description is None else self.task_description
            )
        return features

    def _embed(self, instruction: str) -> np.ndarray:
        if instruction not in self._known:
            if not instruction.strip():
                raise ValueError(
                    f"Expected an instruction for {self.key!r}, got none: neither the env's info "
                    "nor the episode says one. Pass `task_description`."
                )
            while len(self._known) >= _KEPT_INSTRUCTIONS:
                del self._known[next(iter(self._known))]
            self._known[instruction] = self._compute(instruction)
        return self._known[instruction]

    @torch.inference_mode()
    def _compute(self, instruction: str) -> np.ndarray:
        embeddings, mask = self._extractor.extract_language([instruction])
        tokens = embeddings[0][mask[0]].float()
        if self.pool == "mean":
            return round_features(tokens.mean(0), self.stored_dtype).cpu().numpy()
        tokens = round_features(tokens, self.stored_dtype).cpu().numpy()
        filled = np.zeros(self.shape, np.float32)
        if len(tokens) > len(filled):
            raise ValueError(
                f"Expected at most {len(filled)} tokens, got {len(tokens)} of the instruction "
                f"{instruction!r}. Make the encoder with `n_tokens={len(tokens)}` or more."
            )
        filled[: len(tokens)] = tokens
        return filled


def load_openvla_encoders(
    checkpoint: str | Path,
    *,
    image_keys: Sequence[str],
    pool: str = "mean",
    orientation: str = "upright",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    task_description: str | None = None,
    n_tokens: int = 64,
    stored_dtype: str = "float16",
    **options: Any,
) -> tuple[OpenVLAVisionEncoder, OpenVLALanguageEncoder]:
    """Load the parts of an OpenVLA checkpoint that features need, once for both encoders.

    Args:
        checkpoint: A folder, a Hub id, or "tiny-random-openvla".
        image_keys: See `OpenVLAVisionEncoder`.
        pool: "mean" or "none", for both.
        orientation: See `OpenVLAVisionEncoder`.
        device: Where to compute; "auto" for a GPU if there is one.
        dtype: Precision of weights and computing; if None float32 on a CPU, else the checkpoint's.
        task_description: See `OpenVLALanguageEncoder`.
        n_tokens: See `OpenVLALanguageEncoder`.
        stored_dtype: See `OpenVLAVisionEncoder`.
        options: Further arguments of `OpenVLAFeatureExtractor.from_pretrained`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ImportError: If timm is not installed.
        MemoryError: If the device has no room.
        ValueError: If the checkpoint is damaged, or an argument not valid.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = OpenVLAFeatureExtractor.from_pretrained(
        checkpoint, device=device, dtype=dtype, **options
    )
    vision = OpenVLAVisionEncoder(
        extractor,
        image_keys=image_keys,
        pool=pool,
        orientation=orientation,
        stored_dtype=stored_dtype,
    )
    language = OpenVLALanguageEncoder(
        extractor,
        pool=pool,
        task_description=task_description,
        n_tokens=n_tokens,
        stored_dtype=stored_dtype,
    )
    return vision, language


def _check_choices(pool: str, stored_dtype: str) -> None:
    if pool not in POOLS:
        raise ValueError(f"`pool` must be one of {', '.join(POOLS)}, got {pool!r}.")
    if stored_dtype not in FEATURE_DTYPES:
        known = ", ".join(FEATURE_DTYPES)
        raise ValueError(f"`stored_dtype` must be one of {known}, got {stored_dtype!r}.")
