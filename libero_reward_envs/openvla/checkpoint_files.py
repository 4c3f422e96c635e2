"""The files of an OpenVLA checkpoint: finding them, checking them, and reading some tensors only.

Weights are read from safetensors alone. Nothing is unpickled, and no code that lies beside the
weights or that a configuration names is run.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from libero_reward_envs.envs.assets import cache_folder

# A model with random weights that is made where it is asked for; see `openvla.tiny`.
TINY_OPENVLA = "tiny-random-openvla"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"

_TINY_VERSION = 1
_HUB_FILES = (
    *("*.json", "*.safetensors", "tokenizer.model"),
    *("action_head--*.pt", "proprio_projector--*.pt"),  # of OpenVLA-OFT, see `oft_files`
)
_DESCRIBING_FILES = ("*.json", "tokenizer.model")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")  # how the Hub's cache names a snapshot's folder
# A name for each tensor of the published model takes 90 kB.
_MAX_INDEX_BYTES = 64 * 2**20
_SHOWN_NAMES = 6
_FLOAT_TYPES = ("BF16", "F16", "F32", "F64")


class StoredTensor(NamedTuple):
    """Where a tensor lies, and what its file's header says of it.

    Attributes:
        shard: The file.
        dtype: Type in safetensors' words, such as "BF16".
        shape: Its shape.
    """

    shard: Path
    dtype: str
    shape: tuple[int, ...]


def find_checkpoint(
    name_or_path: str | Path,
    *,
    wanted: Callable[[str], bool] | None = None,
    weights: bool = True,
    revision: str | None = None,
    local_files_only: bool = False,
    **hub_options: Any,
) -> Path:
    """Return the folder of a checkpoint, downloaded from the Hugging Face Hub where it is an id.

    Args:
        name_or_path: A folder, an id such as "openvla/openvla-7b", or `TINY_OPENVLA`, which is made
            in the cache folder on first use.
        wanted: Which tensors are needed, by name. Only shards that the index has for one of them
            are downloaded then; a checkpoint in a single file is downloaded whole. All if None.
        weights: Whether weights are needed at all, or only the files that describe the model.
        revision: Branch, tag or commit on the Hub; its default branch if None.
        local_files_only: Do not go to the network, take what was downloaded earlier.
        hub_options: Further arguments of `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: If it is neither a folder nor a repository that can be reached.
        ValueError: If the index of the weights is damaged, or names files elsewhere.
    """
    if name_or_path == TINY_OPENVLA:
        return _make_tiny()
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    # A path object, or a string that no Hub id can be, is never looked up on the network.
    if isinstance(name_or_path, Path) or not _HUB_ID.fullmatch(name_or_path):
        raise FileNotFoundError(
            f"No folder {str(folder)!r} with an OpenVLA checkpoint. Give a folder, a Hub id such "
            f"as 'openvla/openvla-7b', or {TINY_OPENVLA!r}."
        )
    options = {"revision": revision, "local_files_only": local_files_only, **hub_options}
    if weights and wanted is None:
        return _download(name_or_path, _HUB_FILES, options)
    folder = _download(name_or_path, _DESCRIBING_FILES, options)
    if not weights or wanted is None:
        return folder
    shards = [WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        index = _read_index(folder / INDEX_FILE)
        shards = sorted({file_name for name, file_name in index.items() if wanted(name)})
    if _COMMIT.fullmatch(folder.name):
        options["revision"] = folder.name  # a branch may have moved on since the index was read
    return _download(name_or_path, shards, options) if shards else folder


def _download(hub_id: str, patterns: Iterable[str], options: Mapping[str, Any]) -> Path:
    """Download files of a repository, and return the folder where they lie."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns), **options))
    except (OSError, ValueError) as error:  # what the Hub raises are kinds of OSError or ValueError
        raise FileNotFoundError(
            f"{hub_id!r} is neither a folder here nor a repository of the Hub "
            f"that can be reached: {error}"
        ) from error


def list_tensors(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, StoredTensor]:
    """List the tensors of a checkpoint by name, from the headers of its shards.

    Only shards that hold a wanted tensor are opened or need to be there.

    Args:
        folder: The checkpoint.
        wanted: Which names to list; all by default.

    Raises:
        FileNotFoundError: If there are no weights, or a shard is missing.
        ValueError: If the index or a shard is damaged, or the index names files elsewhere.
    """
    index_file, weights_file = folder / INDEX_FILE, folder / WEIGHTS_FILE
    if weights_file.is_file():  # before the index, as transformers has it
        with _open_shard(weights_file) as shard:
            names = [name for name in shard.keys() if wanted(name)]  # noqa: SIM118 (no mapping)
            return dict(_list_shard(weights_file, shard, names))
    if not index_file.is_file():
        raise FileNotFoundError(_say_what_is_there(folder))
    by_shard: dict[str, list[str]] = {}
    for name, file_name in _read_index(index_file).items():
        if wanted(name):
            by_shard.setdefault(file_name, []).append(name)
    missing = sorted(name for name in by_shard if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"Expected {len(by_shard)} shards of weights in {str(folder)!r}, got "
            f"{len(by_shard) - len(missing)}; missing: {', '.join(missing)}. Download them again."
        )
    found: dict[str, StoredTensor] = {}
    for file_name, names in by_shard.items():
        with _open_shard(folder / file_name) as shard:
            found.update(_list_shard(folder / file_name, shard, names))
    return found


def read_tensors(
    tensors: Mapping[str, StoredTensor], names: Iterable[str] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors one by one, shard by shard, as they are stored, on the CPU.

    Args:
        tensors: What `list_tensors` returned.
        names: Which of them; all if None.

    Raises:
        KeyError: If a name is not among `tensors`.
        ValueError: If a shard is damaged.
    """
    by_shard: dict[Path, list[str]] = {}
    for name in tensors if names is None else names:
        by_shard.setdefault(tensors[name].shard, []).append(name)
    for path, names_in_shard in by_shard.items():
        with _open_shard(path) as shard:
            for name in sorted(names_in_shard):
                yield name, shard.get_tensor(name)


def check_shapes(
    tensors: Mapping[str, StoredTensor], expected: Mapping[str, torch.Tensor], folder: Path
) -> list[str]:
    """Check that a checkpoint holds each tensor of a model, in its shape.

    Returns:
        The names that the model does not know.

    Raises:
        ValueError: If a tensor is missing, of another shape, or not of floats.
    """
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise ValueError(
            f"Expected {len(expected)} tensors in {str(folder)!r}, got {len(tensors)}; "
            f"missing: {_shorten(missing)}. The checkpoint is incomplete, or its config.json is "
            "that of another model."
        )
    for name, value in expected.items():
        if tensors[name].shape != tuple(value.shape):
            raise ValueError(
                f"Expected tensor {name!r} of shape {tuple(value.shape)} as config.json has it, "
                f"got {tensors[name].shape} in {str(tensors[name].shard)!r}. "
                "Take the config.json that belongs to these weights."
            )
        if tensors[name].dtype not in _FLOAT_TYPES:
            raise ValueError(
                f"Expected tensor {name!r} as {', '.join(_FLOAT_TYPES)}, got {tensors[name].dtype} "
                f"in {str(tensors[name].shard)!r}. Take the checkpoint that is not quantised."
            )
    return sorted(tensors.keys() - expected.keys())


def _read_index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor by name."""
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise ValueError(f"{str(path)!r} is too large for an index: {path.stat().st_size} bytes.")
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is no index of weights: {error!r}. Download it again."
        ) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{str(path)!r} lists no tensors under 'weight_map'. Download it again.")
    for name, file_name in weight_map.items():
        is_plain = isinstance(file_name, str) and re.fullmatch(r"[\w.-]+\.safetensors", file_name)
        if not is_plain:
            raise ValueError(
                f"Expected each shard in {str(path)!r} as the name of a .safetensors file beside "
                f"it, got {file_name!r} for {name!r}. Do not use this checkpoint."
            )
    return weight_map


@contextmanager
def _open_shard(path: Path) -> Iterator[Any]:
    """Open a file of safetensors; its header and its length are checked before anything is read."""
    try:
        shard = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged or cut short, {path.stat().st_size} bytes long: {error}. "
            "Download it again."
        ) from error
    with shard as file:
        yield file


def _list_shard(path: Path, shard: Any, names: Iterable[str]) -> Iterator[tuple[str, StoredTensor]]:
    held = set(shard.keys())
    for name in names:
        if name not in held:
            raise ValueError(
                f"Expected tensor {name!r} in {str(path)!r}, where the index has it, but the shard "
                "does not hold it. Index and shards belong to different checkpoints."
            )
        entry = shard.get_slice(name)
        yield name, StoredTensor(path, entry.get_dtype(), tuple(entry.get_shape()))


def _say_what_is_there(folder: Path) -> str:
    expected = f"Expected {WEIGHTS_FILE} or {INDEX_FILE} in {str(folder)!r}"
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return f"{expected}, got a LoRA adapter. Merge it into its base model first."
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern))
    if pickles:
        return (
            f"{expected}, got {_shorten(pickles)}. Pickled weights can run code and are not read; "
            "convert them to safetensors."
        )
    return f"{expected}, got neither."


def _shorten(names: list[str]) -> str:
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _make_tiny() -> Path:
    """Return the folder of the tiny model in the cache, made if it is not there."""
    from libero_reward_envs.openvla.tiny import make_tiny_openvla

    folder = cache_folder() / f"{TINY_OPENVLA}-{_TINY_VERSION}"
    if not folder.is_dir():
        try:
            make_tiny_openvla(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder
