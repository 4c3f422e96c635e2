"""OpenVLA's features and actions: what our code costs beside the bare model.

    python tests/benchmarks/bench_openvla.py [--size tiny|small|full] [--device cpu|cuda]

Weights are random; only speed is measured. "tiny" is the checkpoint that ships, "small" has two
towers of ViT-S size on 224 x 224 pixels and a language model of 4 layers, "full" the published
shapes, of which only what features need is made. Four figures, each of two sides that take turns:

- extraction: frames a second of `extract_features` on an HDF5 file of 256 x 256 pictures, read,
  resized, encoded and written, beside the same timm towers on tensors that are ready.
- batched actions: actions a second of 8 prompts and images at once, beside one at a time.
- cached epoch: reading all features of the dataset again, beside computing them on the fly.
- parts read: seconds and bytes of loading what features need, beside the whole model (not "full").

Writes a row each into `results/bench_openvla.csv` beside this file, in place of those of the same
size and device. Set OMP_NUM_THREADS=1 on a CPU that others use.
"""

import argparse
import csv
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libero_reward_envs  # noqa: F401  # isort: skip  # before torch, see envs/rendering.py
import numpy as np
import timm
import torch
from run_log import write_rows
from safetensors.torch import save_file
from tqdm import tqdm

from libero_reward_envs.data import Episode, EpisodeWriter, load_episodes
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.extraction import extract_features
from libero_reward_envs.encoders.openvla import load_openvla_encoders
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.image_processor import OpenVLAImageProcessor
from libero_reward_envs.openvla.memory import make_meta_model
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.picture_resizer import PictureResizer
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt
from libero_reward_envs.openvla.tiny import make_tiny_config, make_tiny_openvla

SIZES = ("tiny", "small", "full")
CAMERA = "agentview_image"
INSTRUCTION = "pick up the alphabet soup and place it in the basket"
N_ACTIONS = 8
_TOWERS = {
    "small": [{"embed_dim": 384, "depth": 12, "num_heads": 6}] * 2,
    "full": None,
}
_MEANS, _STDS = ((0.484375, 0.455078125, 0.40625), (0.5,) * 3), ((0.228515625,) * 3, (0.5,) * 3)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--frames", type=int, default=256, help="pictures to encode")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="passes of each side")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_openvla.csv"
    )
    return parser.parse_args()


def make_checkpoint(folder: Path, size: str) -> Path:
    """Write a checkpoint with random weights of a size."""
    make_tiny_openvla(folder)
    if size == "tiny":
        return folder
    config = make_tiny_config() if size == "small" else OpenVLAConfig()
    config.image_sizes = [224, 224]
    config.norm_stats = make_tiny_config().norm_stats
    if size == "small":
        config.timm_model_kwargs = _TOWERS[size]
        widths = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
        for name, value in widths.items():
            setattr(config.text_config, name, value)
    resizer = PictureResizer.make("resize-naive", (224, 224), _MEANS[0])
    OpenVLAImageProcessor(resizer, _MEANS, _STDS).save_pretrained(folder)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in make_meta_model(config).state_dict().items():
        if size == "full" and not name.startswith(("vision_backbone.", "language_model.model.emb")):
            continue
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.bfloat16)
        weights[name] = values * (0.02 if tensor.ndim > 1 else 0.5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_dataset(path: Path, n_frames: int) -> Path:
    rng = np.random.default_rng(0)
    with EpisodeWriter(path) as writer:
        for start in range(0, n_frames, 32):
            n_steps = min(32, n_frames - start) - 1
            rows = rng.integers(0, 256, (n_steps + 1, 256, 1, 3), dtype=np.uint8) // 2
            noise = rng.integers(0, 16, (n_steps + 1, 256, 256, 3), dtype=np.uint8)
            episode = Episode(
                {CAMERA: rows + noise},
                np.zeros((n_steps, 7)),
                np.zeros(n_steps),
                terminated=False,
                success=False,
                instruction=INSTRUCTION,
                metadata={"orientation": "upright"},
            )
            writer.append(episode)
    return path


def time_in_turns(
    ours: Callable[[], object], other: Callable[[], object], repeats: int, device: str
) -> tuple[float, float]:
    """Return the median seconds of both, after one pass of each that does not count."""
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for side, work in enumerate((ours, other)):
            start = time.perf_counter()
            work()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                times[side].append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def make_bare_towers(
    config: Any, batch_size: int, n_frames: int, device: str, dtype: torch.dtype
) -> Callable[[], object]:
    """Return a pass of timm's own towers over tensors that are ready."""
    towers = []
    for place, name in enumerate(config.timm_model_ids):
        options = config.timm_model_kwargs[place] if config.timm_model_kwargs else {}
        model = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=config.image_sizes[place], **options
        )
        blocks: Any = model.blocks
        towers.append((model.to(device, dtype).eval(), len(blocks) - 2))
    side = config.image_sizes[0]
    pictures = torch.randn(batch_size, 3, side, side, device=device, dtype=dtype)

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, n_frames, batch_size):
            part = pictures[: min(batch_size, n_frames - start)]
            for model, index in towers:
                model.forward_intermediates(
                    part, indices=[index], norm=False, output_fmt="NLC",
                    stop_early=True, intermediates_only=True,
                )  # fmt: skip

    return run


