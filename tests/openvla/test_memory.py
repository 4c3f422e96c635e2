import logging
from pathlib import Path

import pytest
import torch

from libero_reward_envs.openvla import memory
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.memory import check_room, estimate_memory, make_meta_model
from libero_reward_envs.openvla.memory_description import describe_memory
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction


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


def test_the_extractor_takes_more_for_rows_and_cameras(parameters) -> None:
    one = memory.estimate_extractor_memory(parameters, torch.bfloat16, n_rows=1)
    more = memory.estimate_extractor_memory(parameters, torch.bfloat16, n_rows=16, n_views=3)
    assert more.activations == 48 * one.activations
    assert more.weights == one.weights


def _write_published(folder: Path) -> Path:
    """Write what describes the published model, without weights."""
    OpenVLAConfig(dtype="bfloat16").save_pretrained(folder)
    return folder


def test_the_estimate_is_described_without_weights(tmp_path) -> None:
    folder = _write_published(tmp_path)
    whole = describe_memory(folder)
    assert f"The model '{folder}': estimated to take 14.82 GiB (weights 14.05" in whole
    assert whole.endswith("on cpu.")
    assert "weights 28.09" in describe_memory(folder, dtype="float32")
    assert "weights 4.31" in describe_memory(folder, quantization_bits=4)
    features = describe_memory(folder, features_only=True, dtype="bfloat16")
    assert f"The features of '{folder}': estimated to take 2." in features
    assert "weights 1.5" in features


def test_the_described_estimate_is_that_which_loading_checks(small_folder, caplog) -> None:
    line = describe_memory(small_folder)
    with caplog.at_level(logging.INFO, memory.__name__):
        OpenVLAForActionPrediction.from_pretrained(small_folder)
    assert line.partition(": ")[2] in caplog.text


def test_the_described_estimate_depends_on_rows_cameras_and_device(tmp_path, monkeypatch) -> None:
    folder = _write_published(tmp_path)
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 8 * 2**30)
    lines = [
        describe_memory(folder, features_only=features, device="cuda:1", n_rows=n, n_views=views)
        for features in (False, True)
        for n, views in ((1, 1), (1, 2), (64, 1), (64, 2))
    ]
    assert len(set(lines)) == len(lines)
    assert all(line.endswith("on cuda:1, of 8.00 GiB free.") for line in lines)


def test_room_is_checked(parameters, monkeypatch) -> None:
    estimate = estimate_memory(OpenVLAConfig(), torch.bfloat16, parameters=parameters)
    check_room(estimate, torch.device("cpu"))
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 24 * 2**30)
    check_room(estimate, torch.device("cuda"))
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 8 * 2**30)
    with pytest.raises(MemoryError, match=r"14\.82 GiB \(weights 14\.05.*8\.00 GiB free.*4 bits"):
        check_room(estimate, torch.device("cuda"))
