"""Fine-tunes OpenVLA on episodes, in a folder of its own; the same call goes on after a stop."""

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from libero_reward_envs.agents.openvla_adapters import count_parameters, import_peft
from libero_reward_envs.agents.openvla_config import FinetuneConfig, describe_finetune_config
from libero_reward_envs.agents.openvla_estimate import (
    check_fits,
    estimate_finetuning,
)
from libero_reward_envs.agents.openvla_loading import make_quantization_config
from libero_reward_envs.agents.openvla_logs import (
    CURVES_FILE,
    HOLDOUT_FILE,
    LOG_FOLDER,
    FinetuneLog,
    check_loggers,
)
from libero_reward_envs.agents.openvla_run_files import (
    LATEST,
    LATEST_FILE,
    find_latest,
    list_checkpoints,
)
from libero_reward_envs.agents.openvla_saving import restore_run, save_run
from libero_reward_envs.agents.openvla_setup import load_finetune_data, load_trained_model
from libero_reward_envs.agents.openvla_training import (
    BAD_BATCH_FILE,
    SAMPLES_FOLDER,
    FinetuneTrainer,
)
from libero_reward_envs.evaluation.run_folder import RunFolder
from libero_reward_envs.openvla.checkpoint_files import find_checkpoint
from libero_reward_envs.openvla.loading import read_config
from libero_reward_envs.openvla.processor import OpenVLAProcessor

SETTINGS_FILE = "config.yaml"
_RESULTS = (SETTINGS_FILE, CURVES_FILE, HOLDOUT_FILE, LOG_FOLDER, SAMPLES_FOLDER, BAD_BATCH_FILE)
# What may differ when a run goes on.
_MAY_CHANGE = (
    *("out", "max_steps", "num_epochs", "checkpoint_every", "keep_checkpoints", "eval_every"),
    *("eval_steps", "log_every", "report_to", "project", "num_workers", "device"),
    # Their product with the number of processes must be the same, which the checkpoint checks.
    *("batch_size", "gradient_accumulate_every"),
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneRun:
    """What came of a run.

    Attributes:
        folder: Where everything is.
        checkpoint: The last one.
        steps: Updates.
        values: Those of the last update, as in `curves.csv`; empty if none was left to do.
    """

    folder: Path
    checkpoint: Path
    steps: int
    values: Mapping[str, float]


def describe_estimate(config: FinetuneConfig) -> str:
    """Return what the run takes beside what the device has, in words; nothing is loaded.

    Raises:
        FileNotFoundError: If there is no such model.
        MemoryError: If it does not fit; the message says what to change.
        ValueError: If no model is given, or it is not OpenVLA.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    model_config = read_config(_find_model(config))
    estimate = estimate_finetuning(model_config, config, device)
    return check_fits(estimate, model_config, config, device)


def finetune_openvla(
    config: FinetuneConfig,
    *,
    overwrite: bool = False,
    show_progress: bool = False,
    tell: Callable[[str], object] = _logger.info,
) -> FinetuneRun:
    """Fine-tune OpenVLA by LoRA or in full.

    Started by `accelerate launch` or `torchrun`, all processes train together. The weights of a run
    that was stopped, its losses and all that is drawn at random go on as if it had not been.

    Args:
        config: Of `load_finetune_config`. `config.out` gets `config.yaml` (all settings, to be
            given again), `config.json` (versions), checkpoints and `latest`, `curves.csv`,
            `holdout_episodes.csv`, `samples` and `logs`.
        overwrite: Whether to delete the results of a run with other settings in the same folder.
        show_progress: Whether to draw a progress bar.
        tell: Called with what is done and found, a line at a time, in the first process.

    Raises:
        FileNotFoundError: If model or data are not there.
        ImportError: If a package is missing; nothing was loaded.
        MemoryError: If the device has no room; nothing was loaded.
        OSError: If a checkpoint cannot be written; the one before is still there.
        RuntimeError: If a loss is not finite.
        ValueError: If a setting is wrong, the data do not fit, or the folder holds another run.
    """
    _check_installed(config)
    if config.max_steps is None and config.num_epochs is None:
        raise ValueError("Say by `max_steps` or `num_epochs` how long to train.")
    base_folder = _find_model(config)
    told = describe_estimate(config)
    accelerator = make_accelerator(config)
    is_first = accelerator.is_main_process
    say = tell if is_first else _say_nothing
    say(told)
    model_config = read_config(base_folder)
    processor = OpenVLAProcessor.from_pretrained(base_folder)
    data = load_finetune_data(config, model_config, processor)
    say(data.note)
    run = RunFolder(config.out)
    if is_first:
        _begin(run, config, overwrite)
    accelerator.wait_for_everyone()
    model = load_trained_model(config, base_folder, accelerator.device, find_latest(run.path))
    total, trained = count_parameters(model)
    say(f"Trained: {trained:,} of {total:,} parameters.")
    trainer = FinetuneTrainer(
        config, data, accelerator, *_prepare(accelerator, model, config), run.path
    )
    if restore_run(trainer):
        say(f"Going on from update {trainer.step}: {find_latest(run.path)}")
    values = _train(trainer, run, base_folder, show_progress and is_first)
    checkpoint = find_latest(run.path)
    assert checkpoint is not None
    return FinetuneRun(run.path, checkpoint, trainer.step, values)


def make_accelerator(config: FinetuneConfig) -> Any:
    """Return accelerate's link between the processes; it computes in bfloat16 on GPUs."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Parts of the towers never get a gradient; there are no buffers that change.
    distribution = DistributedDataParallelKwargs(
        find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
    )
    is_cpu = config.device == "cpu" or not torch.cuda.is_available()
    return Accelerator(
        cpu=is_cpu,
        mixed_precision="no" if is_cpu else "bf16",
        kwargs_handlers=[distribution],
    )


def _prepare(accelerator: Any, model: Any, config: FinetuneConfig) -> tuple[Any, Any]:
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.peak_learning_rate, weight_decay=config.weight_decay
    )
    return accelerator.prepare(model, optimizer)


