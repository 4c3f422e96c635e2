"""What an encoder is, what it is given, and what it must return."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

INSTRUCTION_KEY = "instruction"  # what an encoder may read besides observations: (n,) of str


class Encoder(Protocol):
    """Turns observations into features, row by row; a row does not depend on the others.

    An encoder that was made for images of one orientation says it as an attribute `orientation`;
    envs and episodes that say another one are refused.
    """

    # Properties here, so that type checkers take any attribute that can be read as such a value.
    @property
    def key(self) -> str:
        """The observation it adds, such as "openvla/vision"."""
        ...

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """What it reads, at least one; `INSTRUCTION_KEY` for the instruction, (n,) of str.

        The instruction is supplied by wrappers (that of the env) and datasets (of the episode), ""
        where it is not known, and is no observation that an agent sees.
        """
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row of features."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the features (weights by their hash), as JSON would hold it."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the settings; features are kept for one fingerprint only."""
        ...

    def encode(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features, (n, *shape) float32, of what it reads, each (n, ...)."""
        ...


@runtime_checkable
class StagedEncoder(Encoder, Protocol):
    """An encoder whose work on the CPU can go on in threads while the model runs."""

    def prepare(self, observations: Mapping[str, np.ndarray]) -> Any:
        """Return what the model is given; may run in several threads at once."""
        ...

    def encode_prepared(self, prepared: Any) -> np.ndarray:
        """Return the features of what was prepared, (n, *shape) float32."""
        ...


def compute_fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256, 64 hex digits, of values that JSON can hold.

    Example:
        >>> compute_fingerprint({"a": 1, "b": 2}) == compute_fingerprint({"b": 2, "a": 1})
        True
    """
    text = json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_encoders(encoders: Sequence[Encoder], available: Collection[str]) -> None:
    """Raise ValueError unless the encoders find what they read, and add each a new observation.

    Args:
        encoders: At least one.
        available: The observations that are there.
    """
    if not encoders:
        raise ValueError("Expected at least one encoder, got none.")
    taken = set(available)
    for encoder in encoders:
        name = type(encoder).__name__
        if encoder.key in taken:
            raise ValueError(
                f"{name} adds the observation {encoder.key!r}, which is there already. Leave one "
                "of the two out."
            )
        taken.add(encoder.key)
        missing = [
            key for key in encoder.observation_keys if key not in {*available, INSTRUCTION_KEY}
        ]
        if missing:
            raise ValueError(
                f"{name} reads {', '.join(map(repr, missing))}, which is not among the "
                f"observations: {', '.join(available) or 'none'}."
            )


def select_inputs(
    encoder: Encoder, observations: Mapping[str, np.ndarray], instructions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what an encoder reads.

    Args:
        encoder: The encoder.
        observations: By key, each (n, ...); all that it reads but the instruction.
        instructions: One a row, "" where it is not known.
    """
    told = {INSTRUCTION_KEY: np.array(instructions, np.str_)}
    return {
        key: told[key] if key == INSTRUCTION_KEY else observations[key]
        for key in encoder.observation_keys
    }


def encode_rows(
    encoder: Encoder, inputs: Mapping[str, np.ndarray], batch_size: int | None = None
) -> np.ndarray:
    """Return the features of n rows, checked, (n, *shape) float32.

    Args:
        encoder: The encoder.
        inputs: What `select_inputs` returns.
        batch_size: How many rows the encoder is given at once; None for all.

    Raises:
        ValueError: If the encoder returns anything else.
    """
    n = len(inputs[encoder.observation_keys[0]])
    size = batch_size or max(n, 1)
    if n <= size:
        return check_features(encoder.encode(inputs), n, encoder)
    features = np.empty((n, *encoder.shape), np.float32)
    for start in range(0, n, size):
        rows = {key: value[start : start + size] for key, value in inputs.items()}
        features[start : start + size] = check_features(
            encoder.encode(rows), min(size, n - start), encoder
        )
    return features


def check_features(features: Any, n: int, encoder: Encoder) -> np.ndarray:
    """Return `features` if they are n finite float32 rows of the encoder's shape.

    Raises:
        ValueError: If they are not.
    """
    name, shape = type(encoder).__name__, (n, *encoder.shape)
    if not isinstance(features, np.ndarray) or features.dtype != np.float32:
        kind = features.dtype if isinstance(features, np.ndarray) else type(features).__name__
        raise ValueError(f"Expected features as a float32 array, got {kind} from {name}.")
    if features.shape != shape:
        raise ValueError(f"Expected features of shape {shape}, got {features.shape} from {name}.")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).reshape(n, -1).all(1))[0])
        raise ValueError(f"Expected finite features, got others in row {row} from {name}.")
    return features


def is_image(shape: Sequence[int], dtype: Any) -> bool:
    """Return whether one observation of this shape and type is an image, (H, W, C) uint8."""
    return len(shape) == 3 and dtype == np.uint8
