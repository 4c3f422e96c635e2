import os
import signal
import struct
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from safetensors import safe_open

from libero_reward_envs import atomic_files
from libero_reward_envs.checkpoints import Checkpoint, read_newest_checkpoint, write_checkpoint

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]


def arrays_of_every_kind() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {dtype: rng.integers(0, 100, (3, 5)).astype(dtype) for dtype in DTYPES}
    return {
        **arrays,
        "none": np.zeros((0, 3), np.float32),
        "one": np.array(2.5),
        "not finite": np.array([np.nan, -np.inf], np.float32),
        "transposed": np.arange(6).reshape(2, 3).T,
    }


def read(folder) -> Checkpoint:
    checkpoint = read_newest_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_arrays_and_values_come_back_as_they_were(tmp_path):
    values = {
        "big": 2**128 - 1,
        "negative": -(2**200),
        "half": 0.1,
        "list": [1, None, "ü"],
        "f": {},
    }
    path = write_checkpoint(tmp_path / "new" / "run", 1000, arrays_of_every_kind(), values)
    assert path == tmp_path / "new" / "run" / "step_000001000.safetensors"
    checkpoint = read(path.parent)
    assert checkpoint.step == 1000
    assert checkpoint.path == path
    assert checkpoint.values == values
    assert checkpoint.arrays.keys() == arrays_of_every_kind().keys()
    for name, expected in arrays_of_every_kind().items():
        found = checkpoint.arrays[name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        found[...] = 0  # can be written to


def test_the_safetensors_library_reads_the_file(tmp_path):
    path = write_checkpoint(tmp_path, 5, arrays_of_every_kind(), {"a": 1})
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == arrays_of_every_kind().keys()
        assert file.metadata()["step"] == "5"


def test_an_empty_checkpoint_is_one(tmp_path):
    write_checkpoint(tmp_path, 0, {}, {})
    assert read(tmp_path)[:3] == (0, {}, {})


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_checkpoints_gives_none(tmp_path, make):
    folder = tmp_path / "run"
    if make:
        folder.mkdir()
        (folder / "step_1.safetensors").write_text("not named as ours")
        (folder / "notes.txt").write_text("mine")
    assert read_newest_checkpoint(folder) is None


def test_the_newest_are_kept_and_the_rest_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".step_000000005.safetensors.77.tmp").write_text("of a killed writer")
    for step in (1, 2, 10, 1_000_000_000):
        write_checkpoint(tmp_path, step, {"step": np.array(step)}, {}, keep=2)
    expected = ["notes.txt", "step_000000010.safetensors", "step_1000000000.safetensors"]
    assert names(tmp_path) == expected
    assert read(tmp_path).arrays["step"] == 1_000_000_000


def test_damaged_files_do_not_count_among_those_kept(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path, step, {"step": np.array(step)}, {}, keep=2)
    damage = tmp_path / "step_000000002.safetensors"
    damage.write_bytes(damage.read_bytes()[:-1])
    write_checkpoint(tmp_path, 3, {}, {}, keep=2)
    assert len(names(tmp_path)) == 3
    write_checkpoint(tmp_path, 4, {}, {}, keep=2)
    assert names(tmp_path) == ["step_000000003.safetensors", "step_000000004.safetensors"]


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    write_checkpoint(tmp_path, 1, {"a": np.array([1.0])}, {"which": "old"})
    newest = write_checkpoint(tmp_path, 2, {"a": np.array([2.0])}, {"which": "new"})
    content = newest.read_bytes()
    damaged = [content[:length] for length in range(len(content))] + [content + b"\0"]
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1
        damaged.append(bytes(flipped))
    for blob in damaged:
        newest.write_bytes(blob)
        with pytest.warns(UserWarning, match=r"step_000000002.* is damaged and is skipped"):
            checkpoint = read(tmp_path)
        assert checkpoint.values == {"which": "old"}
    newest.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path).values == {"which": "new"}


@pytest.mark.parametrize("length", [2**63, 99_999_999, 0])
def test_a_length_that_lies_is_not_believed(tmp_path, length):
    path = tmp_path / "step_000000001.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.warns(UserWarning, match="damaged"):
        assert read_newest_checkpoint(tmp_path) is None


def test_a_newer_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("libero_reward_envs.checkpoints.FORMAT_VERSION", 2)
    write_checkpoint(tmp_path, 1, {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 2"):
        read_newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "values", "message"),
    [
        ({"a": np.array(["text"])}, {}, "'a' of <U4"),
        ({"a": np.array([None])}, {}, "'a' of object"),
        ({"a": np.zeros(2, complex)}, {}, "'a' of complex128"),
        ({"__metadata__": np.zeros(2)}, {}, "rename"),
        ({}, {"a": np.zeros(2)}, "JSON"),
        ({}, {"a": float("nan")}, "JSON"),
        ({}, {"a": (1, 2)}, "changed"),
        ({}, {"a": {1: 2}}, "changed"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, arrays, values, message):
    with pytest.raises(ValueError, match=message):
        write_checkpoint(tmp_path, 1, arrays, values)
    assert names(tmp_path) == []


def test_steps_and_keep_are_checked(tmp_path):
    with pytest.raises(ValueError, match="step -1"):
        write_checkpoint(tmp_path, -1, {}, {})
    with pytest.raises(ValueError, match="keep 0"):
        write_checkpoint(tmp_path, 1, {}, {}, keep=0)


def test_another_run_in_the_same_folder_is_refused_unless_its_file_is_damaged(tmp_path):
    later = write_checkpoint(tmp_path, 100, {}, {})
    with pytest.raises(ValueError, match="later step than 10"):
        write_checkpoint(tmp_path, 10, {}, {})
    later.write_bytes(later.read_bytes()[:-1])
    write_checkpoint(tmp_path, 10, {}, {"new": True})
    with pytest.warns(UserWarning, match="step_000000100"):
        assert read(tmp_path).values == {"new": True}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch, call):
    write_checkpoint(tmp_path, 1, {"a": np.zeros(9)}, {})

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, call, fail)
        with pytest.raises(OSError, match="No space"):
            write_checkpoint(tmp_path, 2, {"a": np.ones(9)}, {})
    assert names(tmp_path) == ["step_000000001.safetensors"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            atomic_files.os,
            name,
            lambda *args, real=real, name=name: (calls.append(name), real(*args)),
        )
    write_checkpoint(tmp_path, 1, {}, {})
    assert calls == ["fsync", "replace", "fsync"]


WRITER = """
import sys
import numpy as np
from libero_reward_envs.checkpoints import read_newest_checkpoint, write_checkpoint
found = read_newest_checkpoint(sys.argv[1])
step = found.step if found else 0
print("ready", flush=True)
while True:
    step += 1
    arrays = {str(i): np.full(100_000 + step, step, np.float32) for i in range(5)}
    write_checkpoint(sys.argv[1], step, arrays, {"step": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_loses_no_finished_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    newest = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.02, 0.3))
            writer.send_signal(signal.SIGKILL)
            reported = writer.stdout.read().split()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoint = read_newest_checkpoint(tmp_path)
        assert checkpoint is not None or not reported
        if checkpoint is not None:
            newest = checkpoint.step
            assert newest >= int(reported[-1] if reported else 0)
            assert checkpoint.values == {"step": checkpoint.step}
            assert all((array == checkpoint.step).all() for array in checkpoint.arrays.values())
    assert newest > 6
    write_checkpoint(tmp_path, newest + 1, {}, {})
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