def measure_features(
    checkpoint: Path, folder: Path, args: argparse.Namespace
) -> list[dict[str, Any]]:
    data = make_dataset(folder / "episodes.h5", args.frames)
    start = time.perf_counter()
    encoders = load_openvla_encoders(
        checkpoint, image_keys=[CAMERA], device=args.device, dtype=args.dtype, check=False
    )
    load_seconds = time.perf_counter() - start
    extractor = encoders[0]._extractor
    dataset, n = load_episodes(data), args.frames

    def extract() -> None:
        shutil.rmtree(folder / "features", ignore_errors=True)
        extract_features(dataset, encoders, folder / "features", batch_size=args.batch_size)

    bare = make_bare_towers(extractor.config, args.batch_size, n, args.device, extractor.dtype)
    ours, towers = time_in_turns(extract, bare, args.repeats, args.device)
    rows = [
        row("extraction, frames/s", n / ours, n / towers, goal=0.85),
    ]
    cached = encode_dataset(dataset, encoders, folder / "features")
    fresh = encode_dataset(dataset, encoders, batch_size=args.batch_size)
    read, compute = time_in_turns(
        lambda: [episode.observations for episode in cached],
        lambda: [episode.observations for episode in fresh],
        args.repeats,
        args.device,
    )
    rows.append(row("cached epoch, frames/s", n / read, n / compute, goal=20.0))
    n_bytes = sum(p.numel() * p.element_size() for p in extractor.vision_backbone.parameters())
    print(f"{len(extractor.tensors_read)} tensors, towers of {n_bytes / 2**20:.0f} MiB")
    if args.size != "full":
        start = time.perf_counter()
        OpenVLAForActionPrediction.from_pretrained(checkpoint, check=False)
        rows.append(row("loading, seconds", load_seconds, time.perf_counter() - start, goal=None))
    if args.device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"peak of GPU memory: {peak:.2f} GiB")
    return rows


def measure_actions(checkpoint: Path, args: argparse.Namespace) -> dict[str, Any]:
    model = OpenVLAForActionPrediction.from_pretrained(checkpoint, dtype=args.dtype, check=False)
    model = model.to(args.device).eval()
    processor = OpenVLAProcessor.from_pretrained(checkpoint)
    pictures = np.random.default_rng(0).integers(0, 256, (N_ACTIONS, 224, 224, 3), dtype=np.uint8)
    inputs = processor([make_prompt(INSTRUCTION)] * N_ACTIONS, pictures)
    ids = inputs["input_ids"].to(args.device)
    pixels = inputs["pixel_values"].to(args.device, model.dtype)

    def together() -> None:
        model.predict_action(ids, pixels, "libero_object")

    def one_by_one() -> None:
        for index in range(N_ACTIONS):
            rows = slice(index, index + 1)
            model.predict_action(ids[rows], pixels[rows], "libero_object")

    batched, single = time_in_turns(together, one_by_one, args.repeats, args.device)
    name = f"{N_ACTIONS} actions at once, actions/s"
    return row(name, N_ACTIONS / batched, N_ACTIONS / single, goal=4.0)


def row(what: str, ours: float, other: float, goal: float | None) -> dict[str, Any]:
    return {
        "what": what,
        "ours": f"{ours:.4g}",
        "other": f"{other:.4g}",
        "ratio": f"{ours / other:.3g}",
        "goal": "" if goal is None else goal,
    }


def main(args: argparse.Namespace) -> None:
    if args.dtype is None:
        args.dtype = "float32" if args.device == "cpu" else "bfloat16"
    with tempfile.TemporaryDirectory() as temporary, tqdm(total=2, desc="measure") as bar:
        folder = Path(temporary)
        checkpoint = make_checkpoint(folder / "checkpoint", args.size)
        found = measure_features(checkpoint, folder, args)
        bar.update()
        if args.size != "full":
            found.append(measure_actions(checkpoint, args))
        bar.update()
    about = {"size": args.size, "device": args.device, "dtype": args.dtype}
    rows = [{**about, **entry} for entry in found]
    if args.out.is_file():
        with open(args.out, newline="", encoding="utf-8") as file:
            kept = [r for r in csv.DictReader(file) if any(r[k] != about[k] for k in about)]
        rows = [*kept, *rows]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(args.out, rows)
    for entry in found:
        print(", ".join(f"{name} {value}" for name, value in entry.items() if value != ""))


if __name__ == "__main__":
    main(parse_args())
