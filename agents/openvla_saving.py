"""Checkpoints of a fine-tuning run: what a policy needs, and what the run needs to go on."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from libero_reward_envs.agents.openvla_adapters import save_adapters
from libero_reward_envs.agents.openvla_merging import POLICY_FILE, copy_other_files
from libero_reward_envs.agents.openvla_run_files import (
    find_latest,
    read_training_state,
    write_checkpoint_folder,
    write_training_state,
)
from libero_reward_envs.agents.openvla_training import FinetuneTrainer
from libero_reward_envs.openvla.loading import STATISTICS_FILE

# Not strict: adapters in the towers' last blocks never get a gradient, and so no moments.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
_SHARD_SIZE = "7GB"  # as published


def save_run(trainer: FinetuneTrainer, base_folder: Path) -> None:
    """Write the checkpoint of the updates so far; called in all processes, written by the first.

    `step_<updates>` or `epoch_<passes>` holds `adapter_model.safetensors` and
    `adapter_config.json`, or the whole model; `dataset_statistics.json`, `openvla_policy.json`, and
    the training state, of which nothing is pickled.

    Args:
        trainer: What is saved.
        base_folder: Of the model that is fine-tuned.

    Raises:
        OSError: If it cannot be written; the earlier checkpoints are as they were.
    """
    accelerator, config = trainer.accelerator, trainer.config
    model: Any = accelerator.unwrap_model(trainer.model)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    moments = get_optimizer_state_dict(trainer.model, optimizer, options=_WHOLE)
    weights = None
    if accelerator.distributed_type.value == "FSDP":
        weights = accelerator.get_state_dict(trainer.model)
    if accelerator.is_main_process:

        def write(folder: Path) -> None:
            if config.training_mode == "lora":
                save_adapters(model, folder)
            else:
                model.config.norm_stats = {
                    **(model.norm_stats or {}),
                    **trainer.data.describe_statistics(),
                }
                model.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD_SIZE)
                copy_other_files(base_folder, folder)
            _write_json(folder / STATISTICS_FILE, trainer.data.describe_statistics())
            _write_json(folder / POLICY_FILE, trainer.data.describe_policy(config))
            write_training_state(folder, _flatten(moments), _describe(trainer))

        name = f"step_{trainer.step}"
        if not trainer.counts_steps:
            name = f"epoch_{trainer.step // len(trainer.batches)}"
        write_checkpoint_folder(trainer.folder, name, write, keep=config.keep_checkpoints)
    accelerator.wait_for_everyone()


def restore_run(trainer: FinetuneTrainer) -> bool:
    """Go on from the latest checkpoint, whose weights the model has; False if there is none.

    Raises:
        ValueError: If it is damaged, or of other data.
    """
    folder = find_latest(trainer.folder)
    if folder is None:
        return False
    tensors, values = read_training_state(folder)
    now = _describe(trainer)
    for name in ("rows_per_update", "n_rows", "statistics"):
        if values.get(name) != now[name]:
            raise ValueError(
                f"{str(folder)!r} was trained with {name} {values.get(name)!r}, now it is "
                f"{now[name]!r}: the data, or the size of the batches of all processes together, "
                "are others. Begin again with --overwrite, or in another folder."
            )
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        moment, _, name = key.partition(":")
        state.setdefault(name, {})[moment] = value
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    moments = get_optimizer_state_dict(trainer.model, optimizer, options=_WHOLE)
    moments["state"] = state  # pyright: ignore[reportArgumentType] (typed as torch writes it)
    set_optimizer_state_dict(trainer.model, optimizer, moments, options=_WHOLE)
    trainer.step = int(values["step"])
    return True


def _flatten(moments: Any) -> dict[str, torch.Tensor]:
    """Return the optimiser's numbers by "<moment>:<parameter>"."""
    return {
        f"{moment}:{name}": torch.as_tensor(value)
        for name, parts in moments["state"].items()
        for moment, value in parts.items()
    }


def _describe(trainer: FinetuneTrainer) -> dict[str, Any]:
    """Return where the run is, and what must be the same when it goes on."""
    return {
        "step": trainer.step,
        "n_processes": trainer.accelerator.num_processes,
        "rows_per_update": trainer.batches.rows_per_update,
        "n_rows": len(trainer.data.train),
        "statistics": trainer.data.describe_statistics()[trainer.data.unnorm_key]["action"],
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
