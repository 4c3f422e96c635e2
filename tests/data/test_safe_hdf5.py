import h5py
import numpy as np
import pytest

from libero_reward_envs.data.safe_hdf5 import (
    check_array,
    find_dataset,
    get_child,
    open_hdf5,
    read_array,
    read_rows,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.hdf5"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("'obs' in /data/demo_0 is a Dataset"),
        KeyError("'obs' in /data/demo_0 is a Dataset"),
        OSError(".hidden/file is damaged."),
    ],
)
def test_messages_keep_the_quotes_and_dots_that_they_begin_with(path, error):
    h5py.File(path, "w").close()
    message = error.args[0].rstrip(".")
    with pytest.raises(ValueError, match="Cannot read") as raised, open_hdf5(path):
        raise error
    assert str(raised.value) == f"Cannot read {str(path)!r}: {message}."


def test_chunks_may_be_longer_than_an_axis_that_can_grow(path):
    rows = np.arange(30).reshape(10, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=rows, chunks=(64, 3), maxshape=(None, 3))
        file.create_dataset("b", data=rows, chunks=(4, 8), maxshape=(None, None), compression=9)
        file.create_dataset("c", shape=(10, 3), chunks=(64, 3), maxshape=(None, 3), dtype="f4")
        file.create_dataset(
            "d", shape=(2, 3), chunks=(2**20, 64), maxshape=(None, None), dtype="f8", compression=9
        )
        # A chunk of zeros is stored small, and could be of a size that no memory has.
        file["d"].id.write_direct_chunk((0, 0), bytes(1000))  # pyright: ignore[reportAttributeAccessIssue] - a dataset
    with h5py.File(path) as file:
        for name in "ab":
            np.testing.assert_array_equal(read_array(get_child(file, name), 10), rows)
        for name, n_rows in (("c", 10), ("d", 2)):
            with pytest.raises(ValueError, match=f"/{name} declares shape"):
                check_array(get_child(file, name), n_rows)


@pytest.mark.parametrize("dtype", ["u1", "f2", ">f4", "<i8", "?"])
@pytest.mark.parametrize("with_last", ["none", "one row", "all rows"])
def test_any_rows_are_those_of_the_whole(path, dtype, with_last):
    whole = np.random.default_rng(0).integers(0, 2, (12, 4, 2)).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=whole[:-1], chunks=(3, 4, 2), compression=1)
        file["one row"] = whole[-1:]
        file["all rows"] = whole[1:]
    with h5py.File(path) as file:
        rows = get_child(file, "rows")
        last = None if with_last == "none" else get_child(file, with_last)
        if last is None:
            whole[-1] = whole[-2]
        for start in range(12):
            for stop in range(start + 1, 13):
                found = read_rows(rows, last, start, stop)
                assert found.dtype == np.dtype(dtype).newbyteorder("=")
                np.testing.assert_array_equal(found, whole[start:stop])
        np.testing.assert_array_equal(read_rows(rows, last), whole)


def test_a_dataset_is_found_by_a_path_of_hard_links_only(path):
    with h5py.File(path, "w") as file:
        file["a/b/c"] = np.zeros(2)
        file["soft"] = h5py.SoftLink("/a")
        file["a/away"] = h5py.ExternalLink("other.hdf5", "/")
    with h5py.File(path) as file:
        found = find_dataset(file, "a/b/c")
        assert found is not None
        assert found.shape == (2,)
        for absent in ("a/b/d", "x/b/c", "a//c", "", "a/b/"):
            assert find_dataset(file, absent) is None
        for refused in ("soft/b/c", "a/away/c"):
            with pytest.raises(ValueError, match="Link, which is refused"):
                find_dataset(file, refused)
