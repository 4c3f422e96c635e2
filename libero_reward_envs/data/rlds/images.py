"""The pictures of RLDS sets: JPEG and PNG, decoded to what TensorFlow decodes them to.

TensorFlow decodes JPEG with the fast integer cosine transform of libjpeg-turbo, Pillow and OpenCV
with the slow one: their pixels differ by up to 13 grey levels, on most of the picture.
`simplejpeg` offers the fast one and equals TensorFlow bit for bit, in half of Pillow's time. PNG
loses nothing and is left to Pillow.
"""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ("jpeg", "png")
JPEG_QUALITY = 95  # TensorFlow's, as in the published sets
# Memory is set aside by the size in a header. Deflate packs no better than 1032 : 1, nor does JPEG.
MAX_COMPRESSION_RATIO = 1100
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_OTHER_MAGICS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP or AVI",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def decode_images(
    pictures: Sequence[bytes | memoryview],
    shape: tuple[int | None, ...],
    dtype: np.dtype[Any],
    *,
    spare_rows: int = 0,
) -> np.ndarray:
    """Decode pictures of one size.

    Args:
        pictures: n files, JPEG or PNG.
        shape: (H, W, C) that they must have; None where any is right that all share.
        dtype: uint8; uint16 for PNG of one channel; float32 for PNG of four channels whose bytes
            are those of the floats of one, as TensorFlow Datasets stores depth.
        spare_rows: Rows to leave free at the end, which saves copying all for one more.

    Returns:
        Shape (n + spare_rows, H, W, C).

    Raises:
        ValueError: If a picture is damaged, of another size or format, or too large for its bytes.
    """
    height, width, channels = check_sizes(pictures, shape, dtype)
    stored = (channels if dtype != np.float32 else 4) * (2 if dtype == np.uint16 else 1)
    needed = len(pictures) * height * width * stored
    if needed > MAX_COMPRESSION_RATIO * sum(map(len, pictures)):
        raise ValueError(f"{len(pictures)} pictures of {width} x {height} in too few bytes")
    images = np.empty((len(pictures) + spare_rows, height, width, channels), dtype)
    for row, picture in zip(images, pictures, strict=False):
        if bytes(picture[:3]) == _JPEG_MAGIC:
            _decode_jpeg(picture, row)
        else:
            _decode_png(picture, row)
    return images


def check_sizes(
    pictures: Sequence[bytes | memoryview], shape: tuple[int | None, ...], dtype: np.dtype[Any]
) -> tuple[int, int, int]:
    """Return (H, W, C) of pictures by their headers; errors as in `decode_images`."""
    if len(shape) != 3 or shape[2] is None or dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"no pictures are read as {dtype} of shape {shape}")
    sizes = {read_size(picture) for picture in pictures}
    if len(sizes) != 1:
        listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:4])
        raise ValueError(f"expected pictures of one size, got {listed or 'none'}")
    (size,) = sizes
    if any(known not in (None, got) for known, got in zip(shape, size, strict=False)):
        raise ValueError(
            f"expected pictures of (H, W) = {shape[:2]} as features.json says, got {size}"
        )
    return *size, shape[2]


def read_size(picture: bytes | memoryview) -> tuple[int, int]:
    """Return (H, W) from a picture's header.

    Raises:
        ValueError: If it is neither JPEG nor PNG, or its header is damaged.
    """
    magic = bytes(picture[:24])
    if magic[:3] == _JPEG_MAGIC:
        height, width = (int(size) for size in simplejpeg.decode_jpeg_header(picture)[:2])
    elif magic[:8] == _PNG_MAGIC and len(magic) == 24:
        width, height = struct.unpack(">II", magic[16:24])
    else:
        known = [name for start, name in _OTHER_MAGICS.items() if magic.startswith(start)]
        raise ValueError(f"expected JPEG or PNG, got {(known or [repr(magic[:8])])[0]}")
    if not height or not width:
        raise ValueError(f"a picture of {width} x {height}")
    return height, width


def encode_image(image: np.ndarray, format: str) -> bytes:
    """Return an image (H, W, C) of uint8 as a file.

    JPEG is what TensorFlow makes of it: quality 95, colour at half resolution.
    """
    content = io.BytesIO()
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if format == "jpeg":
        picture.save(content, "JPEG", quality=JPEG_QUALITY, subsampling=2)
    else:
        picture.save(content, "PNG")
    return content.getvalue()


def _decode_jpeg(picture: bytes | memoryview, row: np.ndarray) -> None:
    if row.dtype != np.uint8 or row.shape[2] not in (1, 3):
        raise ValueError(f"a JPEG does not hold {row.dtype} in {row.shape[2]} channels")
    colorspace = "RGB" if row.shape[2] == 3 else "GRAY"
    simplejpeg.decode_jpeg(picture, colorspace, fastdct=True, fastupsample=False, buffer=row)


def _decode_png(picture: bytes | memoryview, row: np.ndarray) -> None:
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG",)) as image:
            if row.dtype == np.uint16:
                _check_mode(image.mode, ("I;16",))
                row[:, :, 0] = np.asarray(image)
            elif row.dtype == np.float32:
                _check_mode(image.mode, ("RGBA",))
                row[:] = np.ascontiguousarray(image).view("<f4")
            else:
                # Palettes and grey become colour and alpha is dropped, nothing is computed.
                wanted = _MODES.get(row.shape[2], "")
                kept = {"RGB": ("RGB", "L", "P", "1", "RGBA"), "RGBA": ("RGBA", "RGB")}
                _check_mode(image.mode, kept.get(wanted, (wanted, "1")))
                pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
                row[:] = pixels.reshape(row.shape)
    except (OSError, SyntaxError, struct.error) as error:  # all three, for damaged files
        raise ValueError(f"a damaged PNG ({error})") from error


def _check_mode(mode: str, expected: Sequence[str]) -> None:
    if mode not in expected:
        raise ValueError(f"expected a PNG of mode {' or '.join(expected)}, got {mode}")
