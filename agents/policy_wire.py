"""What a policy server and its clients send: arrays, requests and actions as JSON.

The form is that of OpenVLA's own deployment script: `{"image": ..., "instruction": ...}`, with
arrays as the package json_numpy writes them. Nothing is unpickled, and what a request says about
the size of an array is compared with what it holds before anything is allocated.
"""

import base64
import binascii
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_ARRAY, _ENCODED = "__numpy__", "encoded"
# As np.dtype writes them, and as people do; all are read as little-endian.
_DTYPES = {
    **dict.fromkeys(("|u1", "uint8"), np.dtype(np.uint8)),
    **dict.fromkeys(("<i4", "int32"), np.dtype("<i4")),
    **dict.fromkeys(("<i8", "int64"), np.dtype("<i8")),
    **dict.fromkeys(("<f4", "float32"), np.dtype("<f4")),
    **dict.fromkeys(("<f8", "float64"), np.dtype("<f8")),
}
_MAX_DIMENSIONS = 4
_SESSION = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FIELDS = (
    *("image", "images", "state", "instruction", "unnorm_key"),
    *("session", "episode_start", "action_form"),
)
ACTION_FORMS = ("list", "numpy", "encoded")


@dataclasses.dataclass(frozen=True)
class RequestLimits:
    """How large a request may be.

    Args:
        body_bytes: Of the body; three cameras of 640 x 480 take 12 MB as lists and 4 as base64.
        image_pixels: Height times width of an image.
        images: Number of images.
        state_numbers: Length of the robot's state.
        instruction_characters: Length of the instruction.
    """

    body_bytes: int = 16 * 2**20
    image_pixels: int = 2048 * 2048
    images: int = 8
    state_numbers: int = 1024
    instruction_characters: int = 2000


class PolicyRequest(NamedTuple):
    """A checked request.

    Attributes:
        images: (H, W, 3) uint8 by name; None is the name of one that was sent without.
        state: The robot's own state, (p,) float32, or None.
        instruction: What to do, or None for what the server was started with.
        unnorm_key: Whose statistics the client expects, or None.
        session: Name under which the rest of an action chunk waits; None to keep none.
        episode_start: Whether such a rest is dropped.
        action_form: How the action is answered, one of `ACTION_FORMS`.
    """

    images: dict[str | None, np.ndarray]
    state: np.ndarray | None
    instruction: str | None
    unnorm_key: str | None
    session: str | None
    episode_start: bool
    action_form: str


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """Return an array as JSON holds it, in the form of json_numpy.

    Raises:
        ValueError: If it is of a type that `decode_array` does not take.

    Example:
        >>> encode_array(np.array([1, 2], np.uint8))
        {'__numpy__': 'AQI=', 'dtype': '|u1', 'shape': [2]}
    """
    array = np.ascontiguousarray(array)
    if array.dtype.str not in _DTYPES:
        raise ValueError(f"Expected an array of {_name_dtypes()}, got {array.dtype}.")
    content = base64.b64encode(array.tobytes()).decode("ascii")
    return {_ARRAY: content, "dtype": array.dtype.str, "shape": list(array.shape)}


def decode_array(value: Any, name: str, *, max_numbers: int) -> np.ndarray:
    """Return the array that `encode_array` wrote.

    Args:
        value: What JSON holds.
        name: What the array is called in messages.
        max_numbers: How many numbers it may have.

    Raises:
        ValueError: If it is no such array, or its sizes do not agree.
    """
    if not isinstance(value, Mapping) or {_ARRAY, "dtype", "shape"} != value.keys():
        raise ValueError(
            f"Expected `{name}` as a list or as {{{_ARRAY!r}: base64, 'dtype': ..., 'shape': ...}}."
        )
    dtype, shape, content = value["dtype"], value["shape"], value[_ARRAY]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"Expected `{name}` of {_name_dtypes()}, got {_show(dtype)}.")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(size) is int and 0 <= size <= max_numbers for size in shape)
        or math.prod(shape) > max_numbers
    ):
        raise ValueError(
            f"Expected `{name}` of at most {_MAX_DIMENSIONS} dimensions and {max_numbers} numbers, "
            f"got the shape {_show(shape)}."
        )
    n_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if not isinstance(content, str) or len(content) != 4 * math.ceil(n_bytes / 3):
        raise ValueError(
            f"Expected {n_bytes} bytes in base64 for `{name}` of shape {shape} and {dtype}; it "
            "holds another number of them."
        )
    try:
        decoded = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"`{name}` is not base64: {error}.") from error
    if len(decoded) != n_bytes:
        raise ValueError(f"Expected {n_bytes} bytes in `{name}`, got {len(decoded)}.")
    return np.frombuffer(decoded, _DTYPES[dtype]).reshape(shape)


def decode_image(value: Any, name: str, max_pixels: int) -> np.ndarray:
    """Return an image, (H, W, 3) uint8, from an encoded array or nested lists.

    Raises:
        ValueError: If it is none, or too large.
    """
    if isinstance(value, list):
        image = _read_nested_image(value, name, max_pixels)
    else:
        image = decode_array(value, name, max_numbers=3 * max_pixels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"Expected `{name}` of shape (H, W, 3) and uint8, from 0 to 255, got {image.shape} and "
            f"{image.dtype}."
        )
    return image


