"""Loading a checkpoint of OpenVLA-7B's shapes in bfloat16: time, and memory at its peak.

    python tests/benchmarks/measure_openvla_7b.py [--folder FOLDER] [--device cpu|cuda]

Writes 982 tensors of random bfloat16 numbers into shards of 2 GB (15.1 GB on disk, once), loads
them in a fresh process with `OpenVLAForActionPrediction.from_pretrained`, and then what features
need with `OpenVLAFeatureExtractor.from_pretrained`, in another. Needs 16 GB of free memory. Writes
`results/openvla_7b.json` beside this file: seconds (every weight read once), peak of the process's
resident memory (on a CPU weights stay mapped to the files, which the system may drop again), of the
GPU's where there is one, and what was estimated before.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import libero_reward_envs  # noqa: F401  # isort: skip  # before torch, see envs/rendering.py
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.feature_extractor import OpenVLAFeatureExtractor
from libero_reward_envs.openvla.image_processor import OpenVLAImageProcessor
from libero_reward_envs.openvla.memory import estimate_memory, make_meta_model
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.picture_resizer import PictureResizer
from libero_reward_envs.openvla.tiny import make_tiny_config, make_tiny_openvla

SHARD_BYTES = 2 * 10**9
PARTS = ("model", "extractor")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="of the checkpoint, kept; default: a new one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS, help="load this one, print what it took")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "openvla_7b.json"
    )
    return parser.parse_args()


def make_config() -> OpenVLAConfig:
    config = OpenVLAConfig()
    config.norm_stats = make_tiny_config().norm_stats
    return config


def write_checkpoint(folder: Path) -> None:
    """Write the shards one after the other, so that only one is in memory."""
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    make_tiny_openvla(draft)
    (draft / "model.safetensors").unlink()
    config = make_config()
    config.save_pretrained(draft)
    means, stds = ((0.5, 0.5, 0.5),) * 2, ((0.25, 0.25, 0.25),) * 2
    resizer = PictureResizer.make("resize-naive", (224, 224), means[0])
    OpenVLAImageProcessor(resizer, means, stds).save_pretrained(draft)
    shapes = {name: value.shape for name, value in make_meta_model(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    waiting: dict[str, torch.Tensor] = {}
    n_bytes = 0

    def flush() -> None:
        shard = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(waiting, draft / shard, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(waiting, shard))
        waiting.clear()

    for name, shape in tqdm(shapes.items(), desc="write", unit="tensor"):
        waiting[name] = 0.02 * torch.randn(shape, generator=generator, dtype=torch.bfloat16)
        n_bytes += 2 * shape.numel()
        if sum(2 * value.numel() for value in waiting.values()) > SHARD_BYTES:
            flush()
    flush()
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    (draft / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    draft.rename(folder)


def read_peak_gib() -> float:
    """Return the peak of this process's resident memory; on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 2**20, 2)


def load(part: str, folder: Path, device: str) -> dict[str, Any]:
    before = read_peak_gib()
    start = time.perf_counter()
    if part == "model":
        model: Any = OpenVLAForActionPrediction.from_pretrained(
            folder, dtype="bfloat16", check=False
        )
        model = model.to(device)
        n_parameters = sum(value.numel() for value in model.parameters())
        touched = float(sum(value.float().mean() for value in model.parameters()))
    else:
        extractor = OpenVLAFeatureExtractor.from_pretrained(
            folder, device=device, dtype="bfloat16", check=False
        )
        n_parameters = sum(value.numel() for value in extractor.vision_backbone.parameters())
        touched = float(sum(v.float().mean() for v in extractor.vision_backbone.parameters()))
    assert abs(touched) < 1e3  # every weight was read, and none is off
    found = {
        "parameters": n_parameters,
        "seconds": round(time.perf_counter() - start, 1),
        "resident_gib_before": before,
        "resident_gib_peak": read_peak_gib(),
    }
    if device != "cpu":
        found["gpu_gib_peak"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "openvla-7b-random"
        if not folder.exists():
            write_checkpoint(folder)
        words = ["--folder", str(folder), "--device", args.device]
        results: dict[str, Any] = {
            "device": args.device,
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "estimated_bytes": estimate_memory(make_config(), torch.bfloat16)._asdict(),
        }
        for part in PARTS:
            command = [sys.executable, __file__, *words, "--part", part]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, results[part])
    write_atomically(args.out, [json.dumps(results, indent=2).encode() + b"\n"])


if __name__ == "__main__":
    arguments = parse_args()
    if arguments.part is None:
        main(arguments)
    else:
        print(json.dumps(load(arguments.part, arguments.folder, arguments.device)))
