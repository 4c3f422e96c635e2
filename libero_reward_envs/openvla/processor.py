"""From prompts and pictures to what the model takes."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast

from libero_reward_envs.openvla.checkpoint_files import find_checkpoint
from libero_reward_envs.openvla.generation import LONE_SPACE_ID
from libero_reward_envs.openvla.image_processor import Images, OpenVLAImageProcessor
from libero_reward_envs.openvla.prompt import is_prompt, make_prompt

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

# Names of Llama 2's special tokens and of the one that OpenVLA adds for padding.
_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<PAD>",
}
_LONE_SPACE = "\u2581"
_MAX_LENGTH = 2048
_PROBE = make_prompt("pick up the bowl")


class OpenVLAProcessor:
    """Tokenizes prompts and prepares their images.

    Each row of ids is: beginning of text, the prompt, the lone space (29871) that in training
    stands before the first action token; shorter rows are padded on the right, as in training.
    `predict_action` and `generate_tokens` take them as they are, with the mask.

    Args:
        tokenizer: A tokenizer laid out as Llama 2's.
        image_processor: What prepares the images.
        max_length: Most tokens of a prompt.

    Raises:
        ValueError: If the tokenizer lacks the lone space at its place, does not put the beginning
            of text before a prompt, or loses parts of it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_processor: OpenVLAImageProcessor,
        *,
        max_length: int = _MAX_LENGTH,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.max_length = max_length
        self._check_tokenizer()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "OpenVLAProcessor":
        """Read `tokenizer.json` and `preprocessor_config.json` of a checkpoint; no code is run.

        Args:
            name_or_path: Folder, Hub id, or the name of the tiny model.
            options: As of `checkpoint_files.find_checkpoint`.

        Raises:
            FileNotFoundError: If there is no such checkpoint, or a file is missing.
            ValueError: If a file is damaged or not of the kind that OpenVLA has.
        """
        folder = find_checkpoint(name_or_path, weights=False, **options)
        image_processor = OpenVLAImageProcessor.from_pretrained(folder)
        stored = _read_tokenizer_config(folder)
        try:
            return cls(_load_tokenizer(folder, stored), image_processor, max_length=_limit(stored))
        except ValueError as error:
            raise ValueError(f"{folder / TOKENIZER_FILE} cannot be used: {error}") from error

    def __call__(
        self,
        text: str | Sequence[str],
        images: Images | None = None,
        *other_views: Images,
        dtype: torch.dtype = torch.float32,
    ) -> BatchFeature:
        """Return the model's arguments, as the original processor names them.

        Args:
            text: n prompts, see `make_prompt`.
            images: Their images, n of one camera, see `OpenVLAImageProcessor`; None for no images.
            other_views: Those of further cameras.
            dtype: Of `pixel_values`.

        Returns:
            A dict, whose `to(device, dtype)` leaves integers integers: `input_ids` (n, L) int64,
            `attention_mask` (n, L) int64, 0 for padding, and, with images, `pixel_values`
            (n, 3 * towers * views, H, W).

        Raises:
            TypeError: If `text` is no text.
            ValueError: If there is no prompt, one is empty or too long, or there are not as many
                images.
        """
        rows = self.encode([text] if isinstance(text, str) else text)
        width = max(map(len, rows))
        input_ids = np.full((len(rows), width), self.tokenizer.pad_token_id, np.int64)
        attention_mask = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        features = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
        }
        if images is not None:
            pixel_values = self.image_processor(images, *other_views, dtype=dtype)
            if len(pixel_values) != len(rows):
                raise ValueError(
                    f"Expected one image a prompt, got {len(pixel_values)} images and {len(rows)} "
                    "prompts."
                )
            features["pixel_values"] = pixel_values
        return BatchFeature(features)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each prompt, the lone space behind it, without padding.

        Args:
            prompts: See `make_prompt`; a warning says if one is not of its form.

        Raises:
            TypeError: If a prompt is no text.
            ValueError: If there is none, or one is empty or too long.
        """
        prompts = list(prompts)
        for prompt in prompts:
            _check_prompt(prompt)
        if not prompts:
            raise ValueError("Expected at least one prompt, got none.")
        rows = self.tokenizer(prompts, add_special_tokens=True)["input_ids"]
        rows = [row if row[-1] == LONE_SPACE_ID else [*row, LONE_SPACE_ID] for row in rows]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > self.max_length:
                raise ValueError(
                    f"Expected a prompt of at most {self.max_length} tokens, got {len(row)}; it "
                    f"begins with {prompt[:60]!r}. Shorten the instruction."
                )
        return rows

    def _check_tokenizer(self) -> None:
        found = self.tokenizer.convert_tokens_to_ids(_LONE_SPACE)
        if found != LONE_SPACE_ID:
            raise ValueError(f"expected the piece {_LONE_SPACE!r} at {LONE_SPACE_ID}, got {found}.")
        (row,) = self.encode([_PROBE])
        begins = [index for index, token in enumerate(row) if token == self.tokenizer.bos_token_id]
        if begins != [0]:
            raise ValueError(
                f"expected prompts to begin with the beginning of text "
                f"({self.tokenizer.bos_token_id}), once, got ids {row[:4]}."
            )
        if self.tokenizer.unk_token_id in row:
            raise ValueError(f"expected all of {_PROBE!r} to be known, got ids {row}.")
        decoded = str(self.tokenizer.decode(row[1:-1])).strip()
        if decoded != _PROBE:
            raise ValueError(f"expected prompts to survive, {_PROBE!r} became {decoded!r}.")


def _check_prompt(prompt: str) -> None:
    if not isinstance(prompt, str):
        raise TypeError(f"Expected prompts as text, got {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError(f"Expected a prompt of `make_prompt`, got {prompt!r}.")
    if not is_prompt(prompt):
        warnings.warn(
            f"{prompt[:60]!r} is not a prompt that OpenVLA was trained on. Make one of an "
            "instruction by `make_prompt`.",
            stacklevel=4,
        )


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return stored if isinstance(stored, dict) else {}


def _load_tokenizer(folder: Path, stored: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {TOKENIZER_FILE} in {str(folder)!r}, found none. Copy it from the "
            "checkpoint that this one was made of; tokenizer.model alone is not enough."
        )
    names = {}
    for name, default in _SPECIAL_TOKENS.items():
        value = stored.get(name) or default
        names[name] = str(value.get("content", default) if isinstance(value, dict) else value)
    try:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(path), clean_up_tokenization_spaces=False, **names
        )
    except Exception as error:  # the Rust library raises Exception itself for damaged files
        raise ValueError(f"it is damaged ({error})") from error


def _limit(stored: Mapping[str, Any]) -> int:
    """Return the most tokens of a prompt; a file without a limit says 1e30."""
    length = stored.get("model_max_length", _MAX_LENGTH)
    return min(int(length), _MAX_LENGTH) if isinstance(length, int | float) else _MAX_LENGTH
