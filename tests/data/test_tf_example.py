"""`tf.train.Example` in every form that the encoding allows, and in none that it does not."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from libero_reward_envs.data.rlds.tf_example import (
    decode_feature,
    index_example,
    parse_example,
    serialize_example,
)
from libero_reward_envs.data.rlds.tf_example_places import locate_bytes, locate_features
from libero_reward_envs.data.rlds.wire_format import decode_varints, encode_varint, encode_varints

PROPERTY = settings(deadline=None, max_examples=50, database=None)
INTS = npst.arrays(np.int64, st.integers(0, 40), elements=st.integers(-(2**63), 2**63 - 1))
SMALL_INTS = npst.arrays(np.int64, st.integers(0, 200), elements=st.integers(0, 127))
FLOATS = npst.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
STRINGS = st.lists(st.binary(max_size=300), max_size=20)
REPEATED = st.tuples(st.binary(max_size=140), st.integers(0, 30)).map(lambda p: [p[0]] * p[1])
FEATURES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=150),
    st.one_of(INTS, SMALL_INTS, FLOATS, STRINGS, REPEATED),
    max_size=6,
)


def assert_same(got, expected) -> None:
    if isinstance(expected, np.ndarray) and len(expected):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    else:
        assert [bytes(value) for value in got] == list(expected)


def field(number: int, wire: int, content: bytes) -> bytes:
    length = encode_varint(len(content)) if wire == 2 else b""
    return encode_varint(number << 3 | wire) + length + content


def feature(kind: int, content: bytes) -> bytes:
    return field(kind, 2, content)


def example(*entries: tuple[bytes, bytes]) -> bytes:
    parts = [field(1, 2, field(1, 2, key) + field(2, 2, value)) for key, value in entries]
    return field(1, 2, b"".join(parts))


@PROPERTY
@given(FEATURES)
def test_examples_survive(features: dict) -> None:
    payload = serialize_example(features)
    got = parse_example(payload)
    assert got.keys() == features.keys()
    for key, expected in features.items():
        assert_same(got[key], expected)
    assert serialize_example(dict(reversed(features.items()))) == payload


@PROPERTY
@given(FEATURES)
def test_features_and_values_are_found_where_they_are(features: dict) -> None:
    payload = serialize_example(features)

    def read(start: int, size: int) -> bytes:
        return payload[start : start + size]

    places = locate_features(read, len(payload))
    index = index_example(payload)
    if places is None:  # a key longer than what is read ahead
        assert max(map(len, (key.encode() for key in features))) > 100
        return
    assert {key: read(*place) for key, place in places.items()} == index
    for key, values in features.items():
        if isinstance(values, list):
            found = [locate_bytes(read, *places[key], i) for i in range(len(values))]
            assert [read(*place) for place in found if place] == values
            if values:
                with pytest.raises(ValueError, match="fewer values"):
                    locate_bytes(read, *places[key], len(values))


@PROPERTY
@given(npst.arrays(np.uint64, st.integers(0, 200), elements=st.integers(0, 2**64 - 1)))
def test_varints_are_those_of_the_definition(values: np.ndarray) -> None:
    expected = b"".join(encode_varint(value) for value in values.tolist())
    assert encode_varints(values) == expected
    np.testing.assert_array_equal(decode_varints(expected).view(np.uint64), values)


def test_varints_of_few_and_many_bytes_are_judged_alike() -> None:
    good = encode_varint(2**64 - 1)
    assert good == b"\xff" * 9 + b"\x01"
    for n_before in (0, 300):
        before = b"\x05" * n_before
        assert decode_varints(before + good).tolist() == [5] * n_before + [-1]
        for bad in (b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80" * 11):
            with pytest.raises(ValueError, match=r"64 bits|cut short"):
                decode_varints(before + bad)
        with pytest.raises(ValueError, match="cut short"):
            decode_varints(before + b"\x80")


def test_unpacked_numbers_are_read_too() -> None:
    floats = [1.5, -2.0]
    packed = field(1, 2, struct.pack("<2f", *floats))
    unpacked = b"".join(field(1, 5, struct.pack("<f", value)) for value in floats)
    for content in (packed, unpacked, unpacked[:5] + field(1, 2, struct.pack("<f", -2))):
        assert decode_feature(memoryview(feature(2, content))).tolist() == floats  # pyright: ignore[reportAttributeAccessIssue]
    ints = [1, 300, -1]
    packed = field(1, 2, encode_varints(np.array(ints)))
    unpacked = b"".join(field(1, 0, encode_varint(value % 2**64)) for value in ints)
    for content in (packed, unpacked):
        assert parse_example(example((b"a", feature(3, content))))["a"].tolist() == ints  # pyright: ignore[reportAttributeAccessIssue]


def test_what_comes_twice_is_merged_or_replaced() -> None:
    one, two = (feature(1, field(1, 2, value)) for value in (b"one", b"two"))
    number = feature(3, field(1, 2, b"\x07"))
    parsed = parse_example(
        example((b"joined", one + two), (b"kind", one + number), (b"kind2", number + one + two))
        + example((b"later", one), (b"later", two), (b"none", b""))
    )
    assert parsed["joined"] == [b"one", b"two"]
    assert list(parsed["kind"]) == [7]
    assert parsed["kind2"] == [b"one", b"two"]
    assert parsed["later"] == [b"two"]
    assert parsed["none"] == []
    entry = field(2, 2, one) + field(1, 2, b"key") + field(2, 2, two)  # the value around the key
    assert parse_example(field(1, 2, field(1, 2, entry))) == {"key": [b"one", b"two"]}


def test_unknown_fields_are_passed_over() -> None:
    unknown = field(9, 0, b"\x96\x01") + field(10, 2, b"?") + field(11, 1, bytes(8))
    strings = field(1, 2, b"a") + unknown + field(1, 2, b"b")
    value = unknown + feature(1, strings) + unknown
    entry = unknown + field(1, 2, b"k") + unknown + field(2, 2, value) + unknown
    payload = unknown + field(1, 2, unknown + field(1, 2, entry)) + unknown
    assert parse_example(payload) == {"k": [b"a", b"b"]}
    assert locate_features(lambda start, size: payload[start : start + size], len(payload)) is None


def test_long_values_are_views() -> None:
    payload = serialize_example({"image": [bytes(5000)], "state": np.zeros(4000, np.float32)})
    parsed = parse_example(payload)
    (image,), state = parsed["image"], parsed["state"]
    assert isinstance(image, memoryview)
    assert isinstance(state, np.ndarray)
    assert np.shares_memory(np.frombuffer(image, np.uint8), np.frombuffer(payload, np.uint8))
    assert np.shares_memory(state, np.frombuffer(payload, np.uint8))


def test_an_example_cut_anywhere_is_an_error() -> None:
    payload = serialize_example(
        {"a": np.arange(-2, 3), "b": [b"x" * 200, b"y"], "c": np.ones(3, np.float32)}
    )
    for size in range(1, len(payload)):
        with pytest.raises(ValueError, match="cut short"):
            parse_example(payload[:size])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x02\x00", "a field 0"),
        (b"\x0a\xff\xff\xff\xff\x7f", "cut short"),
        (b"\x0a" + b"\xff" * 10 + b"\x01", "64 bits"),
        (example((b"\xff\xfe", b"")), "not UTF-8"),
        (example((b"a", feature(2, field(1, 2, b"12345")))), "5 bytes of floats"),
        (example((b"a", feature(3, field(1, 2, b"\x80")))), "cut short"),
        (example((b"a", feature(1, b"\x0a\x05abc"))), "cut short"),
        (example((b"a", b"\x0a\xff\xff\xff\xff\x0f")), "cut short"),
    ],
)
def test_damage_is_named(payload: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_example(payload)


@PROPERTY
@given(FEATURES, st.data())
def test_mutated_examples_are_read_or_refused(features: dict, data: st.DataObject) -> None:
    payload = bytearray(serialize_example(features))
    for _ in range(data.draw(st.integers(1, 4))):
        if payload:
            place = data.draw(st.integers(0, len(payload) - 1))
            payload[place] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_example(bytes(payload))
    except ValueError:
        return
    assert sum(len(value) for value in parsed.values()) <= len(payload)


@PROPERTY
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for parse in (
        parse_example,
        lambda content: locate_features(lambda a, n: content[a : a + n], len(content)),
    ):
        with contextlib.suppress(ValueError):
            parse(payload)


def test_memory_is_bounded_by_the_bytes() -> None:
    empties = feature(1, b"\x0a\x00" * 20_000)
    payload = example((b"a", empties))
    unpacked = example((b"a", feature(3, b"\x08\x00" * 20_000)))
    hollow = field(1, 2, field(1, 2, b"") * 20_000)
    for content, n_values in ((payload, 20_000), (unpacked, 20_000), (hollow, 0)):
        tracemalloc.start()
        assert sum(map(len, parse_example(content).values())) == n_values
        assert tracemalloc.get_traced_memory()[1] < 20 * len(payload)
        tracemalloc.stop()
    keys = [(f"{number}".encode(), b"") for number in range(2**16 + 1)]
    with pytest.raises(ValueError, match="more than 65536 features"):
        parse_example(example(*keys))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected numbers or bytes under 'a', got dtype <U1"):
        serialize_example({"a": np.array(["x"])})
