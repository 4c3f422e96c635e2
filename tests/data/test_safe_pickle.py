import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from libero_reward_envs.data.safe_pickle import StoredArray, locate_arrays

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) / 255
CONTENT = {"images": {"camera": IMAGES}, "labels": np.array([0, 1], np.float32)}
PROTOCOL_4 = b"\x80\x04"


def write(path, pickled):
    """A `.npy` file as np.save begins it, with any pickle in it."""
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickled)
    return path


def dump(content, protocol=4):
    array = np.empty((), object)
    array[()] = content
    return pickle.dumps(array, protocol)


def locate(path):
    with open(path, "rb") as file:
        return locate_arrays(file)


def read(path, array):
    values = np.fromfile(path, array.dtype, int(np.prod(array.shape)), offset=array.offset)
    return values.reshape(array.shape, order="F" if array.fortran_order else "C")


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_found_where_np_save_puts_them(tmp_path, protocol):
    path = write(tmp_path / "a.npy", dump(CONTENT, protocol))
    assert np.load(path, allow_pickle=True).item().keys() == CONTENT.keys()
    found = locate(path)
    np.testing.assert_array_equal(read(path, found["images"]["camera"]), IMAGES)
    np.testing.assert_array_equal(read(path, found["labels"]), [0, 1])


def test_np_save_itself_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array(CONTENT))
    assert locate(tmp_path / "a.npy")["images"]["camera"].shape == IMAGES.shape


def test_the_module_of_numpy_1_is_read_too(tmp_path):
    pickled = dump(CONTENT, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in pickled
    found = locate(write(tmp_path / "a.npy", pickled))
    assert found["labels"].shape == (2,)


def test_other_orders_of_bytes_and_axes_are_kept(tmp_path):
    content = {"a": np.asfortranarray(IMAGES), "b": np.array([1, 2], ">f8"), "c": [1.5, None, True]}
    path = write(tmp_path / "a.npy", dump(content))
    found = locate(path)
    np.testing.assert_array_equal(read(path, found["a"]), IMAGES)
    np.testing.assert_array_equal(read(path, found["b"]), [1, 2])
    assert found["c"] == [1.5, None, True]


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_code_is_refused_by_name_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    pickled = b"\x80\x03cos\nsystem\nX" + struct.pack("<I", len(f"touch {ran}"))
    pickled += f"touch {ran}".encode() + b"\x85R."
    with pytest.raises(ValueError, match=r"asks for os\.system, which is refused"):
        locate(write(tmp_path / "a.npy", pickled))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"images": Calls(eval, "1")}, r"builtins\.eval"),
        ({"images": Calls(getattr, "", "format")}, r"builtins\.getattr"),
        ([Calls(np.load, "a.npy")], r"numpy\.load"),
        ({"labels": {1, 2}}, "instruction"),
        ({"labels": np.float32(1)}, r"multiarray\.scalar"),
        ({"labels": np.array([[1, "a"], None], object)}, "array of objects"),
        ({"labels": np.zeros(2, [("a", int)])}, "plain numbers"),
        ({"labels": np.array(["a"])}, "plain numbers"),
        ({1: IMAGES}, "key"),
    ],
)
def test_anything_but_arrays_of_numbers_is_refused(tmp_path, content, named):
    with pytest.raises(ValueError, match=named):
        locate(write(tmp_path / "a.npy", dump(content)))


def test_a_list_in_the_place_of_the_object_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(ValueError, match=r"expected a pickled dictionary, got an array of .*'<f4'"):
        locate(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="array of objects, got list"):
        locate(write(tmp_path / "b.npy", pickle.dumps([1, 2], 4)))


def test_claimed_sizes_cost_no_memory(tmp_path):
    # A shape of 2 TB for the constructor, which must not be believed; 4 EB of content; a long text.
    pickled = dump(CONTENT).replace(
        b"K\x00\x85", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85"
    )
    huge = PROTOCOL_4 + b"\x8e" + struct.pack("<Q", 2**62) + b"ab."
    text = PROTOCOL_4 + b"\x8d" + struct.pack("<Q", 2**40) + b"ab."
    tracemalloc.start()
    assert isinstance(locate(write(tmp_path / "a.npy", pickled))["labels"], StoredArray)
    with pytest.raises(ValueError, match="claims 4611686018427387904 bytes"):
        locate(write(tmp_path / "b.npy", huge))
    with pytest.raises(ValueError, match="a string of 1099511627776 bytes"):
        locate(write(tmp_path / "c.npy", text))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_shape_that_the_content_does_not_fill_is_refused(tmp_path):
    pickled = dump(CONTENT)
    shape = b"K\x02K\x03K\x04K\x05t"
    assert pickled.count(shape) == 1
    with pytest.raises(ValueError, match=r"declares shape \(2, 3, 4, 200\), 19200 bytes, but 480"):
        locate(write(tmp_path / "a.npy", pickled.replace(shape, b"K\x02K\x03K\x04K\xc8t")))


def test_endless_instructions_end(tmp_path):
    with pytest.raises(ValueError, match="more than 10000"):
        locate(write(tmp_path / "a.npy", b"\x80\x04" + b"]" * 20_000 + b"."))


def test_a_file_cut_anywhere_is_an_error(tmp_path):
    whole = write(tmp_path / "a.npy", dump(CONTENT)).read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "b.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"."):
            locate(tmp_path / "b.npy")


def test_changed_bytes_never_do_more_than_a_value_error(tmp_path):
    whole = write(tmp_path / "a.npy", dump(CONTENT)).read_bytes()
    rng = np.random.default_rng(0)
    start = whole.index(PROTOCOL_4)
    n_refused = 0
    for _ in range(2000):
        changed = bytearray(whole)
        for position in rng.integers(start, len(whole), rng.integers(1, 4)):
            changed[position] = rng.integers(256)
        (tmp_path / "b.npy").write_bytes(changed)
        try:
            locate(tmp_path / "b.npy")
        except ValueError:
            n_refused += 1
    assert n_refused > 100


def test_shuffled_instructions_never_do_more_than_a_value_error(tmp_path):
    pickled = dump(CONTENT)
    codes = b"\x80\x95(N\x88\x89JKMG\x8a\x8cX\x8dCB\x8e\x94qrhjc\x93Rb)\x85\x86\x87t]ae}su"
    rng = np.random.default_rng(1)
    for _ in range(3000):
        changed = bytearray(pickled)
        for _ in range(rng.integers(1, 6)):
            position, code = rng.integers(len(changed)), codes[rng.integers(len(codes))]
            kind = rng.random()
            if kind < 0.4:
                changed[position] = code
            elif kind < 0.8:
                changed.insert(position, code)
            else:
                del changed[position]
        try:
            locate(write(tmp_path / "a.npy", bytes(changed)))
        except ValueError:
            continue


def test_a_byte_order_that_is_a_dictionary_is_refused(tmp_path):
    pickled = dump(CONTENT).replace(b"\x8c\x01<\x94", b"}\x94")
    with pytest.raises(ValueError, match="a dtype with a state that is not one"):
        locate(write(tmp_path / "a.npy", pickled))
