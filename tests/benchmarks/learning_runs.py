"""Runs the learning benchmarks of this folder: a grid of environments, arms and seeds.

A benchmark script says what its runs are and how one is trained; this module does the rest. Every
run is a process of its own on one core and ends in `<env>__<arm>__s<seed>.csv`, with one row an
evaluation (`step`, then mean and standard deviation of each measure over `n` episodes, and the wall
time so far), and in a `.json` of the same name with versions and arguments. Both are written when
the run is complete. Until then its rows and checkpoints lie in a folder `<name>.partial`, which git
ignores.

    python tests/benchmarks/bench_X.py               # what is not finished yet, one at a time
    python tests/benchmarks/bench_X.py --jobs 4 --only env=Hopper-v5,arm=rrd,ircr
    python tests/benchmarks/bench_X.py --summary     # tables and figure from the stored runs

A grid that is stopped (SIGTERM, SIGINT or SIGKILL) goes on where it was when it is started again.
"""

import argparse
import collections
import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from run_log import Run, RunLog

STOPPED = 75  # exit status of a run that was asked to stop and can go on later (EX_TEMPFAIL)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark script says of itself.

    Args:
        script: Its `__file__`.
        runs: Its runs in the order in which they are to be done.
        train: Trains one run; it calls `RunLog.add` and returns whether the run is complete.
        summarize: Writes tables and figures from the results in a folder.
    """

    script: str
    runs: Sequence[Run]
    train: Callable[[Run, "RunLog"], bool]
    summarize: Callable[[Path], None]


def make_grid(envs: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """All runs: env after env, in each all arms of the first seed, then of the next."""
    return [Run(env, arm, seed) for env in envs for seed in seeds for arm in arms]


def do_run(benchmark: Benchmark, log: RunLog) -> int:
    """Train one run in this process, unless it is finished or another process is at it."""
    import torch

    with (log.partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{log.run.name}: another process is at it", flush=True)
            return STOPPED
        if log.csv.exists():
            shutil.rmtree(log.partial)
            return 0
        signal.signal(signal.SIGTERM, log.stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group
        torch.set_num_threads(1)
        if not benchmark.train(log.run, log):
            print(f"{log.run.name}: stopped", flush=True)
            return STOPPED
        log.finish()
        print(f"{log.run.name}: done in {log.seconds():.0f} s", flush=True)
        return 0


def do_grid(benchmark: Benchmark, runs: Sequence[Run], args: argparse.Namespace) -> int:
    """Do all runs that are not finished, `args.jobs` at a time, each in a process of its own.

    One that fails is tried once more when all others are done.
    """
    waiting = collections.deque(runs)
    running: dict[subprocess.Popen[bytes], Run] = {}
    failed: list[Run] = []
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        while waiting and len(running) < args.jobs and not stopping:
            run = waiting.popleft()
            if not (args.out / f"{run.name}.csv").exists():
                running[_start(benchmark, run, args)] = run
        if not running:
            break
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            run = running.pop(process)
            if process.returncode not in (0, STOPPED):
                print(f"{run.name}: FAILED with status {process.returncode}", flush=True)
                if run not in failed:
                    waiting.append(run)
                failed.append(run)
    missing = [run.name for run in runs if not (args.out / f"{run.name}.csv").exists()]
    if missing:
        print(f"{len(missing)} runs are not complete: {', '.join(missing)}", flush=True)
    return STOPPED if stopping else int(bool(missing))


def _start(benchmark: Benchmark, run: Run, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    command = [sys.executable, benchmark.script, "--run", run.name, "--out", str(args.out)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--scale", str(args.scale)], env={**os.environ, **threads})


def select_runs(runs: Sequence[Run], only: str | None) -> list[Run]:
    """The runs that fit "env=A,arm=B,C": values of one name are alternatives.

    Raises:
        ValueError: If there is no such name, or nothing fits.
    """
    wanted: dict[str, set[str]] = {}
    for name, value in _pairs(only or ""):
        wanted.setdefault(name, set()).add(value)
    chosen = [
        run for run in runs if all(str(getattr(run, name)) in wanted[name] for name in wanted)
    ]
    if not chosen:
        raise ValueError(f"No run fits --only {only!r}. See --list.")
    return chosen


def _pairs(only: str) -> Iterator[tuple[str, str]]:
    name = ""
    for part in filter(None, only.split(",")):
        *given, value = part.split("=")
        name = given[0] if given else name
        if name not in ("env", "arm", "seed"):
            raise ValueError(f"Expected env=, arm= or seed= in --only, got {part!r}.")
        yield name, value


def parse_args(benchmark: Benchmark, doc: str | None, argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    script = Path(benchmark.script).resolve()
    default_out = script.parent / "results" / script.stem.removeprefix("bench_")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--only", help="e.g. env=Hopper-v5,arm=rrd,ircr,seed=0")
    parser.add_argument("--out", type=Path, default=default_out, help="folder of the results")
    parser.add_argument("--summary", action="store_true", help="only tables and figure")
    parser.add_argument("--list", action="store_true", help="only say what is finished")
    parser.add_argument("--run", type=Run.from_name, help="one run, in this process")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, for tests")
    return parser.parse_args(argv)


def main(benchmark: Benchmark, doc: str | None, argv: Sequence[str] | None = None) -> int:
    """The program of a benchmark script; returns its exit status."""
    args = parse_args(benchmark, doc, argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.run is not None:
        return do_run(benchmark, RunLog(args.run, args.out, args.scale))
    runs = select_runs(benchmark.runs, args.only)
    if args.list:
        for run in runs:
            print(f"{run.name}: {'done' if (args.out / f'{run.name}.csv').exists() else 'to do'}")
        return 0
    status = 0 if args.summary else do_grid(benchmark, runs, args)
    if status != STOPPED:
        benchmark.summarize(args.out)
    return status
