import numpy as np
import pytest
import torch

from libero_reward_envs.openvla.generation import align_prompts, generate_tokens
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

CASES = range(4)
DATASETS = {"tiny_masked": 7, "tiny_nomask5": 5}


@pytest.mark.parametrize("key", DATASETS)
@pytest.mark.parametrize("case", CASES)
def test_generation_matches_the_original(model, recorded, recorded_inputs, case, key) -> None:
    prefix = f"case{case}_{key}"
    pixels = recorded_inputs["pixel_values"][case : case + 1]
    ids = recorded_inputs[f"case{case}_input_ids"]
    generated = generate_tokens(model, ids, pixels, DATASETS[key], return_scores=True)
    action = model.predict_action(ids, pixels, key)
    np.testing.assert_array_equal(generated.token_ids[0], recorded[f"{prefix}_action_token_ids"])
    assert generated.scores is not None
    scores = generated.scores[0].numpy()
    np.testing.assert_allclose(
        scores[:, recorded["stored_columns"]], recorded[f"{prefix}_scores_cols"], atol=1e-5
    )
    assert action.dtype == np.float64
    np.testing.assert_array_equal(action[0], recorded[f"{prefix}_action"])


def _batch(inputs, padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [inputs[f"case{case}_input_ids"][0] for case in CASES]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), 32000)
    for row, text in zip(ids, rows, strict=True):
        row[slice(width - len(text), None) if padding == "left" else slice(len(text))] = text
    return ids, (ids != 32000).long()


@pytest.mark.parametrize("give_mask", [True, False])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_batch_gives_what_each_row_gives_alone(
    model, recorded, recorded_inputs, padding, give_mask
) -> None:
    ids, mask = _batch(recorded_inputs, padding)
    pixels = recorded_inputs["pixel_values"]
    mask = mask if give_mask else None
    generated = generate_tokens(model, ids, pixels, 7, attention_mask=mask, return_scores=True)
    actions = model.predict_action(ids, pixels, "tiny_masked", mask)
    for case in CASES:
        prefix = f"case{case}_tiny_masked"
        np.testing.assert_array_equal(
            generated.token_ids[case], recorded[f"{prefix}_action_token_ids"]
        )
        np.testing.assert_array_equal(actions[case], recorded[f"{prefix}_action"])
        assert generated.scores is not None
        scores = generated.scores[case].numpy()[:, recorded["stored_columns"]]
        np.testing.assert_allclose(scores, recorded[f"{prefix}_scores_cols"], atol=1e-5)


def test_eager_attention_gives_the_same(recorded_folder, recorded, recorded_inputs) -> None:
    eager = OpenVLAForActionPrediction.from_pretrained(
        recorded_folder, dtype="float32", attn_implementation="eager"
    )
    assert eager.language_model.config._attn_implementation == "eager"
    ids, mask = _batch(recorded_inputs, "right")
    actions = eager.predict_action(ids, recorded_inputs["pixel_values"], "tiny_masked", mask)
    for case in CASES:
        np.testing.assert_array_equal(actions[case], recorded[f"case{case}_tiny_masked_action"])
        alone = eager.predict_action(  # the original raises here, where 29871 is appended
            recorded_inputs[f"case{case}_input_ids"],
            recorded_inputs["pixel_values"][case : case + 1],
            "tiny_masked",
            recorded_inputs[f"case{case}_attention_mask"],
        )
        np.testing.assert_array_equal(alone[0], actions[case])


def test_cached_steps_give_what_the_whole_sequence_gives(small_model) -> None:
    draw = torch.Generator().manual_seed(1)
    ids = torch.cat([torch.tensor([[1]]), torch.randint(3, 31000, (1, 9), generator=draw)], dim=1)
    pixels = torch.randn(1, 12, 28, 28, generator=draw)
    generated = generate_tokens(small_model, ids, pixels, 4, return_scores=True)
    whole = torch.cat([ids, torch.tensor([[29871]]), generated.token_ids], dim=1)
    with torch.inference_mode():
        logits = small_model(whole, None, pixels).logits[:, -5:-1]
    assert generated.scores is not None
    torch.testing.assert_close(generated.scores, logits, atol=1e-5, rtol=1e-5)


def test_rows_of_different_length_do_not_touch_each_other(small_model) -> None:
    draw = torch.Generator().manual_seed(2)
    rows = [[1, *torch.randint(3, 29000, (n,), generator=draw).tolist()] for n in (4, 9, 6)]
    ids = torch.tensor([row + [32000] * (10 - len(row)) for row in rows])
    pixels = torch.randn(3, 6, 28, 28, generator=draw)
    together = generate_tokens(small_model, ids, pixels, 5, return_scores=True)
    assert together.scores is not None
    for index, row in enumerate(rows):
        image = pixels[index : index + 1]
        alone = generate_tokens(small_model, torch.tensor([row]), image, 5, return_scores=True)
        assert torch.equal(alone.token_ids[0], together.token_ids[index])
        assert alone.scores is not None
        torch.testing.assert_close(alone.scores[0], together.scores[index], atol=1e-5, rtol=1e-5)


def test_prompts_are_aligned_behind_the_beginning_of_text() -> None:
    ids = torch.tensor([[1, 5, 6, 7], [32000, 1, 5, 29871], [1, 9, 32000, 32000]])
    prompts = align_prompts(ids, None, 1, 32000)
    assert prompts.input_ids.tolist() == [
        [1, 5, 6, 7, 29871],
        [1, 32000, 32000, 5, 29871],
        [1, 32000, 32000, 9, 29871],
    ]
    assert prompts.attention_mask.sum(dim=1).tolist() == [5, 3, 3]
    assert prompts.attention_mask[:, 0].all()


def test_prompts_without_their_beginning_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 1 to begin with .* \(1\).*got ids \[5, 6\]"):
        align_prompts(torch.tensor([[1, 5], [5, 6]]), None, 1, 32000)
    with pytest.raises(ValueError, match="prompt 0"):
        align_prompts(torch.tensor([[1, 32000]]), None, 1, 32000)
    with pytest.raises(ValueError, match=r"one shape \(n, L\)"):
        align_prompts(torch.tensor([[1, 5]]), torch.ones(1, 3), 1, 32000)
    with pytest.raises(TypeError, match="integers"):
        align_prompts(torch.tensor([[1.0, 5.0]]), None, 1, 32000)


def test_generating_without_a_cache_is_an_error(small_model, monkeypatch) -> None:
    forward = small_model.language_model.forward
    monkeypatch.setattr(
        small_model.language_model,
        "forward",
        lambda **keywords: forward(**{**keywords, "past_key_values": None}),
    )
    with pytest.raises(RuntimeError, match="Expected a cache of 7 positions, got 0"):
        generate_tokens(small_model, torch.tensor([[1, 5, 29871]]), torch.zeros(1, 6, 28, 28), 2)
