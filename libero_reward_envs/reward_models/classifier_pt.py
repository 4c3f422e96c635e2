"""The `.pt` checkpoint of success classifiers that RLinf describes: five keys, one file."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.resnet10 import CHANNELS, compute_feature_size
from libero_reward_envs.reward_models.torch_files import check_state_dict, read_torch_file

CHECKPOINT_KEYS = ("epoch", "model_state_dict", "optimizer_state_dict", "train_loss", "train_acc")

# Where the state dict's own metadata, which other readers pass over, holds `arguments`.
_METADATA_KEY = "libero_reward_envs"
# What the code that made files without metadata did, whatever was trained.
_FOREIGN = {"normalization": "unit", "padding": "symmetric"}
_FOREIGN_SCALE = 32  # pixels a position of the features, if H and W are multiples of it


class ClassifierCheckpoint(NamedTuple):
    """What a `.pt` checkpoint holds.

    Attributes:
        classifier: The network with its weights, in evaluation mode.
        epoch: The epoch after which it was written.
        train_loss: Mean loss of that epoch.
        train_acc: Share of training frames on the right side of 0.5.
        optimizer_state_dict: What the optimiser's `load_state_dict` takes; empty if not kept.
    """

    classifier: BinaryRewardClassifier
    epoch: int
    train_loss: float
    train_acc: float
    optimizer_state_dict: dict[str, Any]


def write_checkpoint_pt(
    path: str | Path,
    classifier: BinaryRewardClassifier,
    *,
    epoch: int,
    train_loss: float,
    train_acc: float,
    optimizer_state_dict: Mapping[str, Any] | None = None,
) -> None:
    """Write the five keys, whole or not at all; the folder is made if there is none.

    The arguments that rebuild the network go into the state dict's metadata, so a reader that does
    not know them finds the five keys and nothing else.
    """
    path = Path(path)
    state = classifier.state_dict()
    for name, value in state.items():
        state[name] = value.detach().cpu().contiguous()
    metadata: Any = state._metadata  # pyright: ignore[reportAttributeAccessIssue]  torch's own place
    metadata[_METADATA_KEY] = classifier.arguments
    values = (epoch, state, dict(optimizer_state_dict or {}), float(train_loss), float(train_acc))
    buffer = io.BytesIO()
    torch.save(dict(zip(CHECKPOINT_KEYS, values, strict=True)), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [buffer.getvalue()])


def read_checkpoint_pt(
    path: str | Path,
    *,
    image_keys: Sequence[str] | None = None,
    image_size: Sequence[int] | None = None,
    normalization: str | None = None,
    padding: str | None = None,
) -> ClassifierCheckpoint:
    """Read a checkpoint of this package or of RLinf; nothing is unpickled but tensors and values.

    Image keys, widths, backbone and `use_pretrain` are read off the tensors' names and shapes. What
    shapes do not tell comes from the file's metadata, else from the arguments.

    Args:
        path: The file.
        image_keys: Checked against the file, if given.
        image_size: [C, H, W], checked against the file if given. A file without metadata tells only
            H and W rounded up to multiples of 32, and nothing if the features were averaged.
        normalization: Checked against the file if given; for a file without metadata, None means
            "unit" and a warning.
        padding: As `normalization`, with "symmetric".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds objects, lacks or adds a tensor, or contradicts an
            argument.
    """
    content = read_torch_file(path)
    state, values = _check_content(content, path)
    shapes = _read_shapes(state, path)
    stated = _read_metadata(content["model_state_dict"], path)
    wanted = {
        "image_keys": None if image_keys is None else list(image_keys),
        "image_size": None if image_size is None else list(image_size),
        "normalization": normalization,
        "padding": padding,
    }
    arguments = _merge(shapes, stated, wanted, path)
    try:
        classifier = BinaryRewardClassifier(**arguments, weights_follow=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The arguments in {str(path)!r} do not fit: {error}") from error
    check_state_dict(state, path, classifier.state_dict())
    classifier.load_state_dict(state)
    return ClassifierCheckpoint(classifier.eval(), **values)


def _check_content(content: Any, path: str | Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the tensors, without those of a last layer that nothing reads, and the other keys."""
    if not isinstance(content, dict) or "model_state_dict" not in content:
        came = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"Expected a checkpoint with the keys {', '.join(CHECKPOINT_KEYS)} in {str(path)!r}, "
            f"got {came[:200]}. Weights of an encoder alone are for `pretrained_encoder_path`."
        )
    unknown = sorted(map(str, content.keys() - set(CHECKPOINT_KEYS)))
    if unknown:
        warnings.warn(f"Keys in {str(path)!r} that are not read: {unknown}.", stacklevel=3)
    state = check_state_dict(content["model_state_dict"], path)
    ends = (".resnet_backbone.fc.weight", ".resnet_backbone.fc.bias")
    state = {name: value for name, value in state.items() if not name.endswith(ends)}
    optimizer = content.get("optimizer_state_dict") or {}
    numbers = {name: content.get(name, 0) for name in ("epoch", "train_loss", "train_acc")}
    wrong = [name for name, value in numbers.items() if not isinstance(value, int | float)]
    if wrong or not isinstance(optimizer, dict):
        raise ValueError(f"Expected numbers under {wrong or 'optimizer_state_dict'} in {path}.")
    return state, {**numbers, "epoch": int(numbers["epoch"]), "optimizer_state_dict": optimizer}


