"""Recorded results of the original code, and small models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

STATISTICS = {
    **{name: [-1.0, -0.5, 0.0] for name in ("mean", "min", "q01")},
    **{name: [1.0, 0.5, 1.0] for name in ("std", "max", "q99")},
    "mask": [True, True, False],
}


@pytest.fixture(scope="session")
def recorded_folder() -> Path:
    """A tiny checkpoint in the published form, with what the original code computed on it."""
    return Path(__file__).parents[1] / "data" / "openvla_tiny"


@pytest.fixture(scope="session")
def recorded_inputs(recorded_folder: Path) -> dict[str, torch.Tensor]:
    with np.load(recorded_folder / "inputs.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def recorded(recorded_folder: Path) -> dict[str, np.ndarray]:
    with np.load(recorded_folder / "expected.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def model(recorded_folder: Path) -> OpenVLAForActionPrediction:
    """The recorded model in float32; tests leave it as it is."""
    return OpenVLAForActionPrediction.from_pretrained(recorded_folder, dtype="float32")


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights in several shards, drawn so that inputs matter."""
    config = OpenVLAConfig(
        timm_model_kwargs=[
            {"depth": 3, "embed_dim": 16, "num_heads": 2},
            {"depth": 4, "embed_dim": 24, "num_heads": 2},
        ],
        image_sizes=[28, 28],
        text_config={
            "vocab_size": 32064,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        norm_stats={"some_data": {"action": STATISTICS}},
        dtype="float32",
    )
    model = OpenVLAForActionPrediction(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            drawn = torch.randn(value.shape, generator=draw)
            value.copy_(drawn if value.ndim < 2 else drawn * value[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("small") / "model"
    model.save_pretrained(folder, max_shard_size="1MB")
    return folder


@pytest.fixture
def copied_folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, to be damaged."""
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def small_model(small_folder: Path) -> OpenVLAForActionPrediction:
    """The small model; tests leave it as it is."""
    return OpenVLAForActionPrediction.from_pretrained(small_folder)
