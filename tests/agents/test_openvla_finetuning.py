import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from libero_reward_envs.agents.openvla_batches import iterate_holdout
from libero_reward_envs.agents.openvla_config import parse_finetune_config
from libero_reward_envs.agents.openvla_finetuning import FinetuneRun, finetune_openvla
from libero_reward_envs.agents.openvla_logs import read_finetune_curves
from libero_reward_envs.agents.openvla_merging import merge_adapters
from libero_reward_envs.agents.openvla_run_files import (
    find_latest,
    list_checkpoints,
    read_training_state,
)
from libero_reward_envs.agents.openvla_setup import load_finetune_data, load_trained_model
from libero_reward_envs.openvla.checkpoint_files import find_checkpoint, list_tensors
from libero_reward_envs.openvla.loading import read_config
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from tests.agents.openvla_makers import MODEL, settings_for, write_dataset

RUN = """
import sys, json
import libero_reward_envs
import torch
torch.set_num_threads(1)
from libero_reward_envs.agents.openvla_config import parse_finetune_config
from libero_reward_envs.agents.openvla_finetuning import finetune_openvla
config, _ = parse_finetune_config(json.loads(sys.argv[1]))
finetune_openvla(config, tell=lambda line: print(line, flush=True))
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "episodes.h5")


def run(settings: dict[str, Any], **options: Any) -> FinetuneRun:
    config, _ = parse_finetune_config(settings)
    return finetune_openvla(config, **options)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of adapters that was not stopped, with checkpoints on the way."""
    out = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(settings_for(data, out, max_steps=12, checkpoint_every=4, lora_dropout=0.1))
    torch.set_num_threads(threads)
    return out


def test_a_run_leaves_checkpoints_curves_and_pictures(whole: Path, data: Path) -> None:
    assert [path.name for path in list_checkpoints(whole)] == ["step_12", "step_8", "step_4"]
    latest = find_latest(whole)
    assert latest is not None
    assert latest == whole / "step_12"
    assert (whole / "latest" / "adapter_model.safetensors").is_file()
    assert {path.name for path in latest.iterdir()} == {
        *("adapter_model.safetensors", "adapter_config.json", "dataset_statistics.json"),
        *("openvla_policy.json", "training_state.json", "training_state.safetensors"),
    }
    curves = read_finetune_curves(whole / "curves.csv")
    assert curves["step"].tolist() == list(range(1, 13))
    assert np.isfinite(curves["loss"]).all()
    assert np.flatnonzero(np.isfinite(curves["holdout_loss"])).tolist() == [3, 7, 11]
    assert (curves["l1_physical"] <= curves["l1_normalized"]).all()
    assert {path.name for path in (whole / "samples").iterdir()} == {
        f"step_{n}.png" for n in (4, 8, 12)
    }
    rows = (whole / "holdout_episodes.csv").read_text().splitlines()
    assert rows[0] == "step,episode,rows,loss,accuracy"
    assert len(rows) == 4  # one episode is held out
    statistics = json.loads((latest / "dataset_statistics.json").read_text())
    assert list(statistics) == ["libero_object"]
    assert statistics["libero_object"]["num_trajectories"] == 3
    told = json.loads((latest / "openvla_policy.json").read_text())
    assert told["image_keys"] == ["agentview_image"]
    assert (told["gripper"], told["crop_area"], told["base_model"]) == ("libero", 0.9, MODEL)
    again, _ = parse_finetune_config(yaml.safe_load((whole / "config.yaml").read_text()))
    assert again.lora_r == 4
    assert not list(whole.rglob("*.pt"))


