"""Records and their checksums, on files that TensorFlow wrote and on damaged ones."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libero_reward_envs.data.rlds.tfrecord import (
    MAX_RECORD_BYTES,
    OVERHEAD_BYTES,
    compute_masked_crc,
    frame_record,
    index_shard,
    iterate_records,
    read_record,
    write_shard,
)

PROPERTY = settings(deadline=None, max_examples=50, database=None)
TENSORFLOWS = Path(__file__).parent / "rlds/liber_o10/1.0.0/liber_o10-train.tfrecord-00000-of-00001"
PAYLOADS = [b"first", b"", b"the third and longest of them", bytes(range(7))]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard"
    write_shard(path, PAYLOADS)
    return path


def read_all(path: Path, **keywords) -> list[bytes]:
    return [bytes(record) for record in iterate_records(path, **keywords)]


def read_by_index(path: Path) -> list[bytes]:
    index = index_shard(path)
    pairs = zip(index.offsets.tolist(), index.lengths.tolist(), strict=True)
    return [bytes(read_record(path, offset, length)) for offset, length in pairs]


def test_a_file_of_tensorflow_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    records = read_all(TENSORFLOWS)
    assert len(records) == 4
    assert read_by_index(TENSORFLOWS) == records
    write_shard(tmp_path / "again", records)
    assert (tmp_path / "again").read_bytes() == TENSORFLOWS.read_bytes()


@PROPERTY
@given(st.lists(st.binary(max_size=300), max_size=8))
def test_records_survive(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("records") / "shard"
    write_shard(path, payloads)
    assert read_all(path) == payloads
    assert read_by_index(path) == payloads
    assert index_shard(path).damage is None


def test_a_file_cut_anywhere_keeps_the_records_before(shard: Path) -> None:
    content = shard.read_bytes()
    ends = [0]
    for payload in PAYLOADS:
        ends.append(ends[-1] + len(payload) + OVERHEAD_BYTES)
    assert ends[-1] == len(content)
    for size in range(len(content)):
        shard.write_bytes(content[:size])
        n_whole = sum(end <= size for end in ends) - 1
        index = index_shard(shard)
        assert read_by_index(shard) == PAYLOADS[:n_whole]
        if size in ends:
            assert index.damage is None
            assert read_all(shard) == PAYLOADS[:n_whole]
            continue
        assert index.damage is not None
        assert "cut short" in index.damage
        assert f"at byte {ends[n_whole]} of {size}" in index.damage
        found = []
        with pytest.raises(ValueError, match="cut short"):
            found.extend(bytes(record) for record in iterate_records(shard))
        with pytest.raises(ValueError, match="cut short"):
            read_record(shard, ends[n_whole] + 12, len(PAYLOADS[n_whole]))


def test_no_flipped_bit_is_missed(shard: Path) -> None:
    content = shard.read_bytes()
    whole = index_shard(shard)
    places = list(zip(whole.offsets.tolist(), whole.lengths.tolist(), strict=True))
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            shard.write_bytes(damaged)
            with pytest.raises(ValueError, match="checksum"):
                read_all(shard)
            n_before = sum(offset + length + 4 <= position for offset, length in places)
            offset, length = places[n_before]
            with pytest.raises(ValueError, match="checksum"):
                read_record(shard, offset, length)
            for place, payload in zip(places[:n_before], PAYLOADS, strict=False):
                assert bytes(read_record(shard, *place)) == payload


def test_payloads_are_read_unchecked_on_demand(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[12] ^= 0x20
    shard.write_bytes(content)
    assert read_all(shard, check=False) == [b"First", *PAYLOADS[1:]]
    assert bytes(read_record(shard, 12, 5, check=False)) == b"First"
    content[3] ^= 1  # lengths are always checked
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="checksum of a record's length"):
        read_all(shard, check=False)


@pytest.mark.parametrize("length", [1, 10**6, 2**30, MAX_RECORD_BYTES, 2**31, 2**62, 2**64 - 1])
def test_absurd_lengths_take_no_memory(tmp_path: Path, length: int) -> None:
    header = struct.pack("<Q", length)
    header += struct.pack("<I", compute_masked_crc(header))
    path = tmp_path / "shard"
    write_shard(path, [b"sound"])
    path.write_bytes(path.read_bytes() + header)
    tracemalloc.start()
    index = index_shard(path)
    with pytest.raises(ValueError, match=f"a record of {length} bytes"):
        read_all(path)
    with pytest.raises(ValueError, match=f"a record of {length} bytes"):
        read_record(path, 12 + 21, length)
    assert tracemalloc.get_traced_memory()[1] < 3 * 2**20  # the buffer is one MiB
    tracemalloc.stop()
    assert len(index) == 1
    assert index.damage is not None


def test_a_file_that_changed_since_it_was_indexed_is_noticed(shard: Path) -> None:
    with pytest.raises(ValueError, match="has changed since it was indexed"):
        read_record(shard, 12, 4)
    with pytest.raises(ValueError, match="cut short"):
        read_record(shard, shard.stat().st_size + 12, 4)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"\x1f\x8b" + bytes(40))
    assert "gzip" in str(index_shard(path).damage)
    path.write_bytes(b"no TFRecord at all, but text")
    assert "no TFRecord file" in str(index_shard(path).damage)
    path.write_bytes(b"")
    assert index_shard(path).damage is None
    assert read_all(path) == []


def test_an_index_stops_at_its_limit(shard: Path) -> None:
    assert index_shard(shard, limit=2).lengths.tolist() == [5, 0]


def test_a_shard_is_written_whole_or_not_at_all(shard: Path) -> None:
    def fail():
        yield b"one"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_shard(shard, fail())
    assert read_all(shard) == PAYLOADS
    assert [path.name for path in shard.parent.iterdir()] == ["shard"]


def test_records_that_no_reader_takes_are_not_written() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**31

    with pytest.raises(ValueError, match="at most 2147483647 bytes"):
        frame_record(Long())
