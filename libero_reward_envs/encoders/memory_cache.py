"""Features of the last frames, in memory."""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from libero_reward_envs.encoders.base import Encoder, encode_rows
from libero_reward_envs.encoders.frame_hashes import find_new_rows, hash_rows


class MemoryFeatureCache:
    """Features of the frames that were seen last, of any encoders.

    Args:
        max_bytes: How many bytes of features are kept; those not used for longest go first.

    Attributes:
        n_found: Rows that were there.
        n_encoded: Rows that an encoder was given.

    Raises:
        ValueError: If `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int = 2**28) -> None:
        if max_bytes < 0:
            raise ValueError(f"`max_bytes` must be at least 0, got {max_bytes}.")
        self.max_bytes = max_bytes
        self.n_found = self.n_encoded = 0
        self._kept: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()
        self._n_bytes = 0

    def __len__(self) -> int:
        """The number of rows that are kept."""
        return len(self._kept)

    def encode(self, encoder: Encoder, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features, (n, *shape) float32; the rows not kept are encoded as one batch.

        Args:
            encoder: The encoder.
            inputs: What it reads, see `select_inputs`.
        """
        fingerprint = encoder.fingerprint
        hashes = hash_rows(inputs, encoder.observation_keys)
        known = {found for found in set(hashes) if (fingerprint, found) in self._kept}
        new = find_new_rows(hashes, known)
        features = {found: self._kept[fingerprint, found] for found in known}
        if new:
            rows = encode_rows(encoder, {key: value[new] for key, value in inputs.items()})
            features |= {hashes[row]: rows[place].copy() for place, row in enumerate(new)}
        self.n_encoded += len(new)
        self.n_found += len(hashes) - len(new)
        for found, row in features.items():
            self._keep((fingerprint, found), row)
        gathered = np.empty((len(hashes), *encoder.shape), np.float32)
        for row, found in enumerate(hashes):
            gathered[row] = features[found]
        return gathered

    def _keep(self, name: tuple[str, bytes], row: np.ndarray) -> None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return
        self._kept[name] = row
        self._n_bytes += row.nbytes
        while self._n_bytes > self.max_bytes:
            self._n_bytes -= self._kept.popitem(last=False)[1].nbytes
