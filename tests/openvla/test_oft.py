"""OFT: chunks against the recorded results of the original code, and its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.oft import (
    ActionHead,
    OFTParts,
    ProprioProjector,
    compute_chunk_states,
    predict_chunk,
)
from libero_reward_envs.openvla.oft_files import load_oft_parts

KEY = "tiny_masked"
Arrays = dict[str, np.ndarray]


def read_arrays(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def folder(recorded_folder: Path) -> Path:
    return recorded_folder / "oft"


@pytest.fixture(scope="module")
def given(folder: Path) -> Arrays:
    return read_arrays(folder / "inputs.npz")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Arrays:
    return read_arrays(folder / "expected.npz")


@pytest.fixture(scope="module")
def parts(folder: Path) -> OFTParts:
    found = load_oft_parts(folder)
    assert found is not None
    return found


def choose(parts: OFTParts, kind: str) -> OFTParts:
    """Of all parts, those of "discrete", "l1" or "l1_proprio"."""
    head = None if kind == "discrete" else parts.action_head
    return OFTParts(head, parts.proprio_projector if kind == "l1_proprio" else None)


def take(given: Arrays, case: int, n_views: int, kind: str) -> dict[str, Any]:
    return {
        "input_ids": torch.from_numpy(given[f"case{case}_input_ids"]),
        "pixel_values": torch.from_numpy(given["pixel_values_3views"][case : case + 1])[
            :, : 6 * n_views
        ],
        "proprio": given["proprio"][case : case + 1] if kind == "l1_proprio" else None,
    }


@pytest.mark.parametrize("kind", ["discrete", "l1", "l1_proprio"])
@pytest.mark.parametrize("n_views", [1, 2, 3])
@pytest.mark.parametrize("case", [0, 1])
def test_chunks_are_those_of_the_original(
    model: OpenVLAForActionPrediction,
    parts: OFTParts,
    given: Arrays,
    expected: Arrays,
    case: int,
    n_views: int,
    kind: str,
) -> None:
    chosen, inputs = choose(parts, kind), take(given, case, n_views, kind)
    name = f"case{case}_views{n_views}_{kind}"
    with torch.inference_mode():
        hidden = compute_chunk_states(model, chosen, action_dim=7, **inputs)
    np.testing.assert_allclose(hidden.numpy(), expected[f"{name}_hidden"], atol=1e-5, rtol=0)
    chunk = predict_chunk(model, chosen, unnorm_key=KEY, **inputs)
    assert chunk.dtype == np.float64
    np.testing.assert_allclose(chunk[0], expected[f"{name}_action"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["discrete", "l1_proprio"])
def test_a_batch_of_prompts_of_two_lengths_gives_what_each_gives_alone(
    model: OpenVLAForActionPrediction, parts: OFTParts, given: Arrays, kind: str
) -> None:
    chosen = choose(parts, kind)
    alone = [
        predict_chunk(model, chosen, unnorm_key=KEY, **take(given, case, 2, kind))[0]
        for case in (0, 1)
    ]
    ids, pad = [given[f"case{case}_input_ids"][0] for case in (0, 1)], model.config.pad_token_id
    padded = [np.pad(row, (0, 15 - len(row)), constant_values=pad) for row in ids]
    both = predict_chunk(
        model,
        chosen,
        torch.from_numpy(np.stack(padded)),
        torch.from_numpy(given["pixel_values_3views"])[:, :12],
        KEY,
        proprio=given["proprio"] if kind == "l1_proprio" else None,
    )
    np.testing.assert_allclose(both, alone, atol=1e-5, rtol=0)


def test_files_of_the_original_are_read(folder: Path, parts: OFTParts, tmp_path: Path) -> None:
    for name in ("action_head", "proprio_projector"):
        state = {
            f"module.{key}": value
            for key, value in load_file(folder / f"{name}.safetensors").items()
        }
        torch.save(state, tmp_path / f"{name}--150000_checkpoint.pt")
    found = load_oft_parts(tmp_path, chunk_size=5)
    assert found is not None
    assert found.chunk_size == 5
    for mine, theirs in zip(found[:2], parts[:2], strict=True):
        assert mine is not None
        assert theirs is not None
        for value, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(value, other)


def test_a_plain_checkpoint_has_no_parts(tmp_path: Path) -> None:
    assert load_oft_parts(tmp_path) is None
    assert load_oft_parts(tmp_path, chunk_size=8) == OFTParts()


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model.fc1.weight": Path("x")}, tmp_path / "action_head--1_checkpoint.pt")
    with pytest.raises(ValueError, match="could run code"):
        load_oft_parts(tmp_path)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "action_head--1_checkpoint.pt"
    torch.save({"noise_predictor.fc1.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="no part"):
        load_oft_parts(tmp_path)
    torch.save(ActionHead(4, 2).state_dict(), path)
    torch.save(ActionHead(4, 2).state_dict(), tmp_path / "action_head--2_checkpoint.pt")
    with pytest.raises(ValueError, match=r"one file.*action_head--2"):
        load_oft_parts(tmp_path)
    path.unlink()
    torch.save({}, tmp_path / "noisy_action_projector--2_checkpoint.pt")
    with pytest.raises(ValueError, match="diffusion"):
        load_oft_parts(tmp_path)


def test_parts_of_another_model_are_refused(
    model: OpenVLAForActionPrediction, given: Arrays
) -> None:
    inputs = take(given, 0, 1, "l1")
    with pytest.raises(ValueError, match="hidden states of 24"):
        predict_chunk(model, OFTParts(ActionHead(16, 7)), unnorm_key=KEY, **inputs)
    with pytest.raises(ValueError, match="actions of 5"):
        predict_chunk(model, OFTParts(ActionHead(24, 7)), unnorm_key="tiny_nomask5", **inputs)
    with pytest.raises(ValueError, match=r"`proprio` of shape \(1, 8\).*none"):
        predict_chunk(model, OFTParts(None, ProprioProjector(8, 24)), unnorm_key=KEY, **inputs)
