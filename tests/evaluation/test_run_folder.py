"""Results are whole or absent, and a second run goes on with the first."""

import json
from pathlib import Path

import pytest

from libero_reward_envs.evaluation.run_folder import RunFolder, installed_versions


def test_the_config_says_what_was_run_on_what(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin({"seed": 3, "path": "x"})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"] == {"seed": 3, "path": "x"}
    assert {"python", "mujoco", "robosuite", "hf-libero", "torch"} <= config["versions"].keys()
    assert {"stable-baselines3", "gymnasium", "libero-reward-envs"} <= config["versions"].keys()
    assert config["versions"] == installed_versions()


def test_other_arguments_are_named(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin({"seed": 0, "steps": 10})
    RunFolder(tmp_path).begin({"seed": 0, "steps": 10})
    with pytest.raises(ValueError, match="steps was 10 and is now 20") as error:
        RunFolder(tmp_path).begin({"seed": 0, "steps": 20})
    assert "seed" not in str(error.value)


def test_overwriting_deletes_the_results_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({"seed": 0})
    run.register("result.json", "model")
    run.write_json("result.json", 1)
    with run.new_folder("model") as folder:
        (folder / "weights").write_bytes(b"w")
    (tmp_path / "notes.txt").write_text("mine")
    run.begin({"seed": 1}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]
    assert run.read_json("config.json")["arguments"] == {"seed": 1}


def test_a_config_cannot_have_files_deleted_elsewhere(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("mine")
    run = RunFolder(tmp_path / "run")
    run.begin({"seed": 0})
    run.write_json("config.json", {"arguments": {}, "results": ["../precious"]})
    with pytest.raises(ValueError, match="not in the folder"):
        run.begin({"seed": 1}, overwrite=True)
    assert outside.exists()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(ValueError, match="other files"):
        RunFolder(tmp_path).begin({})


def _stop_half_way(run: RunFolder) -> None:
    with run.new_folder("model") as folder:
        (folder / "half").write_bytes(b"h")
        raise KeyboardInterrupt


def test_a_folder_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _stop_half_way(run)
    assert not run.has("model")
    with run.new_folder("model") as folder:
        assert not (folder / "half").exists()
    assert run.has("model")


def test_a_write_that_fails_leaves_the_old_result(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("result.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("result.json", float("nan"))
    assert run.read_json("result.json") == 1


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json"):
        RunFolder(tmp_path).read_json("result.json")


def test_times_add_up_over_attempts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("times.json", {"fit": 5.0})
    with pytest.raises(RuntimeError), run.timed("fit"):
        raise RuntimeError
    assert 5.0 <= run.times()["fit"] < 6.0


@pytest.mark.parametrize("name", ["..", ".", "", "../precious", "a/b"])
def test_overwriting_never_leaves_the_folder(tmp_path, name):
    (tmp_path / "precious").write_text("x")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "kept").write_text("x")
    config = {"arguments": {"a": 1}, "results": ["kept", name]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not in the folder"):
        RunFolder(folder).begin({"a": 2}, overwrite=True)
    assert (tmp_path / "precious").exists()
    assert (folder / "kept").exists()
