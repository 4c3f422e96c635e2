"""Fine-tunes the tiny OpenVLA on 20 scripted demonstrations until it knows them by heart.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_finetune.py [--modes lora full 4bit]

Shows that batches, loss, adapters and full training work: a model with random weights must come to
95 % of the action tokens of one LIBERO-Object task, and nothing is said about its success. 4-bit
training runs where bitsandbytes is installed.

The demonstrations are thinned to 5 steps a second.

- accuracy: of all training steps, after training, as a policy sees them;
- waited: share of the time in which updates waited for data, in the run itself;
- loading/training: rows that data loading alone gives a second, against rows of training a second,
  both on the same cores one after the other; above 1, loading keeps up. The second figure is with
  random changes of the pictures, which the run itself leaves out.

Writes one row a mode to `results/bench_finetune.csv` beside this file; rows of other modes stay.
"""

import argparse
import contextlib
import csv
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import libero_reward_envs  # noqa: F401  # before torch, see envs/rendering.py
from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.agents.openvla_batches import PolicyBatches, iterate_holdout
from libero_reward_envs.agents.openvla_config import FinetuneConfig, parse_finetune_config
from libero_reward_envs.agents.openvla_finetuning import FinetuneRun, finetune_openvla
from libero_reward_envs.agents.openvla_logs import read_finetune_curves
from libero_reward_envs.agents.openvla_loss import compute_action_loss
from libero_reward_envs.agents.openvla_setup import load_finetune_data, load_trained_model
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA, find_checkpoint
from libero_reward_envs.openvla.loading import read_config
from libero_reward_envs.openvla.processor import OpenVLAProcessor

RESULTS = Path(__file__).parent / "results" / "bench_finetune.csv"
COLUMNS = (
    *(
        "mode",
        "demonstrations",
        "hz",
        "steps",
        "updates",
        "batch_size",
        "learning_rate",
        "accuracy",
    ),
    *("l1_physical", "last_loss", "minutes", "waited", "loading_training", "augmented_training"),
)
RATES = {"lora": 5e-3, "full": 3e-3, "4bit": 5e-3}
N_DEMONSTRATIONS, IMAGE_SIZE = 20, 112
N_TIMED_BATCHES = 12


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or collect(Path(folder) / "demonstrations.h5")
        for mode in args.modes:
            row = measure(mode, data, Path(folder) / mode, args)
            print(row, flush=True)
            write(row)


def collect(path: Path) -> Path:
    collect_episodes(
        "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket",
        N_DEMONSTRATIONS,
        path,
        success_fraction=1.0,
        seed=0,
        obs_type="pixels_state",
        assets="builtin",
        image_size=IMAGE_SIZE,
        cameras=("agentview",),
        progress=True,
    )
    return path


def measure(mode: str, data: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    config, _ = parse_finetune_config(
        {
            **{"model": TINY_OPENVLA, "data": str(data), "out": str(out), "device": "cpu"},
            **{"training_mode": "full" if mode == "full" else "lora"},
            **{"use_quantization": mode == "4bit", "lora_r": 32, "max_grad_norm": 1.0},
            **{"learning_rate": RATES[mode], "lr_schedule": "cosine", "warmup_steps": 50},
            **{"batch_size": args.batch_size, "num_epochs": args.epochs, "image_aug": False},
            **{"holdout_fraction": 0.0, "report_to": [], "num_workers": 1},
            **({"control_freq_hz": args.hz, "resample": True} if args.hz else {}),
        }
    )
    begun = time.perf_counter()
    run = finetune_openvla(config, show_progress=True, tell=print)
    minutes = (time.perf_counter() - begun) / 60
    curves = read_finetune_curves(out / "curves.csv")
    accuracy, l1, n_rows = judge(config, run)
    rates = [time_loading(config, augmented) for augmented in (False, True)]
    trained = time_training(config, run)
    return {
        "mode": mode,
        "demonstrations": N_DEMONSTRATIONS,
        "hz": args.hz or 20,
        "steps": n_rows,
        "updates": run.steps,
        "batch_size": args.batch_size,
        "learning_rate": RATES[mode],
        "accuracy": round(accuracy, 4),
        "l1_physical": round(l1, 5),
        "last_loss": round(float(curves["loss"][-50:].mean()), 4),
        "minutes": round(minutes, 1),
        "waited": round(float(run.values["waited_share"]), 3),
        "loading_training": round(rates[0] / trained, 2),
        "augmented_training": round(rates[1] / trained, 2),
    }


def load(config: FinetuneConfig) -> Any:
    folder = find_checkpoint(config.model)
    return load_finetune_data(config, read_config(folder), OpenVLAProcessor.from_pretrained(folder))


@torch.no_grad()
def judge(config: FinetuneConfig, run: FinetuneRun) -> tuple[float, float, int]:
    """Return accuracy and distance over all steps, and how many there are."""
    from libero_reward_envs.agents.openvla_loss import measure_errors

    data = load(config)
    model = load_trained_model(
        config, find_checkpoint(config.model), torch.device("cpu"), run.checkpoint
    ).eval()
    losses = [
        compute_action_loss(model, batch)
        for batch in iterate_holdout(data.train, data.encoder, batch_size=32)
    ]
    ids = [torch.cat([loss[part] for loss in losses]).numpy() for part in (1, 2)]
    errors = measure_errors(ids[0], ids[1], data.encoder.tokenizer, data.encoder.statistics)
    return errors.accuracy, errors.l1_physical, len(data.train)


def time_loading(config: FinetuneConfig, augmented: bool) -> float:
    """Return rows a second of the batches alone."""
    changed, _ = parse_finetune_config(
        {**vars(config), "image_aug": augmented, "max_steps": None, "report_to": []}
    )
    data = load(changed)
    batches = PolicyBatches(
        data.train, data.encoder, batch_size=config.batch_size, n_threads=config.num_workers
    )
    with contextlib.closing(batches.iterate()) as items:  # pyright: ignore[reportArgumentType] (a generator)
        next(items)
        begun = time.perf_counter()
        n = sum(1 for _ in itertools.islice(items, N_TIMED_BATCHES))
    return n * config.batch_size / (time.perf_counter() - begun)


def time_training(config: FinetuneConfig, run: FinetuneRun) -> float:
    """Return rows a second of updates whose batch is at hand."""
    data = load(config)
    model = load_trained_model(
        config, find_checkpoint(config.model), torch.device("cpu"), run.checkpoint
    ).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    items = PolicyBatches(data.train, data.encoder, batch_size=config.batch_size).iterate()
    with contextlib.closing(items):  # pyright: ignore[reportArgumentType] (a generator)
        batch = next(items)
    times = []
    for _ in range(N_TIMED_BATCHES):
        begun = time.perf_counter()
        compute_action_loss(model, batch).losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
    return config.batch_size / float(np.median(times))


def write(row: dict[str, Any]) -> None:
    rows = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            rows = {found["mode"]: found for found in csv.DictReader(file)}
    rows[row["mode"]] = row
    with RESULTS.open("w", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[mode] for mode in sorted(rows))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", choices=list(RATES), default=["lora", "full"])
    parser.add_argument("--data", type=Path, help="demonstrations collected earlier")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--hz", type=float, default=5.0, help="steps a second, of 20; 0 for all")
    parser.add_argument("--batch-size", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
