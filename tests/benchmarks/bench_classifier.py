"""What success classifiers cost beside a control step, and their data beside h5py, as ratios.

    python tests/benchmarks/bench_classifier.py [--assets FOLDER] [--threads N] [--repetitions N]

- scoring: `ClassifierRewardModel.compute_reward` for 8 frames of 64 and of 128 pixels against one
  control step of LIBERO-Object task 0 with one camera of 128 pixels. The classifier is untrained,
  which changes no time, except by how many frames lie near the threshold: none, unless said so;
- loading: frames a second of a `FrameStream`, shuffled, one process, over rendered frames that
  `EpisodeWriter` wrote, against h5py reading the same chunks in the order of the file;
- memory: the most that streaming adds to a fresh process, for a set and for one four times as
  large.

Both sides take turns, so that both see the same load of the machine; the medians are compared.
Where other programs are busy, PyTorch's threads wait for each other most of the time: put
`chrt -f 1` before the command, as for the stored figures, or leave the machine alone.
Writes `results/bench_classifier.csv` beside this file.
"""

import argparse
import csv
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import torch

import libero_reward_envs  # noqa: F401  registers the environments
from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.frame_stream import FrameStream
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel

KEY = "agentview_image"
N_ROWS, STEP_SIZE = 8, 128
SIDES: dict[str, dict[str, Any]] = {
    "binary": {"threshold": 0.99},  # far from what untrained classifiers give
    "binary, all frames near the threshold": {},
    "continuous, float32": {"reward_type": "continuous"},
    "continuous, int8": {"reward_type": "continuous", "precision": "int8"},
}
EPISODE_STEPS = 150


def take_turns(sides: dict[str, Callable[[], Any]], n: int) -> dict[str, float]:
    """Median seconds of each side, which are called one after the other, n times."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(measured[n // 10 :])) for name, measured in times.items()}


def make_model(size: int, **arguments: Any) -> ClassifierRewardModel:
    network = BinaryRewardClassifier([KEY], [3, size, size], weights_follow=True)
    network.load_state_dict(network.state_dict())
    return ClassifierRewardModel.from_classifier(network, **arguments)


def bench_scoring(env: Any, frames: np.ndarray, n: int) -> Iterator[dict[str, Any]]:
    sides: dict[str, Callable[[], Any]] = {"step": lambda: env.step(env.action_space.sample())}
    for size in (64, 128):
        rows = frames[:N_ROWS, :: STEP_SIZE // size, :: STEP_SIZE // size]
        batch = Transitions(
            {}, np.zeros((N_ROWS, 7), np.float32), {KEY: rows}, np.zeros(N_ROWS, bool)
        )
        for name, arguments in SIDES.items():
            model = make_model(size, **arguments)
            if "near" in name:
                model.threshold = float(np.median(model.compute_probability({KEY: rows})))
            for _ in range(5):  # the first rows are computed twice, see `ClassifierScreen`
                model.compute_reward(batch)
            sides[f"{name}/{size}"] = lambda model=model, batch=batch: model.compute_reward(batch)
    times = take_turns(sides, n)
    for name, seconds in times.items():
        if name != "step":
            what, size = name.split("/")
            yield compare(
                f"scoring {N_ROWS} frames, {what}, ms", f"{size} px",
                1e3 * seconds, 1e3 * times["step"], 0.25,
            )  # fmt: skip


def write_data(folder: Path, frames: np.ndarray, n_frames: int) -> None:
    """Episodes of rendered frames, in two folders."""
    rng = np.random.default_rng(0)
    for kind in ("negative", "positive"):
        (folder / kind).mkdir(parents=True)
        with EpisodeWriter(folder / kind / "episodes.hdf5") as writer:
            for _ in range(max(1, n_frames // (2 * EPISODE_STEPS))):
                rewards = np.zeros(EPISODE_STEPS)
                rewards[-10:] = kind == "positive"
                images = frames[rng.integers(len(frames), size=EPISODE_STEPS + 1)]
                writer.append(
                    Episode({KEY: images}, np.zeros((EPISODE_STEPS, 7)), rewards, False, False)
                )


def make_stream(folder: Path, buffer_frames: int) -> FrameStream:
    dataset = RewardDataset(folder / "positive", folder / "negative", image_keys=KEY)
    return FrameStream(dataset, buffer_frames=buffer_frames)


def read_stream(stream: FrameStream) -> int:
    return sum(len(labels) for _, labels in stream)


def read_chunks(folder: Path) -> int:
    """h5py alone."""
    n_read = 0
    for path in sorted(folder.glob("*/*.hdf5")):
        with h5py.File(path) as file:
            for demo in file["data"].values():  # pyright: ignore
                rows = demo[f"obs/{KEY}"]
                for start in range(0, len(rows), rows.chunks[0]):
                    n_read += len(rows[start : start + rows.chunks[0]])
                demo[f"final_obs/{KEY}"][:]
    return n_read


def bench_loading(folder: Path, buffer_frames: int, n: int) -> dict[str, Any]:
    stream = make_stream(folder, buffer_frames)
    n_frames = len(stream.dataset)
    assert read_stream(stream) == read_chunks(folder) == n_frames
    times = take_turns(
        {"ours": lambda: read_stream(stream), "bare": lambda: read_chunks(folder)}, n
    )
    return compare(
        "loading, frames a second", f"{n_frames} frames",
        n_frames / times["ours"], n_frames / times["bare"], 0.8,
    )  # fmt: skip


def added_megabytes(folder: Path, buffer_frames: int) -> float:
    """The most that streaming adds to what a process holds with the set open."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_memory, (folder, buffer_frames))


