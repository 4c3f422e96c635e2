"""Reading recorded episodes: beside h5py alone, one frame at random, and what opening a set costs.

    python tests/benchmarks/bench_data.py [--episodes N] [--steps N] [--repeats N] [--large N]

Sets of random pictures, 128 x 128 pixels of two cameras, and states are written into a temporary
folder, in this package's own HDF5 form (compressed) and in LIBERO's (not compressed), and as
LeRobot and RLDS at 64 x 64 for single frames. Ours and h5py's plain reading of the same arrays,
those of an episode in memory together, take turns, and the ratio of the medians is given. All times
are the processor's, so that other work on the machine counts less.

Random frames are read one by one, from files that the system has in its cache. The large set of N
episodes has as many like those above, and else episodes of one step with black pictures of the same
size, which are quick to write; frames of the former are read. Memory is the peak that Python
allocates while a set is opened and counted, beside a set of half the size. Writes
`results/bench_data.csv` beside this file.
"""

import argparse
import csv
import dataclasses
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.episode_steps import read_steps
from libero_reward_envs.data.formats import open_writer
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.hdf5 import make_header, write_episode
from libero_reward_envs.data.rlds import RldsSource
from libero_reward_envs.data.torch_datasets import TransitionDataset

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
COLUMNS = ("what", "set", "ours", "bare", "ratio", "goal")
N_FRAMES = 200


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20, help="of a set")
    parser.add_argument("--steps", type=int, default=120, help="of an episode")
    parser.add_argument("--repeats", type=int, default=25, help="passes of each side")
    parser.add_argument("--large", type=int, default=10_000, help="episodes of the large set")
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


def read_plainly(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the arrays of each episode, all of them in memory together, as ours are."""
    with h5py.File(path, "r") as file:
        for demo in cast(h5py.Group, file["data"]).values():
            arrays: dict[str, Any] = {}
            demo.visititems(
                lambda name, node, into=arrays: (
                    into.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
                )
            )
            yield arrays


def write_large_set(path: Path, n_episodes: int, n_filled: int, n_steps: int) -> list[int]:
    """Write one file of many episodes, and return the numbers of those that have pictures."""
    filled = np.linspace(0, n_episodes - 1, n_filled).astype(int).tolist()
    black = make_episode(0, 1, 128)
    black = dataclasses.replace(
        black, observations={key: np.zeros_like(rows) for key, rows in black.observations.items()}
    )
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        make_header(data, {})
        for index in range(n_episodes):
            episode = make_episode(index, n_steps, 128) if index in filled else black
            write_episode(data.create_group(f"demo_{index}"), episode, f"{index}", None, "gzip")
    return filled


def compare(ours: Callable[[], object], bare: Callable[[], object], repeats: int) -> list[float]:
    """Return the median seconds of the processor of both, which take turns."""
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, work in enumerate((ours, bare)):
            start = time.process_time()
            work()
            times[side].append(time.process_time() - start)
    return [statistics.median(side) for side in times]


def time_frames(read: Callable[[int], object], n_frames: int) -> float:
    """Return the median milliseconds of a frame at random."""
    rng = np.random.default_rng(0)
    read(0)
    times = []
    for index in rng.integers(0, n_frames, N_FRAMES).tolist():
        start = time.process_time()
        read(index)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def measure_frames(paths: dict[str, Path], n_episodes: int, n_steps: int) -> dict[str, float]:
    frames = RewardDataset.from_episodes(paths["hdf5"], image_keys=CAMERAS[0])
    rlds = RldsSource(paths["rlds"])

    def read(name: str, key: str) -> Callable[[int], object]:
        episodes = load_episodes(paths[name])

        def read_one(number: int) -> object:
            index, step = divmod(number, n_steps)
            return read_steps(episodes, index, step, step + 1, [key])

        return read_one

    readers: dict[str, Callable[[int], object]] = {
        "hdf5, labelled frame": lambda i: frames[i],
        "hdf5, step": read("hdf5", CAMERAS[0]),
        "LIBERO, step": read("LIBERO", CAMERAS[0]),
        "lerobot, step, video of 64 x 64": read("lerobot", CAMERAS[0]),
        "rlds, JPEG of 64 x 64": lambda i: rlds.read_image(i // n_steps, CAMERAS[0], i % n_steps),
    }
    return {name: time_frames(read, n_episodes * n_steps) for name, read in readers.items()}


def measure_large_set(path: Path, filled: Sequence[int], n_steps: int) -> dict[str, float]:
    dataset = load_episodes(path)
    transitions = TransitionDataset(dataset)
    ends = np.cumsum([summary.length for summary in dataset.summaries()])

    def read_frame(number: int) -> object:
        place, step = divmod(number, n_steps)
        return read_steps(dataset, filled[place], step, step + 1, CAMERAS[:1])

    def read_transition(number: int) -> object:
        place, step = divmod(number, n_steps)
        return transitions[int(ends[filled[place]]) - n_steps + step]

    n_frames = len(filled) * n_steps
    return {
        f"hdf5 of {len(dataset)} episodes, step of one camera": time_frames(read_frame, n_frames),
        f"hdf5 of {len(dataset)} episodes, transition of all": time_frames(
            read_transition, n_frames
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_sets(folder, args.episodes, args.steps)
        for kind in ("hdf5", "LIBERO"):
            dataset: EpisodeDataset = load_episodes(paths[kind])
            seconds = compare(
                lambda dataset=dataset: [len(episode) for episode in dataset],
                lambda kind=kind: [len(arrays) for arrays in read_plainly(paths[kind])],
                args.repeats,
            )
            rates = [args.episodes / part for part in seconds]
            rows.append(("episodes a second", kind, *rates, rates[0] / rates[1], 0.9))
        times = measure_frames(paths, args.episodes, args.steps)
        (folder / "half").mkdir()
        half = write_sets(folder / "half", args.episodes // 2, args.steps)
        for part, n_episodes in ((half, args.large // 2), (paths, args.large)):
            part["large hdf5"] = part["hdf5"].with_name("large.hdf5")
            filled = write_large_set(part["large hdf5"], n_episodes, args.episodes, args.steps)
        times |= measure_large_set(paths["large hdf5"], filled, args.steps)
        for kind, milliseconds in times.items():
            rows.append(("one frame at random, ms", kind, milliseconds, "", "", 5))
        for kind, path in paths.items():
            large, small = measure_opening(path), measure_opening(half[kind])
            rows.append(("opening, MB, beside a set of half the size", kind, large, small, "", ""))
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
