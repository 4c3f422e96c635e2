import pytest
import torch

from libero_reward_envs.openvla.guard import check_sees_inputs
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction


def test_a_model_that_sees_passes(small_model) -> None:
    for n_views in (1, 2):
        seen = check_sees_inputs(small_model, n_views=n_views)
        assert min(seen.image) > 0.01
        assert min(seen.instruction) > 0.01


def _text_only(model, ids, pixels, *, n_tokens_to_come=0):
    """What the original does on transformers 4.50 and later: an empty cache counts as a filled one,
    so that the vision branch is skipped and only the last token is read."""
    return model.get_input_embeddings()(ids[:, -1:])


def _no_image(model, ids, pixels, *, n_tokens_to_come=0):
    return _embed(model, ids, torch.zeros_like(pixels))


def _no_instruction(model, ids, pixels, *, n_tokens_to_come=0):
    return _embed(model, torch.ones_like(ids), pixels)


def _one_view(model, ids, pixels, *, n_tokens_to_come=0):
    return _embed(model, ids, pixels[:, :6].repeat(1, 2, 1, 1))


_embed = OpenVLAForActionPrediction.embed_inputs


@pytest.mark.parametrize(
    ("blind", "n_views", "what"),
    [
        (_text_only, 1, "images"),
        (_no_image, 1, "images"),
        (_no_instruction, 1, "instructions"),
        (_one_view, 2, "images"),
    ],
)
def test_a_blinded_model_is_caught(small_folder, monkeypatch, blind, n_views, what) -> None:
    model = OpenVLAForActionPrediction.from_pretrained(small_folder, check=False)
    monkeypatch.setattr(OpenVLAForActionPrediction, "embed_inputs", blind)
    if blind is _text_only:
        monkeypatch.setattr(
            OpenVLAForActionPrediction, "extend_mask", staticmethod(lambda mask, n: mask[:, -n:])
        )
    with pytest.raises(RuntimeError, match=f"does not see its {what}"):
        check_sees_inputs(model, n_views=n_views)


def test_loading_a_blinded_model_is_an_error(small_folder, monkeypatch) -> None:
    monkeypatch.setattr(OpenVLAForActionPrediction, "embed_inputs", _no_image)
    with pytest.raises(RuntimeError, match=r"does not see its images.*versions of"):
        OpenVLAForActionPrediction.from_pretrained(small_folder)


def test_damaged_weights_are_caught(small_folder) -> None:
    model = OpenVLAForActionPrediction.from_pretrained(small_folder, check=False)
    with torch.no_grad():
        model.projector.fc1.weight[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="finite logits, got NaN"):
        check_sees_inputs(model)
