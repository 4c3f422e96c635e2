import os
import subprocess
import sys
from pathlib import Path

import pytest

from libero_reward_envs.cli.main import main
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from tests.agents.openvla_makers import MODEL, write_dataset

EXAMPLES = Path(__file__).parents[2] / "examples" / "openvla_policy"


def test_the_requirement_s_command_trains_and_its_adapters_are_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_dataset(tmp_path / "data.h5", 3, n_steps=4), tmp_path / "run"
    command = ["finetune-openvla", "--config", str(EXAMPLES / "openvla.yaml")]
    command += ["--model_name_or_path", MODEL, "--data_dir", str(data), "--output_dir", str(out)]
    command += ["--max_steps", "2", "--training_mode", "lora", "--lora_r", "2", "--lora_alpha", "4"]
    command += ["--lora_dropout", "0.1", "--use_quantization", "false", "--device", "cpu"]
    command += ["action_dim=7", "batch_size=2", "report_to=[]"]
    main(command)
    told = capsys.readouterr().out
    assert "`config_params.state_dim` (14) changes nothing" in told
    assert "parameters are trained" in told
    assert "After 2 updates: loss" in told
    assert f"Checkpoint: {out / 'step_2'}" in told
    main(command)
    assert "Trained for 2 updates already." in capsys.readouterr().out
    main(["merge-openvla", "--adapter", str(out / "latest"), "--out", str(tmp_path / "merged")])
    assert "a checkpoint that needs no adapters" in capsys.readouterr().out
    OpenVLAForActionPrediction.from_pretrained(tmp_path / "merged")


def test_the_estimate_loads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["finetune-openvla", "--model", MODEL, "--estimate-only"])
    told = capsys.readouterr().out
    assert "1,343,872 of 3,725,650 parameters are trained (36.07 %)" in told
    assert "GiB of memory" in told or "GiB free" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lora_rnak=3"], "Unknown key `lora_rnak`. Did you mean 'lora_rank'"),
        (["--training-mode", "full", "--use-quantization", "true"], "cannot be trained"),
        (["--config", "nowhere.yaml"], "No configuration file 'nowhere.yaml'"),
        ([], "Say by `max_steps` or `num_epochs`"),
        (["--max-steps", "1"], "Say by `data`"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["finetune-openvla", "--model", MODEL, "--out", str(tmp_path / "run"), *words])
    assert message in capsys.readouterr().err


def test_a_folder_without_adapters_is_not_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["merge-openvla", "--adapter", str(tmp_path), "--out", str(tmp_path / "merged")])
    assert "no folder of adapters" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    script = EXAMPLES / "train_openvla_example.sh"
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "EPISODES": "2", "STEPS": "4", "BATCH": "2"}
    subprocess.run(["bash", str(script), str(tmp_path / "run")], check=True, env=environment)
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()
