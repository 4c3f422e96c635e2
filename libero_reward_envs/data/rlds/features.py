"""The feature tree of an RLDS set: `features.json`, as TensorFlow Datasets writes it.

Only the layout of values is taken from it. An episode is a dictionary with `steps`, a sequence of
dictionaries; each leaf is stored in the episode's `tf.train.Example` under its path, the values of
all steps one after the other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS = "steps"
_MODULE = "tensorflow_datasets.core.features"
TENSOR_TYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
_MAX_DEPTH = 32
_MAX_LEAVES = 4096


@dataclass(frozen=True)
class Leaf:
    """One value of a step or of an episode.

    Attributes:
        path: Keys from the top, joined by "/".
        kind: "tensor", "image" or "text"; another one is not read, and says what it is.
        shape: Of one step's value; None where it is not fixed.
        dtype: NumPy's name of a number's type; "" for text.
        encoding: Of a tensor "none", "bytes" or "zlib"; of an image "jpeg", "png" or "".
        length: Of a sequence inside a step: its length, -1 if steps may differ; else None.
    """

    path: str
    kind: str
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = ""
    length: int | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether an array holds it."""
        return self.kind in ("tensor", "image")


def parse_features(tree: Any) -> dict[str, Leaf]:
    """Return the leaves of a feature tree by path.

    Raises:
        ValueError: If it is no feature tree, or not that of episodes with steps.
    """
    leaves: dict[str, Leaf] = {}
    _walk(tree, "", 0, leaves)
    if not any(path.startswith(f"{STEPS}/") for path in leaves):
        names = sorted({path.partition("/")[0] for path in leaves})
        raise ValueError(
            f"expected episodes with a sequence `{STEPS}`, got {', '.join(names[:8])}: a set of "
            "TensorFlow Datasets, but not RLDS"
        )
    return leaves


def build_features(leaves: Iterable[Leaf]) -> dict[str, Any]:
    """Return the feature tree of leaves, what `parse_features` reads."""
    root: dict[str, Any] = {}
    for leaf in leaves:
        node = root
        *above, name = leaf.path.split("/")
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return _build_node(root, "")


def _walk(node: Any, path: str, depth: int, leaves: dict[str, Leaf]) -> None:
    if not isinstance(node, Mapping) or depth > _MAX_DEPTH or len(leaves) > _MAX_LEAVES:
        raise ValueError(f"no feature tree at {path or 'its top'!r}")
    children = _get(node, "featuresDict", "features")
    if isinstance(children, Mapping):
        for name, child in children.items():
            _walk(child, f"{path}/{name}".lstrip("/"), depth + 1, leaves)
    elif path == STEPS and isinstance(_get(node, "sequence", "feature"), Mapping):
        _walk(_get(node, "sequence", "feature"), path, depth + 1, leaves)
    else:
        leaves[path] = _parse_leaf(node, path)


def _parse_leaf(node: Mapping[str, Any], path: str) -> Leaf:
    inner = _get(node, "sequence", "feature")
    if isinstance(inner, Mapping) and path.startswith(f"{STEPS}/"):
        leaf = _parse_leaf(inner, path)
        if leaf.kind != "tensor" or leaf.encoding != "none" or leaf.length is not None:
            return Leaf(path, "a sequence of something else than plain numbers")
        length = _parse_int(_get(node, "sequence", "length", default="-1"), path)
        return Leaf(path, "tensor", leaf.shape, leaf.dtype, "none", length)
    if "text" in node:
        return Leaf(path, "text")
    if "classLabel" in node:
        return Leaf(path, "tensor", (), "int64", "none")
    if "image" in node:
        shape = _parse_shape(_get(node, "image", "shape"), path)
        dtype = _get(node, "image", "dtype", default="uint8")
        encoding = str(_get(node, "image", "encodingFormat", default=""))
        return Leaf(path, "image", shape, str(dtype), encoding)
    if "tensor" in node:
        return _parse_tensor(node, path)
    return Leaf(path, str(node.get("pythonClassName", "unnamed")).rpartition(".")[2])


def _parse_tensor(node: Mapping[str, Any], path: str) -> Leaf:
    shape = _parse_shape(_get(node, "tensor", "shape"), path)
    dtype = str(_get(node, "tensor", "dtype"))
    encoding = str(_get(node, "tensor", "encoding", default="none") or "none").lower()
    if dtype in ("string", "object", "str", "bytes"):
        return Leaf(path, "text") if shape == () else Leaf(path, f"an array of strings {shape}")
    if dtype not in TENSOR_TYPES or encoding not in ("none", "bytes", "zlib"):
        return Leaf(path, f"a tensor of {dtype} encoded as {encoding}")
    if None in shape:
        return Leaf(path, f"a tensor of unknown shape {shape}")
    return Leaf(path, "tensor", shape, dtype, encoding)


def _get(node: Any, *keys: str, default: Any = None) -> Any:
    for key in keys:
        if not isinstance(node, Mapping):
            return default
        node = node.get(key, default)
    return node


def _parse_shape(shape: Any, path: str) -> tuple[int | None, ...]:
    dimensions = _get(shape, "dimensions", default=[])
    if not isinstance(dimensions, list) or len(dimensions) > _MAX_DEPTH:
        raise ValueError(f"`{path}` has the shape {str(shape)[:80]}")
    sizes = [_parse_int(dimension, path) for dimension in dimensions]
    return tuple(None if size == -1 else size for size in sizes)


def _parse_int(value: Any, path: str) -> int:
    """Return an integer of at least -1, which JSON of protocol buffers holds as a string."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -2
    if not -1 <= number < 2**40:
        raise ValueError(f"`{path}` has the size {str(value)[:40]!r}")
    return number


def _build_node(node: Any, path: str) -> dict[str, Any]:
    if isinstance(node, Leaf):
        return _build_leaf(node)
    children = {
        name: _build_node(child, f"{path}/{name}".lstrip("/")) for name, child in node.items()
    }
    built = {
        "pythonClassName": f"{_MODULE}.features_dict.FeaturesDict",
        "featuresDict": {"features": children},
    }
    if path != STEPS:
        return built
    return {
        "pythonClassName": f"{_MODULE}.dataset_feature.Dataset",
        "sequence": {"feature": built, "length": "-1"},
    }


def _build_leaf(leaf: Leaf) -> dict[str, Any]:
    if leaf.kind == "text":
        return {"pythonClassName": f"{_MODULE}.text_feature.Text", "text": {}}
    shape = {"dimensions": [str(size) for size in leaf.shape]} if leaf.shape else {}
    if leaf.kind == "image":
        content = {"shape": shape, "dtype": leaf.dtype, "encodingFormat": leaf.encoding}
        return {"pythonClassName": f"{_MODULE}.image_feature.Image", "image": content}
    name = "tensor_feature.Tensor" if leaf.shape else "scalar.Scalar"
    content = {"shape": shape, "dtype": leaf.dtype, "encoding": leaf.encoding}
    return {"pythonClassName": f"{_MODULE}.{name}", "tensor": content}


def describe_tensor(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Leaf:
    """Return the leaf that stores numbers exactly.

    Examples know float32 and int64 only: float64 is stored as bytes, and so are small integers,
    which would take more room.
    """
    as_bytes = dtype == np.float64 or (dtype.kind in "iu" and dtype.itemsize <= 2)
    return Leaf(path, "tensor", shape, dtype.name, "bytes" if as_bytes else "none")
