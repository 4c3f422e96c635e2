"""Pictures, an instruction and an action as one row of OpenVLA's training batches."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libero_reward_envs.openvla.action_normalization import ActionStatistics, normalize
from libero_reward_envs.openvla.action_tokenizer import ActionTokenizer
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.image_augmentation import ImageAugmentation
from libero_reward_envs.openvla.modeling import IGNORED_LABEL
from libero_reward_envs.openvla.policy_images import crop_center, prepare_policy_images
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt

Batch = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """Makes the rows that OpenVLA is trained on: prompt, lone space, action tokens, end of text.

    Pictures go through the path of the released checkpoints: turned to "vla180", through a JPEG
    file, resized by Lanczos, changed at random or cut to their middle, and normalised for each
    tower. The loss covers the action tokens and the end of text (Kim et al. 2024, "OpenVLA").

    Args:
        processor: The checkpoint's.
        tokenizer: The checkpoint's bins.
        statistics: What normalises the actions.
        augmentation: How pictures are changed in training; None for not at all.
        jpeg: Whether pictures go through a JPEG file first, as those of the released data did.
        max_length: Most tokens of a row, without the patches.
        prompt_version: See `make_prompt`.
        normalization: See `NORMALIZATIONS`.
    """

    processor: OpenVLAProcessor
    tokenizer: ActionTokenizer
    statistics: ActionStatistics
    augmentation: ImageAugmentation | None = None
    jpeg: bool = True
    max_length: int = 2048
    prompt_version: str = "v02"
    normalization: str = "q99"

    @classmethod
    def make(
        cls,
        config: OpenVLAConfig,
        processor: OpenVLAProcessor,
        statistics: ActionStatistics,
        **options: Any,
    ) -> "RowEncoder":
        """Make one with the bins of a checkpoint's configuration; `options` are further fields."""
        tokenizer = ActionTokenizer(config.n_text_rows, config.n_action_bins)
        return cls(processor, tokenizer, statistics, **options)

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        return self.statistics.mean.size

    def prepare_images(
        self,
        images: np.ndarray,
        orientation: str,
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> np.ndarray:
        """Return pictures of one camera as the towers' resizer takes them, (n, h, w, 3) uint8.

        Args:
            images: Shape (n, H, W, 3), uint8.
            orientation: How they are turned.
            rngs: One a picture, to change them at random; None for their middle, which is what a
                policy sees that was trained on random crops.
        """
        prepared = prepare_policy_images(
            images,
            orientation=orientation,
            jpeg=self.jpeg,
            size=self.processor.image_processor.size,
            crop_area=None,
        )
        if self.augmentation is None:
            return prepared
        if rngs is None:
            return crop_center(prepared, self.augmentation.crop_area)
        changed = [
            self.augmentation(prepared[i : i + 1], rng) for i, rng in enumerate(rngs)
        ]  # picture by picture, so that none depends on the others of its batch
        return np.concatenate(changed)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return the token ids of physical actions in OpenVLA's convention, (..., a) int64."""
        return self.tokenizer.encode(normalize(actions, self.statistics, self.normalization))

    def encode(
        self, views: Sequence[np.ndarray], instructions: Sequence[str], actions: np.ndarray
    ) -> Batch:
        """Return a batch of n rows.

        Args:
            views: Of each camera what `prepare_images` returned.
            instructions: n of them.
            actions: Shape (n, a), physical, in OpenVLA's convention.

        Returns:
            `input_ids`, `labels` (n, L) int64, `attention_mask` (n, L) bool, padded on the right,
            labels -100 but for the action tokens and the end of text; `pixel_values`
            (n, 3 * towers * cameras, h, w) float32.

        Raises:
            ValueError: If a row is longer than `max_length`.
        """
        tokenizer: Any = self.processor.tokenizer  # the types of its ids are vague
        prompts = self.processor.encode(
            [make_prompt(text, self.prompt_version) for text in instructions]
        )
        answers = self.encode_actions(actions)
        rows = [
            [*prompt, *answer.tolist(), int(tokenizer.eos_token_id)]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        width, n_labels = max(map(len, rows)), self.action_dim + 1
        if width > self.max_length:
            raise ValueError(
                f"Expected rows of at most {self.max_length} tokens (`max_length`), got {width}. "
                "Raise it, or shorten the instructions."
            )
        input_ids = np.full((len(rows), width), tokenizer.pad_token_id, np.int64)
        labels = np.full((len(rows), width), IGNORED_LABEL, np.int64)
        mask = np.zeros((len(rows), width), bool)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            labels[index, len(row) - n_labels : len(row)] = row[-n_labels:]
            mask[index, : len(row)] = True
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
            "pixel_values": self.processor.image_processor(*views),
        }

    def encode_raw(
        self,
        batch: Mapping[str, Any],
        *,
        orientation: str = "vla180",
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> Batch:
        """Return the batch for one of plain pictures, actions and instructions.

        Args:
            batch: `image` (C, H, W) or (n, C, H, W), uint8 or floats in [0, 1], several cameras'
                channels behind each other; `action` (a,) or (n, a) as of `encode`; `raw_lang`, one
                instruction or n.
            orientation: How the pictures are turned.
            rngs: As of `prepare_images`.

        Raises:
            ValueError: If something is missing, or the shapes do not fit.
        """
        missing = {"image", "action", "raw_lang"} - batch.keys()
        if missing:
            raise ValueError(f"Expected image, action and raw_lang, got no {sorted(missing)}.")
        images, actions = torch.as_tensor(batch["image"]), torch.as_tensor(batch["action"])
        texts = [batch["raw_lang"]] if isinstance(batch["raw_lang"], str) else batch["raw_lang"]
        images = images[None] if images.ndim == 3 else images
        actions = actions[None] if actions.ndim == 1 else actions
        n, n_channels = len(texts), images.shape[1] if images.ndim == 4 else 0
        if len(images) != n or tuple(actions.shape) != (n, self.action_dim) or n_channels % 3:
            raise ValueError(
                f"Expected `image` ({n}, 3 * cameras, H, W) and `action` ({n}, {self.action_dim}) "
                f"for {n} instructions, got {tuple(images.shape)} and {tuple(actions.shape)}."
            )
        if images.is_floating_point():
            images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        pixels = images.movedim(1, -1).cpu().numpy()
        views = [
            self.prepare_images(
                np.ascontiguousarray(pixels[..., start : start + 3]), orientation, rngs
            )
            for start in range(0, n_channels, 3)
        ]
        return self.encode(views, texts, actions.cpu().numpy())
