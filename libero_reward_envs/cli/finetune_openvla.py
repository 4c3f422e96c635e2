"""Fine-tune OpenVLA: `libero-reward finetune-openvla --model NAME --data PATH --out FOLDER`.

By LoRA, by LoRA on a 4-bit model, or in full, on LIBERO's or one's own episodes. Writes one folder:
settings, checkpoints with adapters and what the run needs to go on, curves, held-out losses, and
pictures of predicted and true actions. The same command goes on where a stopped run was. On several
GPUs: `torchrun --nproc-per-node 8 --no-python libero-reward finetune-openvla ...`, or `accelerate
launch --no_python` in its place.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from libero_reward_envs.agents.openvla_config import FinetuneConfig

_FROM_FILE = tyro.conf.arg(help_behavior_hint="(default: that of the file)")
# Flags that are no settings of the run.
_OTHER_FLAGS = ("overrides", "config", "estimate_only", "overwrite")


@dataclasses.dataclass(frozen=True)
class FinetuneOpenVLAArgs:
    """Fine-tune OpenVLA as a YAML file, flags and KEY=VALUE say, the later ones winning.

    KEY is any setting of the file, such as `camera_names=[primary,wrist]`, `lora_target=attention`,
    `gradient_checkpointing=true`, `image_aug=false`, `action_dim=14`, `warmup_steps=100`,
    `lr_schedule=cosine`, `holdout_fraction=0.1`, `filter_no_ops=true`, `report_to=[wandb]`. All of
    them, with their defaults, stand in the `config.yaml` that each run writes.
    """

    overrides: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="[KEY=VALUE ...]")]
    ] = ()
    """Settings that win over flags and file."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML file, such as examples/openvla_policy/openvla.yaml."""
    model: Annotated[str | None, _FROM_FILE, tyro.conf.arg(aliases=("--model-name-or-path",))] = (
        None
    )
    """Folder or Hub id of the model, or tiny-random-openvla."""
    data: Annotated[str | None, _FROM_FILE, tyro.conf.arg(aliases=("--data-dir",))] = None
    """Episodes in any format that `libero-reward inspect` reads; several by `data=[A,B]`."""
    out: Annotated[str | None, _FROM_FILE, tyro.conf.arg(aliases=("--output-dir",))] = None
    """Folder of the run."""
    training_mode: Annotated[Literal["lora", "full"] | None, _FROM_FILE] = None
    """What is trained: adapters, or everything."""
    lora_r: Annotated[int | None, _FROM_FILE, tyro.conf.arg(aliases=("--lora-rank",))] = None
    """Rank of the adapters."""
    lora_alpha: Annotated[int | None, _FROM_FILE] = None
    """Adapters count alpha / rank."""
    lora_dropout: Annotated[float | None, _FROM_FILE] = None
    """Share of an adapter's inputs that is dropped."""
    use_quantization: Annotated[Literal["true", "false", "True", "False"] | None, _FROM_FILE] = None
    """Whether adapters are trained on a model in 4 bits."""
    max_steps: Annotated[int | None, _FROM_FILE] = None
    """Updates; or give --num-epochs."""
    num_epochs: Annotated[int | None, _FROM_FILE] = None
    """Passes over the data."""
    batch_size: Annotated[int | None, _FROM_FILE] = None
    """Steps of a batch, of each process."""
    gradient_accumulate_every: Annotated[int | None, _FROM_FILE] = None
    """Batches of an update."""
    learning_rate: Annotated[float | None, _FROM_FILE] = None
    """Peak of the learning rate; 5e-4 for adapters and 2e-5 in full."""
    checkpoint_every: Annotated[int | None, _FROM_FILE] = None
    """Updates, or passes with --num-epochs, between checkpoints; at the end only if not given."""
    seed: Annotated[int | None, _FROM_FILE] = None
    """Decides the order of steps, changes of pictures, and the adapters' first values."""
    device: Annotated[Literal["auto", "cpu"] | None, _FROM_FILE] = None
    """Where to train."""
    estimate_only: bool = False
    """Say what it takes, and whether that fits, and load nothing."""
    overwrite: bool = False
    """Delete the results of a run with other settings in the same folder."""


def main(args: FinetuneOpenVLAArgs) -> None:
    """Fine-tune, with a progress bar, and say what came of it."""
    from libero_reward_envs.agents.openvla_config import load_finetune_config

    config, notes = load_finetune_config(args.config, [*_list_flags(args), *args.overrides])
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first:
        for note in notes:
            print(f"Note: {note}")
    try:
        _run(args, config, is_first)
    except MemoryError as error:  # what to change stands in it: no traceback
        raise RuntimeError(str(error)) from error


def _run(args: FinetuneOpenVLAArgs, config: "FinetuneConfig", is_first: bool) -> None:
    from libero_reward_envs.agents.openvla_finetuning import describe_estimate, finetune_openvla

    if args.estimate_only:
        print(describe_estimate(config))
        return
    run = finetune_openvla(config, overwrite=args.overwrite, show_progress=True, tell=print)
    if not is_first:
        return
    if run.values:
        print(
            f"After {run.steps} updates: loss {run.values['loss']:.4f}, "
            f"action accuracy {run.values['accuracy']:.3f}"
            + (
                f"; held out {run.values['holdout_loss']:.4f}, {run.values['holdout_accuracy']:.3f}"
                if "holdout_loss" in run.values
                else ""
            )
        )
    else:
        print(f"Trained for {run.steps} updates already.")
    print(f"Checkpoint: {run.checkpoint}")


def _list_flags(args: FinetuneOpenVLAArgs) -> Iterator[str]:
    """Yield the flags that were given, as settings."""
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name not in _OTHER_FLAGS and value is not None:
            if field.name == "use_quantization":
                value = value.lower()
            yield f"{field.name}={value}"
