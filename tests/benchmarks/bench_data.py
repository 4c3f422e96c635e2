"""Reading recorded episodes: beside h5py alone, one frame at random, and what opening a set costs.

    python tests/benchmarks/bench_data.py [--episodes N] [--steps N] [--repeats N]

Sets of random pictures, 128 x 128 pixels of two cameras, and states are written into a temporary
folder, in this package's own HDF5 form (compressed) and in LIBERO's (not compressed), and as
LeRobot and RLDS at 64 x 64 for single frames. Ours and h5py's plain reading of the same arrays take
turns, and the ratio of their medians is given. Random frames are read one by one; memory is the
peak that Python allocates while a set is opened and counted. Writes
`results/bench_data.csv` beside this file.
"""

import argparse
import csv
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.formats import open_writer
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.lerobot import LerobotSource
from libero_reward_envs.data.rlds import RldsSource

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
COLUMNS = ("what", "set", "ours", "bare", "ratio", "goal")
N_FRAMES = 200


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20, help="of a set")
    parser.add_argument("--steps", type=int, default=120, help="of an episode")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each side")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_data.csv"
    )
    return parser.parse_args()


def make_episode(seed: int, n_steps: int, size: int) -> Episode:
    """Return an episode whose pictures compress about as much as LIBERO's do."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (n_steps + 1, size, 1, 3), dtype=np.uint8)
    noise = rng.integers(0, 16, (n_steps + 1, size, size, 3), dtype=np.uint8)
    observations: dict[str, np.ndarray] = dict.fromkeys(CAMERAS, rows // 2 + noise)
    observations["state"] = rng.normal(size=(n_steps + 1, 95)).astype(np.float32)
    return Episode(
        observations,
        rng.uniform(-1, 1, (n_steps, 7)),
        np.eye(n_steps)[-1] if seed % 2 else np.zeros(n_steps),
        terminated=bool(seed % 2),
        success=bool(seed % 2),
        instruction="pick up the soup",
    )


def write_sets(folder: Path, n_episodes: int, n_steps: int) -> dict[str, Path]:
    paths = {"hdf5": folder / "own.hdf5", "LIBERO": folder / "task_demo.hdf5"}
    with EpisodeWriter(paths["hdf5"]) as writer, h5py.File(paths["LIBERO"], "w") as file:
        data = file.create_group("data")
        for index in range(n_episodes):
            episode = make_episode(index, n_steps, 128)
            writer.append(episode)
            demo = data.create_group(f"demo_{index}")
            for name, key in (("agentview_rgb", CAMERAS[0]), ("eye_in_hand_rgb", CAMERAS[1])):
                demo[f"obs/{name}"] = episode.observations[key][:-1]
            demo["obs/ee_states"] = episode.observations["state"][:-1, :6].astype(float)
            demo["actions"] = episode.actions.astype(float)
            demo["rewards"] = demo["dones"] = (np.arange(n_steps) == n_steps - 1).astype(np.uint8)
    for name, options in (("lerobot", {}), ("rlds", {})):
        paths[name] = folder / name
        with open_writer(paths[name], name, **options) as writer:
            for index in range(n_episodes):
                writer.append(make_episode(index, n_steps, 64))
    return paths


def read_plainly(path: Path) -> None:
    with h5py.File(path, "r") as file:
        arrays: list[Any] = []
        file.visititems(lambda _, node: arrays.append(node) if hasattr(node, "shape") else None)
        for array in arrays:
            array[()]


def compare(ours: Callable[[], object], bare: Callable[[], object], repeats: int) -> list[float]:
    """Return the median seconds of both, which take turns."""
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, work in enumerate((ours, bare)):
            start = time.perf_counter()
            work()
            times[side].append(time.perf_counter() - start)
    return [statistics.median(side) for side in times]


def time_frames(read: Callable[[int], object], n_frames: int) -> float:
    """Return the median milliseconds of a frame at random."""
    rng = np.random.default_rng(0)
    read(0)
    times = []
    for index in rng.integers(0, n_frames, N_FRAMES).tolist():
        start = time.perf_counter()
        read(index)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure_frames(paths: dict[str, Path], n_episodes: int, n_steps: int) -> dict[str, float]:
    frames = RewardDataset.from_episodes(paths["hdf5"], image_keys=CAMERAS[0])
    lerobot, rlds = LerobotSource(paths["lerobot"]), RldsSource(paths["rlds"])
    n = n_episodes * n_steps

    def read_lerobot(number: int) -> object:
        episode, step = divmod(number, n_steps)
        return lerobot.read_observations(episode, step, step + 1, CAMERAS[:1])

    return {
        "hdf5, compressed": time_frames(lambda i: frames[i], n),
        "lerobot, video of 64 x 64": time_frames(read_lerobot, n),
        "rlds, JPEG of 64 x 64": time_frames(
            lambda i: rlds.read_image(i // n_steps, CAMERAS[0], i % n_steps), n
        ),
    }


def measure_opening(path: Path) -> float:
    """Return the peak of megabytes while a set is opened and counted."""
    tracemalloc.start()
    len(load_episodes(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main(args: argparse.Namespace) -> None:
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_sets(Path(folder), args.episodes, args.steps)
        for name in ("hdf5", "LIBERO"):
            dataset: EpisodeDataset = load_episodes(paths[name])
            seconds = compare(
                lambda dataset=dataset: [len(episode) for episode in dataset],
                lambda name=name: read_plainly(paths[name]),
                args.repeats,
            )
            rates = [args.episodes / part for part in seconds]
            rows.append(("episodes a second", name, *rates, rates[0] / rates[1], 0.9))
        for name, milliseconds in measure_frames(paths, args.episodes, args.steps).items():
            rows.append(("one frame at random, ms", name, milliseconds, "", "", 5))
        (Path(folder) / "half").mkdir()
        half = write_sets(Path(folder) / "half", args.episodes // 2, args.steps)
        for name, path in paths.items():
            large, small = measure_opening(path), measure_opening(half[name])
            rows.append(("opening, MB, beside a set of half the size", name, large, small, "", ""))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            told = [f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row]
            print(*told, sep=", ")
            writer.writerow(told)


if __name__ == "__main__":
    main(parse_args())
