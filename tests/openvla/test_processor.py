import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA, find_checkpoint
from libero_reward_envs.openvla.generation import LONE_SPACE_ID, align_prompts
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt

SHORT, LONG = make_prompt("open it"), make_prompt("put the wine bottle on top of the cabinet")


@pytest.fixture(scope="module")
def processor() -> OpenVLAProcessor:
    return OpenVLAProcessor.from_pretrained(TINY_OPENVLA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny checkpoint's small files, to be changed."""
    for path in find_checkpoint(TINY_OPENVLA).glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def make_images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), np.uint8)


def test_ids_have_the_frame_of_the_training_data(processor: OpenVLAProcessor) -> None:
    (ids,) = processor(SHORT)["input_ids"].tolist()
    assert ids[:10] == [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304]
    assert ids[-5:] == [29973, 13, 3744, 29901, LONE_SPACE_ID]


def test_a_lone_space_that_is_there_is_not_added_again(processor: OpenVLAProcessor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert processor.encode([SHORT + " "]) == processor.encode([SHORT])


def test_rows_are_padded_on_the_right(processor: OpenVLAProcessor) -> None:
    made = processor([SHORT, LONG], make_images(2))
    alone = processor(SHORT)["input_ids"][0]
    length = len(alone)
    assert made["input_ids"].dtype == made["attention_mask"].dtype == torch.int64
    assert torch.equal(made["input_ids"][0, :length], alone)
    assert (made["input_ids"][0, length:] == 32000).all()
    assert made["attention_mask"][0].tolist() == [1] * length + [0] * (
        made["input_ids"].shape[1] - length
    )
    assert made["attention_mask"][1].all()
    assert made["pixel_values"].shape == (2, 6, 112, 112)


def test_generation_takes_the_rows_as_they_are(processor: OpenVLAProcessor) -> None:
    made = processor([SHORT, LONG])
    aligned = align_prompts(made["input_ids"], made["attention_mask"], 1, 32000)
    assert aligned.input_ids.shape == made["input_ids"].shape
    for given, mask, row in zip(
        made["input_ids"], aligned.attention_mask, aligned.input_ids, strict=True
    ):
        assert torch.equal(row[mask], given[given != 32000])


def test_integers_stay_integers_when_moved_to_another_precision(
    processor: OpenVLAProcessor,
) -> None:
    moved = processor(SHORT, make_images(1)).to("cpu", torch.bfloat16)
    assert moved["pixel_values"].dtype == torch.bfloat16
    assert moved["input_ids"].dtype == torch.int64
    direct = processor(SHORT, make_images(1), dtype=torch.bfloat16)
    assert torch.equal(direct["pixel_values"], moved["pixel_values"])


def test_views_of_several_cameras_go_together(processor: OpenVLAProcessor) -> None:
    made = processor([SHORT, LONG], make_images(2), make_images(2))
    assert made["pixel_values"].shape == (2, 12, 112, 112)


def test_without_images_there_are_no_pixel_values(processor: OpenVLAProcessor) -> None:
    assert set(processor(text=[SHORT], images=None)) == {"input_ids", "attention_mask"}


def test_other_numbers_of_images_than_prompts_are_refused(processor: OpenVLAProcessor) -> None:
    with pytest.raises(ValueError, match="3 images and 2 prompts"):
        processor([SHORT, LONG], make_images(3))


@pytest.mark.parametrize(("text", "error"), [([], ValueError), ("", ValueError), ([3], TypeError)])
def test_what_is_no_prompt_is_refused(
    processor: OpenVLAProcessor, text: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"Expected .*prompt"):
        processor(text)


def test_an_instruction_in_place_of_a_prompt_is_warned_of(processor: OpenVLAProcessor) -> None:
    with pytest.warns(UserWarning, match="'open it' is not a prompt.*make_prompt"):
        processor("open it")


def test_a_prompt_of_too_many_tokens_is_refused(processor: OpenVLAProcessor, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"at most 2048 tokens, got \d+.*Shorten"):
        processor(make_prompt("z" * 2048))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 40}))
    with pytest.raises(ValueError, match="at most 40 tokens"):
        OpenVLAProcessor.from_pretrained(folder)(make_prompt("open it " * 20))


def test_special_tokens_may_be_described_as_transformers_does(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    described = {"content": "<PAD>", "lstrip": False, "special": True}
    names = {"pad_token": described, "model_max_length": 1e30, "auto_map": {"AutoProcessor": "x.Y"}}
    path.write_text(json.dumps(names))
    assert OpenVLAProcessor.from_pretrained(folder).tokenizer.pad_token_id == 32000
    path.unlink()
    assert OpenVLAProcessor.from_pretrained(folder).max_length == 2048


def test_a_missing_tokenizer_is_explained(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*tokenizer\.model alone"):
        OpenVLAProcessor.from_pretrained(folder)


def edit_tokenizer(folder: Path, edit: Any) -> None:
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    edit(stored)
    path.write_text(json.dumps(stored), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda stored: stored.update(post_processor=None), "beginning of text"),
        (lambda stored: stored["model"].update(byte_fallback=False), "to be known|survive"),
        (lambda stored: stored.update(normalizer={"type": "Lowercase"}), "survive|known"),
        (lambda stored: stored.pop("model"), "damaged"),
        (
            lambda stored: stored["model"]["vocab"].update({"\u2581": 29901, ":": LONE_SPACE_ID}),
            "at 29871, got 29901",
        ),
    ],
)
def test_tokenizers_that_are_not_llama_s_are_refused(folder: Path, edit: Any, message: str) -> None:
    edit_tokenizer(folder, edit)
    with pytest.raises(ValueError, match=message):
        OpenVLAProcessor.from_pretrained(folder)


def test_damaged_files_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be used: it is damaged"):
        OpenVLAProcessor.from_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        OpenVLAProcessor.from_pretrained(folder)
