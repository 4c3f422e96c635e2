"""The configuration of `libero-reward finetune-openvla`, in the forms in which it is written."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from libero_reward_envs.agents.openvla_examples import GRIPPERS
from libero_reward_envs.data.orientations import ORIENTATIONS
from libero_reward_envs.yaml_config import apply_overrides, build_settings, check_known, read_yaml

LOGGERS = ("tensorboard", "wandb", "trackio")
# Blocks that keys may stand in; which one makes no difference.
_BLOCKS = (
    *("pretrained_config", "config_params", "model", "training", "dataloader", "data"),
    *("optimizer", "lora", "logging", "policy", "evaluation"),
)
_ALIASES = {
    "model_name_or_path": "model",
    "model_name": "model",
    "vla_path": "model",
    "lora_rank": "lora_r",
    "target_modules": "lora_target",
    "torch_dtype": "dtype",
    "gradient_accumulation_steps": "gradient_accumulate_every",
    "grad_accumulation_steps": "gradient_accumulate_every",
    "save_steps": "checkpoint_every",
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "data_dir": "data",
    "output_dir": "out",
}
# What other projects' files say that decides nothing here, and why.
_MEANINGLESS = {
    "name": "there is one kind of policy",
    "module_path": "there is one kind of policy",
    "config_class": "there is one kind of policy",
    "model_class": "there is one kind of policy",
    "is_pretrained": "the model is always loaded from its checkpoint",
    "state_dim": "OpenVLA reads images and the instruction, not the robot's state",
}
_LEARNING_RATES = {"lora": 5e-4, "full": 2e-5}  # as published


@dataclass(frozen=True)
class FinetuneConfig:
    """All settings; see `libero-reward finetune-openvla --help` and examples/openvla_policy."""

    model: str = ""
    data: tuple[str, ...] = ()
    out: str = "runs/openvla"
    # What is trained.
    training_mode: Literal["lora", "full"] = "lora"
    lora_r: int = 32
    lora_alpha: int | None = None  # None: the smaller of lora_r and 16, as published
    lora_dropout: float = 0.0
    lora_target: tuple[str, ...] = ("all-linear",)
    use_quantization: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the weights that are loaded
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    # What it is trained on.
    camera_names: tuple[str, ...] = ("primary",)
    action_dim: int | None = None  # None: that of the data
    instruction: str | None = None
    orientation: str | None = None
    gripper: str = "auto"
    filter_no_ops: bool = False
    only_successes: bool = True
    control_freq_hz: float | None = None
    resample: bool = False
    unnorm_key: str | None = None  # None: the suite, or the name of the data
    holdout_fraction: float = 0.05  # the published models saw 95 % of the episodes
    max_length: int = 2048
    prompt_version: Literal["v02", "v01"] = "v02"
    image_aug: bool = True
    augment_crop_ratio: float = 0.9  # of the area
    jpeg: bool | None = None  # None: if the pictures were in no JPEG file yet
    buffer_steps: int = 2048
    num_workers: int = 2  # threads that prepare pictures
    # How.
    batch_size: int = 16  # of one process
    gradient_accumulate_every: int = 1
    learning_rate: float | None = None  # None: 5e-4 for LoRA, 2e-5 in full
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float | None = None
    max_steps: int | None = None  # updates
    num_epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    # What is written, every so many updates, or passes where `num_epochs` is given.
    checkpoint_every: int | None = None  # None: at the end only
    keep_checkpoints: int | None = None
    eval_every: int | None = None  # None: as checkpoints
    eval_steps: int = 256  # held-out steps each time
    log_every: int = 1
    report_to: tuple[str, ...] = ("tensorboard",)
    project: str = "openvla"

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, that of the training mode if none is given."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _LEARNING_RATES[self.training_mode]


def load_finetune_config(
    path: str | Path | None, overrides: Sequence[str] = ()
) -> tuple[FinetuneConfig, list[str]]:
    """Read a configuration file, and notes on what in it decides nothing.

    Args:
        path: A YAML file; None for the defaults.
        overrides: Values of the command line such as "lora_r=16" or "training.batch_size=8", which
            win.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, a key is unknown or given twice, or a value is wrong; the
            message names the key.
    """
    document = {} if path is None else read_yaml(path)
    try:
        return parse_finetune_config(document, overrides)
    except ValueError as error:
        raise ValueError(f"In {str(path)!r}: {error}" if path is not None else str(error)) from None


def parse_finetune_config(
    document: Any, overrides: Sequence[str] = ()
) -> tuple[FinetuneConfig, list[str]]:
    """Read what a YAML file holds; see `load_finetune_config`.

    Example:
        >>> document = {"model": {"lora_rank": 16}, "training": {"num_epochs": 3}}
        >>> config, notes = parse_finetune_config(document, ["training.batch_size=8"])
        >>> config.lora_r, config.num_epochs, config.batch_size, notes
        (16, 3, 8, [])
    """
    notes: list[str] = []
    values = _flatten(document, notes)
    for override in overrides:
        keys, _, _ = override.partition("=")
        key = keys.strip().rsplit(".", 1)[-1]
        block = keys.rpartition(".")[0]
        if block:
            check_known([block], _BLOCKS, "")
        text = override[len(keys) - len(key) :]
        found = apply_overrides({}, [text], [key])
        values.update(_flatten(found, notes))
    for name in ("data", "lora_target", "camera_names", "report_to"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    # An empty list has a meaning for the loggers only.
    reports = values.pop("report_to", None) if values.get("report_to") == [] else ...
    config = build_settings(FinetuneConfig, values, "")
    if reports is not ...:
        config = dataclasses.replace(config, report_to=())
    _check(config)
    return config, notes


def describe_finetune_config(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings as `parse_finetune_config` takes them, all defaults written out."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def _flatten(document: Any, notes: list[str]) -> dict[str, Any]:
    """Return values by the names of `FinetuneConfig`, and note what decides nothing."""
    if document is not None and not isinstance(document, Mapping):
        raise ValueError(f"Expected a mapping of settings, got {document!r}.")
    known = [field.name for field in dataclasses.fields(FinetuneConfig)]
    values: dict[str, Any] = {}
    first: dict[str, str] = {}
    for name, key, value in _walk(document or {}):
        check_known([key], [*known, *_ALIASES, *_MEANINGLESS, "use_lora"], name.rpartition(".")[0])
        if key in _MEANINGLESS:
            notes.append(f"`{name}` ({value!r}) changes nothing: {_MEANINGLESS[key]}.")
            continue
        if key == "use_lora":
            key, value = "training_mode", _read_use_lora(name, value)
        key = _ALIASES.get(key, key)
        if key in values and values[key] != value:
            raise ValueError(
                f"`{first[key]}` is {values[key]!r} and `{name}` is {value!r}, which mean the "
                "same. Leave one of them out."
            )
        values[key], first[key] = value, name
    return values


def _walk(document: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Return dotted name, key and value of all settings of a file."""
    found = []
    for key, value in document.items():
        if key in _BLOCKS and isinstance(value, Mapping):
            found += [(f"{key}.{inner}", str(inner), part) for inner, part in value.items()]
        elif key in _BLOCKS and value is None:
            continue
        else:
            found.append((str(key), str(key), value))
    return found


