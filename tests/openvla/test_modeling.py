import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction


@pytest.mark.parametrize("case", range(4))
def test_logits_match_the_original(model, recorded, recorded_inputs, case) -> None:
    with torch.inference_mode():
        outputs = model(
            recorded_inputs[f"case{case}_input_ids"],
            recorded_inputs[f"case{case}_attention_mask"],
            recorded_inputs["pixel_values"][case : case + 1],
            output_hidden_states=True,
        )
    logits = outputs.logits[0].numpy()
    expected = {
        "inputs_embeds": outputs.hidden_states[0][0],
        "hidden_last_layer": outputs.hidden_states[-1][0],
        "logits_cols": logits[:, recorded["stored_columns"]],
        "logits_last": logits[-1],
        "logits_argmax": logits.argmax(axis=-1),
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(value, recorded[f"case{case}_{name}"], err_msg=name)


def test_loss_and_gradients_match_the_original(recorded_folder, recorded, recorded_inputs) -> None:
    model = OpenVLAForActionPrediction.from_pretrained(recorded_folder, dtype="float32").train()
    mask = recorded_inputs["train_attention_mask"]
    outputs = model(
        recorded_inputs["train_input_ids"],
        mask,
        recorded_inputs["pixel_values"],
        labels=recorded_inputs["train_labels"],
    )
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(float(recorded["train_loss"]), abs=1e-6)
    patches = torch.ones(len(mask), 16, dtype=torch.bool)
    kept = torch.cat([mask[:, :1], patches, mask[:, 1:]], dim=1).numpy()
    logits = outputs.logits.detach().numpy()[:, :, recorded["stored_columns"]]
    np.testing.assert_allclose(logits[kept], recorded["train_logits_cols"][kept], atol=1e-5)
    for part, expected in zip(recorded["grad_norm_names"], recorded["grad_norms"], strict=True):
        squares = [
            value.grad.double().pow(2).sum()
            for name, value in model.named_parameters()
            if name.startswith(f"{part}.") and value.grad is not None
        ]
        assert torch.stack(squares).sum().sqrt().item() == pytest.approx(expected, rel=1e-6)
    assert sum(value.grad is None for value in model.parameters()) == 43


def test_saving_keeps_names_and_numbers(recorded_folder, model, recorded_inputs, tmp_path) -> None:
    original = load_file(recorded_folder / "model.safetensors")
    as_stored = OpenVLAForActionPrediction.from_pretrained(recorded_folder)
    assert as_stored.dtype == torch.bfloat16
    as_stored.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], value) for name, value in original.items())
    again = OpenVLAForActionPrediction.from_pretrained(tmp_path, dtype="float32")
    inputs = [recorded_inputs[name] for name in ("case0_input_ids", "case0_attention_mask")]
    with torch.inference_mode():
        pixels = recorded_inputs["pixel_values"][:1]
        assert torch.equal(again(*inputs, pixels).logits, model(*inputs, pixels).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_all_precisions_load_and_act(small_folder, dtype) -> None:
    model = OpenVLAForActionPrediction.from_pretrained(small_folder, dtype=dtype)
    assert {value.dtype for value in model.parameters()} == {dtype}
    action = model.predict_action(torch.tensor([[1, 5, 29871]]), torch.randn(1, 6, 28, 28))
    assert action.shape == (1, 3)
    assert np.isfinite(action).all()


def test_prompts_padded_on_the_left_are_refused_by_forward(small_model) -> None:
    with pytest.raises(ValueError, match="padded on the right"):
        small_model(
            torch.tensor([[32000, 1, 5]]), torch.tensor([[0, 1, 1]]), torch.zeros(1, 6, 28, 28)
        )


@pytest.mark.parametrize(
    ("ids", "n_images", "message"),
    [
        ([[1, 40000]], 1, "token ids from 0 to 32063, got 1 to 40000"),
        ([[1, 5]], 2, r"with one n, got \(1, 2\) and \(2, 6, 28, 28\)"),
        ([[1] * 2050], 1, r"at most 2048 positions, got 2050 tokens, 4 patches"),
        ([1, 5], 1, r"with one n, got \(2,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(small_model, ids, n_images, message) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(torch.tensor(ids), None, torch.zeros(n_images, 6, 28, 28))


def test_actions_need_statistics(small_model, monkeypatch) -> None:
    inputs = torch.tensor([[1, 5]]), torch.zeros(1, 6, 28, 28)
    with pytest.raises(ValueError, match=r"Unknown `unnorm_key` 'other'.*some_data"):
        small_model.predict_action(*inputs, "other")
    monkeypatch.setattr(small_model.config, "norm_stats", None)
    with pytest.raises(ValueError, match="norm_stats"):
        small_model.predict_action(*inputs)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
def test_gradient_checkpointing_changes_no_gradient(small_folder) -> None:
    ids = torch.tensor([[1, 5, 29871, 31900, 2]])
    pixels = torch.randn(1, 6, 28, 28, generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        model = OpenVLAForActionPrediction.from_pretrained(small_folder).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.vision_backbone.gradient_checkpointing
            assert model.language_model.model.gradient_checkpointing
        model(ids, None, pixels, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)
