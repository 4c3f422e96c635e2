"""Our TFRecord reader beside the `tfrecord` package, in one process, as ratios.

    pip install tfrecord
    python tests/benchmarks/bench_tfrecord.py [--megabytes N] [--repeats N]

Both read the same file record by record and give every feature as arrays or bytes. The sides take
turns, file by file; the median of each is compared. Ours checks every checksum, which the package
never does, and is also measured without. Writes `results/bench_tfrecord.csv` beside this file;
without the package only our own rates are printed.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from libero_reward_envs.data.rlds.tf_example import parse_example, serialize_example
from libero_reward_envs.data.rlds.tfrecord import iterate_records, write_shard

try:
    from tfrecord.reader import example_loader  # pyright: ignore[reportMissingImports]
except ImportError:
    example_loader = None  # measured only where it is installed

IMAGE_BYTES = 20_000  # of a 256 x 256 JPEG of quality 95, as in the modified LIBERO sets
COLUMNS = ("records", "record_bytes", "tfrecord_per_s", "ours_per_s", "ours_unchecked_per_s")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64, help="size of a file of episodes")
    parser.add_argument("--repeats", type=int, default=15, help="passes of each side")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_tfrecord.csv"
    )
    return parser.parse_args()


def make_episode(rng: np.random.Generator, steps: int, n_cameras: int) -> bytes:
    features: dict[str, np.ndarray | list[bytes]] = {
        "steps/observation/state": rng.standard_normal(8 * steps),
        "steps/observation/joint_state": rng.standard_normal(7 * steps),
        "steps/action": rng.uniform(-1, 1, 7 * steps),
        "steps/reward": np.zeros(steps),
        "steps/discount": np.ones(steps),
        "steps/is_first": np.arange(steps) == 0,
        "steps/is_last": np.arange(steps) == steps - 1,
        "steps/is_terminal": np.arange(steps) == steps - 1,
        "steps/language_instruction": [b"put the moka pot on the stove"] * steps,
        "episode_metadata/file_path": [b"KITCHEN_SCENE3_put_the_moka_pot_on_the_stove_demo.hdf5"],
    }
    for camera in range(n_cameras):
        images = [rng.bytes(int(rng.normal(IMAGE_BYTES, 500))) for _ in range(steps)]
        features[f"steps/observation/image_{camera}"] = images
    return serialize_example(features)


def make_row(rng: np.random.Generator) -> bytes:
    return serialize_example(
        {
            "image": [rng.bytes(2000)],
            "label": rng.integers(1000, size=1),
            "box": rng.uniform(size=4),
            "tokens": rng.integers(32000, size=32),
        }
    )


def read_ours(path: Path, check: bool) -> int:
    return sum(len(parse_example(record)) for record in iterate_records(path, check=check))


def read_package(path: Path) -> int:
    assert example_loader is not None
    return sum(len(example) for example in example_loader(str(path), None))


def measure(path: Path, repeats: int) -> dict[str, float]:
    """Median seconds of each side, which take turns."""
    sides: dict[str, Callable[[], int]] = {
        "ours": lambda: read_ours(path, True),
        "ours_unchecked": lambda: read_ours(path, False),
    }
    if example_loader is not None:
        sides["tfrecord"] = lambda: read_package(path)
    counts = {name: read() for name, read in sides.items()}  # also brings the file into memory
    assert len(set(counts.values())) == 1, counts
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, read in sides.items():
            start = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    n_episodes = max(4, args.megabytes * 10**6 // (2 * 120 * IMAGE_BYTES))
    files = {
        "episodes of 120 steps, two cameras": [
            make_episode(rng, 120, 2) for _ in range(n_episodes)
        ],
        "episodes of 120 steps, states only": [make_episode(rng, 120, 0) for _ in range(200)],
        "single rows of 2 kB": [make_row(rng) for _ in range(5000)],
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, records in files.items():
            path = Path(folder) / "shard.tfrecord"
            write_shard(path, records)
            rates = {
                f"{name}_per_s": len(records) / seconds
                for name, seconds in measure(path, args.repeats).items()
            }
            row: dict[str, object] = {"what": what, "records": len(records)}
            row["record_bytes"] = round(np.mean([len(record) for record in records]))
            row |= {name: f"{rate:.4g}" for name, rate in rates.items()}
            if example_loader is not None:
                row["ratio"] = f"{rates['ours_per_s'] / rates['tfrecord_per_s']:.3g}"
                row["goal"] = 1
            print(row)
            rows.append(row)
    if example_loader is None:
        print("The `tfrecord` package is not installed: nothing to compare with, nothing stored.")
        return
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["what", *COLUMNS, "ratio", "goal"])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(parse_args())