def decode_state(value: Any, max_numbers: int) -> np.ndarray:
    """Return the robot's state, (p,) float32, from an encoded array or a list.

    Raises:
        ValueError: If it is none, too long, or not finite in float32.
    """
    if isinstance(value, list):
        if len(value) > max_numbers or any(type(number) not in (int, float) for number in value):
            raise ValueError(f"Expected `state` as a list of at most {max_numbers} numbers.")
        try:
            state = np.array([float(number) for number in value], np.float64)
        except OverflowError as error:
            raise ValueError(f"A number in `state` is too large: {error}.") from error
    else:
        state = decode_array(value, "state", max_numbers=max_numbers)
    with np.errstate(over="ignore"):
        state = state.astype(np.float32)
    if state.ndim != 1 or not np.isfinite(state).all():
        raise ValueError(f"Expected finite numbers in one row as `state`, got {state.shape}.")
    return state


def read_request(body: bytes, limits: RequestLimits) -> PolicyRequest:
    """Return a request, from JSON of any of the forms.

    Raises:
        ValueError: If it is none; the message is fit to be sent back.
    """
    fields = _read_object(body)
    form = None
    if _ENCODED in fields:
        if len(fields) > 1 or not isinstance(fields[_ENCODED], str):
            raise ValueError(f"Expected a string under {_ENCODED!r} and nothing beside it.")
        fields, form = _read_object(fields[_ENCODED]), "encoded"
    unknown = [key for key in fields if key not in _FIELDS]
    if unknown:
        raise ValueError(f"Unknown field {_show(unknown[0])}. Known are: {', '.join(_FIELDS)}.")
    sent = _find_images(fields, limits)
    arrays = [*sent.values(), fields.get("state")]
    if form is None:
        form = "numpy" if any(isinstance(value, Mapping) for value in arrays) else "list"
    form = form if fields.get("action_form") is None else fields["action_form"]
    if form not in ACTION_FORMS:
        raise ValueError(f"`action_form` must be one of {', '.join(ACTION_FORMS)}.")
    start = fields.get("episode_start", False)
    if not isinstance(start, bool):
        raise ValueError(f"`episode_start` must be true or false, got {_show(start)}.")
    session = _read_text(fields, "session", 64)
    if session is not None and _SESSION.fullmatch(session) is None:
        raise ValueError(f"`session` may hold letters, digits, '.', '_' and '-', got {session!r}.")
    instruction = _read_text(fields, "instruction", limits.instruction_characters)
    unnorm_key = _read_text(fields, "unnorm_key", 200)
    # Last, as these take time.
    images = {
        name: decode_image(value, _name_image(name), limits.image_pixels)
        for name, value in sent.items()
    }
    given = fields.get("state")
    state = None if given is None else decode_state(given, limits.state_numbers)
    return PolicyRequest(images, state, instruction, unnorm_key, session, start, form)


def encode_action(action: np.ndarray, form: str) -> Any:
    """Return an action as JSON holds it, in one of `ACTION_FORMS`."""
    action = np.asarray(action, np.float32)
    if form == "list":
        return action.tolist()
    encoded = encode_array(action)
    return json.dumps(encoded) if form == "encoded" else encoded


def _find_images(fields: Mapping[str, Any], limits: RequestLimits) -> dict[str | None, Any]:
    if ("image" in fields) == ("images" in fields):
        raise ValueError("Expected either `image` or `images`.")
    if "image" in fields:
        return {None: fields["image"]}
    images = fields["images"]
    if not isinstance(images, Mapping) or not 1 <= len(images) <= limits.images:
        raise ValueError(f"Expected `images` as an object of 1 to {limits.images} images by name.")
    return dict(images)


def _read_object(text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("The request is nested too deeply.") from error
    except ValueError as error:  # of JSON, or of its encoding
        raise ValueError(f"The request is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"Expected a JSON object, got {type(value).__name__}.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _read_nested_image(rows: list[Any], name: str, max_pixels: int) -> np.ndarray:
    """Return (H, W, 3) uint8; never through an array of a type that the sender chooses."""
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    if len(rows) * width > max_pixels:
        raise ValueError(
            f"Expected `{name}` of at most {max_pixels} pixels, got {len(rows)} x {width}."
        )
    is_image = width > 0 and all(isinstance(row, list) and len(row) == width for row in rows)
    pixels = list(itertools.chain.from_iterable(rows)) if is_image else []
    if not is_image or not all(isinstance(pixel, list) and len(pixel) == 3 for pixel in pixels):
        raise ValueError(f"Expected `{name}` as H lists of W lists of 3 numbers.")
    try:
        content = bytes(itertools.chain.from_iterable(pixels))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected whole numbers from 0 to 255 in `{name}`: {error}.") from error
    return np.frombuffer(content, np.uint8).reshape(len(rows), width, 3)


def _read_text(fields: Mapping[str, Any], name: str, max_characters: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > max_characters:
        raise ValueError(f"Expected `{name}` as text of 1 to {max_characters} characters.")
    return value


def _name_image(name: str | None) -> str:
    return "image" if name is None else f"images[{_show(name)}]"


def _name_dtypes() -> str:
    return " ".join(name for name in _DTYPES if name[0] in "|<")


def _show(value: Any) -> str:
    """Return a value of a request for a message: short, and without control characters."""
    return ascii(value)[:80]
