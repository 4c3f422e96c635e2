import contextlib
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libero_reward_envs.data.hdf5_heap import HeapReader
from libero_reward_envs.data.safe_hdf5 import open_hdf5

TEXT = "Räder " * 5000


def write(path, *, rows=(), libver="earliest", attributes=(), **keywords):
    with h5py.File(path, "w", libver=libver) as file:
        group = file.create_group("data")
        for name, value in dict(attributes).items():
            group.attrs[name] = value
        if len(rows):
            dtype = h5py.vlen_dtype(np.uint8)
            dataset = group.create_dataset("rows", (len(rows),), dtype, **keywords)
            for index, row in enumerate(rows):
                dataset[index] = np.frombuffer(bytes(row), np.uint8)
    return path


def read_text(path, name, node="data"):
    with open_hdf5(path) as file, HeapReader(file) as reader:
        return reader.read_text(file[node], name)


def read_rows(path):
    with open_hdf5(path) as file, HeapReader(file) as reader:
        dataset: Any = file["data/rows"]
        return list(reader.read_rows(dataset))


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_texts_come_back_from_headers_of_every_version(tmp_path, libver):
    texts = {"long": TEXT, "empty": "", "short": "x", "name": "a" * 70_000}
    path = write(tmp_path / "file.hdf5", libver=libver, attributes={**texts, "number": 3})
    for name, text in texts.items():
        assert read_text(path, name) == text


def test_text_of_fixed_length_and_on_a_dataset(tmp_path):
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["fixed"] = np.bytes_(b"fixed")
        file["data/x"] = np.zeros(3)
        file["data/x"].attrs["unit"] = "m"
    assert read_text(path, "fixed") == "fixed"
    assert read_text(path, "unit", "data/x") == "m"


def test_header_that_goes_on_elsewhere(tmp_path):
    path = write(tmp_path / "file.hdf5", attributes={"first": "1"})
    for number in range(40):  # each opening lets the header grow into another block
        with h5py.File(path, "a") as file:
            file["data"].attrs[f"n{number}"] = f"text {number}"
            file.create_group(f"g{number}")
    assert [read_text(path, f"n{number}") for number in range(40)] == [
        f"text {number}" for number in range(40)
    ]


def test_what_is_not_text_or_not_readable_is_an_error(tmp_path):
    numbers = {f"n{i}": i for i in range(40)}  # so many lie in another structure
    path = write(tmp_path / "a.hdf5", libver="latest", attributes={**numbers, "text": "x"})
    with pytest.raises(ValueError, match="'n3' on /data is int64, not text"):
        read_text(path, "n3")
    with pytest.raises(ValueError, match="'text' on /data is stored in a way that is not read"):
        read_text(path, "text")
    with pytest.raises(ValueError, match="no attribute 'absent'"):
        read_text(path, "absent")
    many = write(tmp_path / "b.hdf5", attributes={"many": ["a", "b"]})
    with pytest.raises(ValueError, match="not text"):
        read_text(many, "many")
    with h5py.File(tmp_path / "c.hdf5", "w", userblock_size=512) as file:
        file.create_group("data").attrs["text"] = "x"
    with pytest.raises(ValueError, match="user block"):
        read_text(tmp_path / "c.hdf5", "text")


@pytest.mark.parametrize("keywords", [{}, {"chunks": True}, {"chunks": (4,)}])
def test_rows_come_back(tmp_path, keywords):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, length, np.uint8) for length in (0, 1, 9000, 3, 70_000, 8, 1)]
    path = write(tmp_path / "file.hdf5", rows=rows, **keywords)
    assert read_rows(path) == [row.tobytes() for row in rows]


def test_rows_that_cannot_be_read_are_an_error(tmp_path):
    path = write(tmp_path / "a.hdf5", rows=[b"ab"], chunks=(1,), compression="gzip")
    with pytest.raises(ValueError, match="/data/rows is of variable length and compressed"):
        read_rows(path)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["data/rows"] = np.zeros(3)
    with pytest.raises(ValueError, match="not rows of bytes"):
        read_rows(tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        file.create_dataset("data/rows", (3,), h5py.vlen_dtype(np.uint8))
    assert_damaged(tmp_path / "c.hdf5")


def assert_damaged(path):
    with pytest.raises(ValueError, match="Cannot read"):
        read_rows(path)


def replace(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_two_rows_in_one_place_are_refused(tmp_path):
    path = write(tmp_path / "file.hdf5", rows=[b"abcde", b"fghij"])
    content = path.read_bytes()
    heap = content.index(b"GCOL").to_bytes(8, "little")
    references = [b"\5\0\0\0" + heap + bytes([index, 0, 0, 0]) for index in (1, 2)]
    replace(path, references[1], references[0])
    with pytest.raises(ValueError, match="two rows of /data/rows lie in the same place"):
        read_rows(path)


def test_length_beyond_its_object_is_refused(tmp_path):
    path = write(tmp_path / "file.hdf5", rows=[b"abcde"])
    heap = path.read_bytes().index(b"GCOL").to_bytes(8, "little")
    replace(path, b"\5\0\0\0" + heap, b"\xff\xff\xff\xff" + heap)
    with pytest.raises(ValueError, match="has 5 bytes, not 4294967295"):
        read_rows(path)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=2000)  # fmt: skip
@given(data=st.data())
def test_reading_a_damaged_heap_ends(tmp_path, data):
    """Of bytes changed in the structures on the way; HDF5's own lie elsewhere in the file."""
    path = tmp_path / "file.hdf5"
    write(path, rows=[b"abc", b"d" * 50], attributes={"text": "x" * 100, "other": "y"})
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL")
    for _ in range(data.draw(st.integers(1, 4))):
        position = start + data.draw(st.integers(0, 400))
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), start + 300]))])
    for read in (read_rows, lambda path: read_text(path, "text")):
        with contextlib.suppress(ValueError):
            read(path)
