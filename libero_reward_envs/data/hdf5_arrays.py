"""The arrays of an episode in an HDF5 group, stored so that damage shows and one frame is cheap."""

from collections.abc import Mapping

import h5py
import numpy as np

_CHUNK_BYTES = 2**18  # five frames of 128 x 128: one read of a single frame stays cheap


def write_arrays(
    group: h5py.Group, arrays: Mapping[str, np.ndarray], compression: str = "gzip"
) -> None:
    """Write arrays under their names, in chunks with a checksum; images are compressed.

    Args:
        group: The group of the episode.
        arrays: Each with at least one row.
        compression: "gzip" or "lzf", for images.
    """
    for name, array in arrays.items():
        row_bytes = max(1, array.nbytes // len(array))
        rows = min(len(array), max(1, _CHUNK_BYTES // row_bytes))
        is_image = array.dtype == np.uint8 and array.ndim >= 3
        group.create_dataset(
            name,
            data=array,
            chunks=(rows, *array.shape[1:]) if array.size else None,
            compression=compression if is_image else None,
            fletcher32=bool(array.size),
        )