def test_a_killed_run_goes_on_with_the_same_losses(whole: Path, data: Path, tmp_path: Path) -> None:
    settings = settings_for(
        data, tmp_path / "run", max_steps=12, checkpoint_every=4, lora_dropout=0.1
    )
    command = [sys.executable, "-c", RUN, json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    curves = tmp_path / "run" / "curves.csv"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:  # until the seventh update, between two checkpoints
            if curves.is_file() and len(curves.read_text().splitlines()) >= 8:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
    stopped_at = int(curves.read_text().splitlines()[-1].split(",")[0])
    latest = find_latest(tmp_path / "run")
    assert latest is not None
    assert latest.name in ("step_4", "step_8")
    told: list[str] = []
    result = run(settings, tell=told.append)
    assert result.steps == 12
    assert any(f"Going on from update {latest.name[5:]}" in line for line in told)
    assert stopped_at - int(latest.name[5:]) <= 4 + 1
    found, expected = (read_finetune_curves(f / "curves.csv") for f in (tmp_path / "run", whole))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    weights = [
        load_file(f / "latest" / "adapter_model.safetensors") for f in (tmp_path / "run", whole)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_finished_run_has_nothing_to_do_and_another_one_is_refused(
    whole: Path, data: Path
) -> None:
    settings = settings_for(data, whole, max_steps=12, checkpoint_every=4, lora_dropout=0.1)
    before = (whole / "curves.csv").read_bytes()
    assert run(settings).values == {}
    assert (whole / "curves.csv").read_bytes() == before
    with pytest.raises(ValueError, match=r"lora_r was 4 and is now 8.*--overwrite"):
        run({**settings, "lora_r": 8})
    with pytest.raises(ValueError, match="rows_per_update 2, now it is 4"):
        run({**settings, "batch_size": 4, "max_steps": 20})


def test_merged_adapters_give_the_same_logits(whole: Path, data: Path, tmp_path: Path) -> None:
    merged_folder = merge_adapters(whole / "latest", tmp_path / "merged", dtype="float32")
    config, _ = parse_finetune_config(settings_for(data, whole, lora_dropout=0.1))
    base = find_checkpoint(MODEL)
    adapted = load_trained_model(config, base, torch.device("cpu"), find_latest(whole)).eval()
    merged = OpenVLAForActionPrediction.from_pretrained(merged_folder)
    plain = OpenVLAForActionPrediction.from_pretrained(base, dtype="float32")
    processor = OpenVLAProcessor.from_pretrained(merged_folder)
    found = load_finetune_data(config, read_config(base), processor)
    batch = next(iter(iterate_holdout(found.train, found.encoder, batch_size=2)))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        expected = adapted(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
        assert (plain(**inputs).logits - expected).abs().max() > 0.05
    shapes = [{n: t.shape for n, t in list_tensors(f).items()} for f in (base, merged_folder)]
    assert shapes[0] == shapes[1]
    stored = json.loads((merged_folder / "config.json").read_text())
    assert stored["norm_stats"]["libero_object"]["num_trajectories"] == 3
    assert set(stored["norm_stats"]) >= {"libero_spatial", "libero_object"}
    assert list(merged.norm_stats or {}) == ["libero_object"]
    assert not (merged_folder / "adapter_config.json").exists()
    with pytest.raises(FileExistsError):
        merge_adapters(whole / "latest", merged_folder)


def test_the_code_map_of_published_checkpoints_survives_merging(
    whole: Path, tmp_path: Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(find_checkpoint(MODEL), base)
    fields = json.loads((base / "config.json").read_text())
    fields["auto_map"] = {"AutoConfig": "configuration_prismatic.OpenVLAConfig"}
    (base / "config.json").write_text(json.dumps(fields))
    (base / "configuration_prismatic.py").write_text("raise RuntimeError('must not run')\n")
    merged = merge_adapters(whole / "latest", tmp_path / "merged", base=base)
    assert json.loads((merged / "config.json").read_text())["auto_map"] == fields["auto_map"]
    assert (merged / "configuration_prismatic.py").is_file()
    assert (merged / "tokenizer.json").is_file()
    assert {t.dtype for t in list_tensors(merged).values()} == {"BF16"}


def test_in_full_checkpoints_are_models_and_resuming_works(data: Path, tmp_path: Path) -> None:
    common = {"training_mode": "full", "learning_rate": 1e-4, "lr_schedule": "constant"}
    straight = settings_for(data, tmp_path / "straight", max_steps=4, **common)
    stopped = settings_for(data, tmp_path / "stopped", max_steps=2, **common)
    run(straight)
    run(stopped)
    result = run({**stopped, "max_steps": 4, "keep_checkpoints": 1})
    curves = [read_finetune_curves(tmp_path / n / "curves.csv") for n in ("straight", "stopped")]
    np.testing.assert_array_equal(curves[0]["loss"], curves[1]["loss"])
    assert [path.name for path in list_checkpoints(tmp_path / "stopped")] == ["step_4"]
    model = OpenVLAForActionPrediction.from_pretrained(result.checkpoint)
    assert list(model.norm_stats or {}) == ["libero_object"]
    OpenVLAProcessor.from_pretrained(result.checkpoint)


def test_passes_over_the_data_several_cameras_and_a_cosine(data: Path, tmp_path: Path) -> None:
    settings = settings_for(data, tmp_path / "run", checkpoint_every=1, lr_schedule="cosine")
    del settings["max_steps"]
    settings |= {"num_epochs": 2, "camera_names": ["primary", "wrist"], "batch_size": 3}
    settings |= {"gradient_accumulate_every": 2, "warmup_steps": 2, "max_grad_norm": 1.0}
    result = run(settings)
    assert (result.steps, result.checkpoint.name) == (6, "epoch_2")
    curves = read_finetune_curves(tmp_path / "run" / "curves.csv")
    assert curves["epoch"].tolist() == [0, 0, 0, 1, 1, 1]
    rates = curves["learning_rate"] / 1e-3
    np.testing.assert_allclose(rates[:3], [0.5, 1, 1])
    assert (np.diff(rates[2:]) < 0).all()
    again = run({**settings, "lora_r": 2, "num_epochs": 1}, overwrite=True)
    assert (again.steps, again.checkpoint.name) == (3, "epoch_1")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["epoch_1"]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch(data: Path, tmp_path: Path) -> None:
    settings = settings_for(data, tmp_path / "run", learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(RuntimeError, match=r"loss of update \d is (nan|inf)"):
        run(settings)
    batch = load_file(tmp_path / "run" / "bad_batch.safetensors")
    assert batch["input_ids"].shape[0] == 2
    assert {"pixel_values", "labels", "rows"} <= batch.keys()


def test_a_full_disk_leaves_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    settings = settings_for(data, tmp_path / "run", max_steps=2)
    run(settings)
    first = find_latest(tmp_path / "run")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n" + RUN
    command = [sys.executable, "-c", code, json.dumps({**settings, "max_steps": 3})]
    result = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "OSError: The checkpoint" in result.stderr, result.stderr
    assert find_latest(tmp_path / "run") == first
    assert first is not None
    assert read_training_state(first)[1]["step"] == 2
    assert not list((tmp_path / "run").glob(".*.partial"))
    assert run({**settings, "max_steps": 3}).steps == 3


def test_two_processes_train_as_one_with_batches_twice_the_size(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"max_steps": 3, "eval_steps": 4, "checkpoint_every": 2}
    one = settings_for(data, tmp_path / "one", batch_size=4, **common)
    run(one)
    two = settings_for(data, tmp_path / "two", batch_size=2, **common)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        }
        command = [sys.executable, "-c", RUN, json.dumps(two)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    curves = [read_finetune_curves(tmp_path / name / "curves.csv") for name in ("one", "two")]
    for name in ("loss", "holdout_loss"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=2e-4)
    assert find_latest(tmp_path / "two") == tmp_path / "two" / "step_3"
    weights = [
        load_file(tmp_path / n / "latest" / "adapter_model.safetensors") for n in ("one", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    # The checkpoint of two processes is taken up by one.
    assert run({**two, "batch_size": 4, "max_steps": 4}).steps == 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"camera_names": ["side"]}, ValueError, "No camera 'side'"),
        ({"action_dim": 14}, ValueError, "Set `action_dim` to 7"),
        ({"use_quantization": True}, ImportError, "bitsandbytes"),
        ({"report_to": ["trackio"]}, ImportError, "trackio"),
        ({"model": "no/such/folder"}, FileNotFoundError, "No folder"),
        ({"data": "nothing.h5"}, FileNotFoundError, "No episodes"),
        ({"max_steps": None}, ValueError, "`max_steps` or `num_epochs`"),
        ({"batch_size": 64}, ValueError, "at least the 64 steps"),
        ({"lora_target": ["q_porj"]}, ValueError, "Did you mean 'q_proj'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    if error is ImportError:
        pytest.importorskip("peft")
        name = message
        try:
            __import__(name)
        except ImportError:
            pass
        else:
            pytest.skip(f"{name} is installed")
    with pytest.raises(error, match=message):
        run({**settings_for(data, tmp_path / "run"), **changes})


@pytest.mark.parametrize(
    ("mode", "learning_rate", "schedule"), [("lora", 1e-2, "cosine"), ("full", 3e-3, "constant")]
)
def test_the_tiny_model_learns_what_the_square_says(
    mode: str, learning_rate: float, schedule: str, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data.h5", 1, n_steps=8)
    settings = settings_for(data, tmp_path / "run", max_steps=60, batch_size=8, lora_r=32)
    settings |= {"training_mode": mode, "learning_rate": learning_rate, "max_grad_norm": 1.0}
    settings |= {"holdout_fraction": 0.0, "image_aug": False, "lr_schedule": schedule}
    result = run(settings)
    assert result.values["accuracy"] >= 0.95
    assert result.values["loss"] < 0.3


def test_adapters_on_a_model_in_4_bits_learn_resume_and_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    data = write_dataset(tmp_path / "data.h5", 1, n_steps=8)
    settings = settings_for(data, tmp_path / "run", max_steps=40, batch_size=8, lora_r=32)
    settings |= {"use_quantization": True, "learning_rate": 1e-2, "max_grad_norm": 1.0}
    settings |= {"holdout_fraction": 0.0, "image_aug": False}
    first = run(settings)
    assert first.values["accuracy"] >= 0.8
    result = run({**settings, "max_steps": 42, "gradient_checkpointing": False})
    assert result.values["loss"] < 1.5 * first.values["loss"] + 0.1
    merged = merge_adapters(result.checkpoint, tmp_path / "merged")
    OpenVLAForActionPrediction.from_pretrained(merged)
