import pytest
import torch

from libero_reward_envs.openvla import memory
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.memory import check_room, estimate_memory, make_meta_model


@pytest.fixture(scope="module")
def parameters() -> dict[str, torch.Tensor]:
    return make_meta_model(OpenVLAConfig()).state_dict()


def test_weights_are_counted_to_the_byte(parameters) -> None:
    config = OpenVLAConfig()
    half = estimate_memory(config, torch.bfloat16, parameters=parameters)
    whole = estimate_memory(config, torch.float32, parameters=parameters)
    assert half.weights == 15_082_474_368
    assert whole.weights == 2 * half.weights
    assert half.total == half.weights + half.activations + half.overhead


def test_quantised_models_take_less(parameters) -> None:
    totals = [
        estimate_memory(
            OpenVLAConfig(), torch.bfloat16, parameters=parameters, quantization_bits=bits
        ).weights
        for bits in (4, 8, None)
    ]
    assert totals == sorted(totals)
    assert 4.0e9 < totals[0] < 5.0e9
    assert 7.5e9 < totals[1] < 8.5e9


def test_rows_and_views_take_more(parameters) -> None:
    config = OpenVLAConfig()
    one = estimate_memory(config, torch.bfloat16, parameters=parameters)
    views = estimate_memory(config, torch.bfloat16, parameters=parameters, n_views=3)
    rows = estimate_memory(config, torch.bfloat16, parameters=parameters, n_rows=8)
    assert rows.activations == 8 * one.activations
    assert 2 * one.activations < views.activations < 3 * one.activations
    # 32 layers hold a key and a value of 4096 numbers for each of 320 positions.
    assert one.activations > 2 * 32 * 320 * 4096 * 2


def test_the_extractor_takes_an_eighth(parameters) -> None:
    kept = {
        name: value
        for name, value in parameters.items()
        if name.startswith("vision_backbone.") or name.endswith("embed_tokens.weight")
    }
    estimate = memory.estimate_extractor_memory(kept, torch.bfloat16)
    assert 1.6e9 < estimate.weights < 1.8e9
    assert estimate.total < 4 * 2**30


def test_room_is_checked(parameters, monkeypatch) -> None:
    estimate = estimate_memory(OpenVLAConfig(), torch.bfloat16, parameters=parameters)
    check_room(estimate, torch.device("cpu"))
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 24 * 2**30)
    check_room(estimate, torch.device("cuda"))
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 8 * 2**30)
    with pytest.raises(MemoryError, match=r"14\.82 GiB \(weights 14\.05.*8\.00 GiB free.*4 bits"):
        check_room(estimate, torch.device("cuda"))
