import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from libero_reward_envs.data.lerobot.encoding import make_table, write_table
from libero_reward_envs.data.lerobot.info import Feature
from libero_reward_envs.data.lerobot.parquet_rows import ParquetRows, decode_picture, encode_picture

SHAPE = (24, 32, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.parquet"


def make_picture(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_groups(path, n_rows=40, rows_per_group=7):
    values = np.random.default_rng(0).normal(size=(n_rows, 2, 3))
    columns = {"x": pa.array(values.tolist()), "x.y": pa.array(range(n_rows))}
    parquet.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return values


def test_any_rows_are_read_by_themselves(path):
    values = write_groups(path)
    with ParquetRows(path) as rows:
        assert (rows.n_rows, rows.columns) == (40, ["x", "x.y"])
        for start in range(0, 40, 3):
            for stop in range(start + 1, 41, 4):
                batches = list(rows.read(["x", "x.y"], start, stop))
                found = [rows.as_numbers(batch["x"], "x", (2, 3)) for batch in batches]
                np.testing.assert_array_equal(np.concatenate(found), values[start:stop])
                assert rows.read_values("x.y", start, stop) == list(range(start, stop))
        assert list(rows.read(["x"], 5, 5)) == []
        assert rows.read_numbers("x.y", 38, 40).tolist() == [38, 39]


def test_what_is_not_there_is_named(path):
    write_groups(path)
    with ParquetRows(path) as rows:
        with pytest.raises(ValueError, match=r"table\.parquet'.*no column 'z', it has: x, x\.y"):
            rows.read_numbers("z", 0, 1)
        with pytest.raises(ValueError, match="rows 39 to 41 are asked for, it has 40"):
            rows.read_numbers("x", 39, 41)
        with pytest.raises(ValueError, match=r"column 'x': expected shape \(1,\), got \(1, 2, 3\)"):
            rows.read_numbers("x", 0, 1)
    with pytest.raises(FileNotFoundError):
        ParquetRows(path.with_name("none"))


@pytest.mark.parametrize("share", [0, 0.4, 0.99])
def test_a_file_cut_short_is_named(path, share):
    write_groups(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"Cannot read '.*table\.parquet'"):
        ParquetRows(path)


def test_memory_is_not_taken_for_rows_that_are_not_asked_for(path):
    parquet.write_table(pa.table({"x": pa.array(np.zeros(10**7, np.int64))}), path)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    with ParquetRows(path) as rows:
        for batch in rows.read(["x"], 9_000_000, 9_000_100):
            assert len(batch["x"]) <= 100
            assert pool.bytes_allocated() - before < 10**7  # an eighth of the column


def test_damage_is_found_by_checksums(path):
    image = Feature("image", "image", SHAPE)
    write_table(path, make_table([image], {"image": make_picture()[None]}))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    with ParquetRows(path) as rows, pytest.raises(ValueError, match=r"table\.parquet'.*CRC"):
        list(rows.read(["image"], 0, 1))


@pytest.mark.parametrize("shape", [SHAPE, (5, 3, 1)])
def test_pictures_come_back_as_they_were(shape):
    picture = make_picture(1, shape)
    np.testing.assert_array_equal(decode_picture(encode_picture(picture), shape), picture)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a damaged picture"),
        (b"\x89PNG\r\n\x1a\n", "a damaged picture"),
        (b"GIF89a", "a damaged picture"),
        (encode_picture(make_picture())[:-30], "a damaged picture"),
        (encode_picture(make_picture(0, (25, 32, 3))), "24 x 32, RGB, got 25 x 32"),
        (encode_picture(make_picture(0, (24, 32, 1))), "RGB, got 24 x 32, L"),
    ],
)
def test_pictures_that_are_none_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        decode_picture(content, SHAPE)


def test_flipped_bytes_of_a_picture_are_found():
    content = bytearray(encode_picture(make_picture()))
    content[100] ^= 255
    with pytest.raises(ValueError, match="a damaged picture"):
        decode_picture(bytes(content), SHAPE)


def test_missing_pictures_are_named(path):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [{"bytes": None, "path": "images/1.png"}]
    parquet.write_table(pa.table({"image": pa.array(pictures, struct)}), path)
    with ParquetRows(path) as rows:
        (batch,) = rows.read(["image"], 0, 1)
        with pytest.raises(ValueError, match="column 'image': expected a picture in the file"):
            rows.as_pictures(batch["image"], "image", SHAPE)