def _measure_memory(folder: Path, buffer_frames: int) -> float:
    stream = make_stream(folder, buffer_frames)
    before = _read_memory("VmRSS")
    for epoch in range(2):
        stream.set_epoch(epoch)
        read_stream(stream)
    return _read_memory("VmHWM") - before


def _read_memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


def compare(what: str, sizes: str, ours: float, bare: float, goal: float) -> dict[str, Any]:
    numbers = {"ours": f"{ours:.4g}", "bare": f"{bare:.4g}", "ratio": f"{ours / bare:.3f}"}
    return {"what": what, "sizes": sizes, **numbers, "goal": goal}


def bench(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    env = gym.make(
        "Libero-v0",
        suite="libero_object",
        task=0,
        obs_type="pixels",
        image_size=STEP_SIZE,
        cameras=("agentview",),
        assets=args.assets,
        max_episode_steps=10**9,
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    n_rendered = max(N_ROWS, min(args.frames // 10, 200))
    frames = np.stack([env.step(env.action_space.sample())[0][KEY] for _ in range(n_rendered)])
    yield from bench_scoring(env, frames, args.repetitions)
    env.close()
    write_data(folder / "small", frames, args.frames // 4)
    write_data(folder / "large", frames, args.frames)
    yield bench_loading(folder / "large", args.buffer, max(3, args.repetitions // 10))
    for name in ("small", "large"):
        megabytes = added_megabytes(folder / name, args.buffer)
        n_frames = len(make_stream(folder / name, args.buffer).dataset)
        size = f"{n_frames} frames, {n_frames * frames[0].nbytes / 1e6:.0f} MB"
        yield {"what": "memory of loading, MB", "sizes": size, "ours": f"{megabytes:.4g}"}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in bench(args, Path(folder)):
            rows.append(row)
            print(row, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["what", "sizes", "ours", "bare", "ratio", "goal"])
        writer.writeheader()
        writer.writerows(rows)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", default="auto", help="asset set or folder")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--repetitions", type=int, default=60, help="a side")
    parser.add_argument("--frames", type=int, default=6000, help="of the larger set")
    parser.add_argument("--buffer", type=int, default=512, help="frames shuffled together")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_classifier.csv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