def _train(
    trainer: FinetuneTrainer, run: RunFolder, base_folder: Path, show_progress: bool
) -> Mapping[str, float]:
    """Train until the end, and return the values of the last update."""
    from tqdm import tqdm

    config = trainer.config
    last: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        log = None
        if trainer.accelerator.is_main_process:
            settings = describe_finetune_config(config)
            log = FinetuneLog(
                run.path,
                config.report_to,
                step=trainer.step,
                project=config.project,
                settings=settings,
            )
            stack.callback(log.close)
        bar = stack.enter_context(
            tqdm(
                total=trainer.n_steps,
                initial=trainer.step,
                desc="fine-tune",
                unit="update",
                disable=not show_progress,
                mininterval=1 if sys.stderr.isatty() else 30,  # seconds; a log keeps every line
            )
        )

        def show(values: Mapping[str, float]) -> None:
            last.update(values)
            bar.update()
            bar.set_postfix(
                loss=f"{values['loss']:.3f}",
                accuracy=f"{values['accuracy']:.3f}",
                waited=f"{values['waited_share']:.0%}",
            )

        def save(trainer: FinetuneTrainer) -> None:
            save_run(trainer, base_folder)
            if trainer.accelerator.is_main_process:
                run.register(
                    *_RESULTS, LATEST, LATEST_FILE, *map(_name, list_checkpoints(run.path))
                )

        trainer.train(log, save, show)
    return last


def _begin(run: RunFolder, config: FinetuneConfig, overwrite: bool) -> None:
    settings = describe_finetune_config(config)
    matters = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
    run.begin(matters, overwrite=overwrite)
    run.register(*_RESULTS, LATEST, LATEST_FILE)
    run.write_bytes(SETTINGS_FILE, yaml.safe_dump(settings, sort_keys=False).encode())


def _check_installed(config: FinetuneConfig) -> None:
    check_loggers(config.report_to)
    if config.training_mode == "lora":
        import_peft()
    if config.use_quantization:
        make_quantization_config("4bit")
    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportUnusedImport] (only whether it is there)
    except ImportError as error:
        raise ImportError(
            "Fine-tuning needs accelerate. Install it by `pip install "
            "'libero-reward-envs[openvla]'`."
        ) from error


def _find_model(config: FinetuneConfig) -> Path:
    if not config.model:
        raise ValueError(
            "Say by `model` (--model) what to fine-tune, such as 'openvla/openvla-7b', or "
            "'tiny-random-openvla' to try things out."
        )
    return find_checkpoint(config.model)


def _name(path: Path) -> str:
    return path.name


def _say_nothing(_: str) -> None:
    pass