def _read_use_lora(name: str, value: Any) -> str:
    if not isinstance(value, bool):
        raise ValueError(f"Expected true or false for `{name}`, got {value!r}.")
    return "lora" if value else "full"


def _check(config: FinetuneConfig) -> None:
    """Raise ValueError for settings that cannot be followed, whatever the data are."""
    if config.use_quantization and config.training_mode == "full":
        raise ValueError(
            "`use_quantization` is for LoRA: weights in 4 bits cannot be trained. Set "
            "`training_mode` to 'lora', or leave it out."
        )
    if config.max_steps is not None and config.num_epochs is not None:
        raise ValueError("Give one of `max_steps` and `num_epochs`, got both.")
    for name in (
        *("lora_r", "lora_alpha", "batch_size", "gradient_accumulate_every", "max_steps"),
        *("num_epochs", "checkpoint_every", "keep_checkpoints", "eval_every", "eval_steps"),
        *("log_every", "buffer_steps", "num_workers", "max_length", "action_dim"),
    ):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    for name in ("warmup_steps", "weight_decay", "seed"):
        if getattr(config, name) < 0:
            raise ValueError(f"`{name}` must be at least 0, got {getattr(config, name)}.")
    for name, value in (
        ("learning_rate", config.learning_rate),
        ("max_grad_norm", config.max_grad_norm),
        ("control_freq_hz", config.control_freq_hz),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"`{name}` must be above 0, got {value}.")
    for name in ("lora_dropout", "holdout_fraction"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be in [0, 1), got {getattr(config, name)}.")
    if not 0 < config.augment_crop_ratio <= 1:
        raise ValueError(f"`augment_crop_ratio` must be in (0, 1], got {config.augment_crop_ratio}")
    choices: dict[str, tuple[Sequence[str | None], Sequence[str]]] = {
        "gripper": ([config.gripper], GRIPPERS),
        "orientation": ([config.orientation], ORIENTATIONS),
        "report_to": (config.report_to, LOGGERS),
    }
    for name, (values, allowed) in choices.items():
        for value in values:
            if value is not None and value not in allowed:
                raise ValueError(f"Expected `{name}` from {', '.join(allowed)}, got {value!r}.")