def _read_shapes(state: Mapping[str, torch.Tensor], path: str | Path) -> dict[str, Any]:
    """Return the arguments that the tensors' names and shapes tell, and the kernel's size."""
    end = ".pooling_layer.kernel"
    names = [name for name in state if name.startswith("encoders.") and name.endswith(end)]
    keys = [name[len("encoders.") : -len(end)] for name in names]
    first = state.get("classifier.0.weight")
    kernels = {tuple(state[name].shape) for name in names}
    # The width is believed only of a matrix that is really there: memory is asked for by it.
    if len(kernels) != 1 or first is None or first.ndim != 2 or not _is_joint(first, len(keys)):
        raise ValueError(
            f"Expected 'encoders.<image key>{end}' and 'classifier.0.weight' of a success "
            f"classifier in {str(path)!r}, got: {', '.join(list(state)[:8])}, ..."
        )
    kernel = kernels.pop()
    if len(kernel) != 4 or kernel[0] != CHANNELS[-1]:
        raise ValueError(f"Expected kernels (512, h, w, F) in {str(path)!r}, got {kernel}.")
    deep = f"encoders.{keys[0]}.resnet_backbone.layer1.1.conv1.weight" in state
    return {
        "image_keys": keys,
        "hidden_dim": first.shape[0],
        "num_spatial_blocks": kernel[3],
        "use_pretrain": kernel[1:3] != (1, 1),
        "backbone": "resnet18" if deep else "resnet10",
        "feature_size": kernel[1:3],
    }


def _is_joint(weight: torch.Tensor, n_keys: int) -> bool:
    return weight.shape[1] == weight.shape[0] * n_keys


def _read_metadata(state: Any, path: str | Path) -> dict[str, Any]:
    metadata = getattr(state, "_metadata", None)
    stated = metadata.get(_METADATA_KEY, {}) if isinstance(metadata, dict) else {}
    if not isinstance(stated, dict) or not all(isinstance(name, str) for name in stated):
        raise ValueError(f"The metadata in {str(path)!r} are damaged: {stated!r:.100}.")
    return stated


def _merge(
    shapes: dict[str, Any], stated: dict[str, Any], wanted: dict[str, Any], path: str | Path
) -> dict[str, Any]:
    """Return the network's arguments from all sources, which must agree."""
    feature_size = shapes.pop("feature_size")
    if not stated:
        stated = dict(shapes)
        _complete_foreign(stated, wanted, feature_size, path)
    elif shapes["use_pretrain"] is False:
        shapes.pop("use_pretrain")  # images of 32 pixels have one position in both variants
    given = {name: value for name, value in wanted.items() if value is not None}
    for name, value in {**shapes, **given}.items():
        if name not in stated or stated[name] != value:
            raise ValueError(
                f"Expected `{name}` {stated.get(name)!r}, with which {str(path)!r} was made, got "
                f"{value!r}. Leave it out to take the file's."
            )
    size: Any = stated.get("image_size")
    is_size = isinstance(size, list) and len(size) == 3 and all(isinstance(s, int) for s in size)
    if not is_size:
        raise ValueError(f"Expected `image_size` as [C, H, W], got {size!r} for {str(path)!r}.")
    if stated.get("use_pretrain") and compute_feature_size(size[1], size[2]) != feature_size:
        raise ValueError(
            f"Expected `image_size` of {feature_size[0]} x {feature_size[1]} blocks of "
            f"{_FOREIGN_SCALE} pixels, for which {str(path)!r} was made, got {size}."
        )
    return stated


def _complete_foreign(
    stated: dict[str, Any], wanted: dict[str, Any], feature_size: tuple[int, int], path: str | Path
) -> None:
    """Add what neither shapes nor metadata tell, from the arguments or as RLinf's code has it."""
    guessed = {name: value for name, value in _FOREIGN.items() if wanted[name] is None}
    stated.update({name: wanted[name] or value for name, value in _FOREIGN.items()})
    if wanted["image_size"] is not None:
        stated["image_size"] = wanted["image_size"]
    elif stated["use_pretrain"]:
        stated["image_size"] = [3, *(size * _FOREIGN_SCALE for size in feature_size)]
        guessed["image_size"] = str(stated["image_size"])
    else:
        raise ValueError(
            f"{str(path)!r} does not tell for which images it was made: its features are averaged. "
            "Pass `image_size`."
        )
    if guessed:
        guesses = ", ".join(f"{name}={value}" for name, value in guessed.items())
        warnings.warn(
            f"{str(path)!r} does not say how its images were made; taking {guesses}. "
            "Pass the arguments to say otherwise.",
            stacklevel=4,
        )
