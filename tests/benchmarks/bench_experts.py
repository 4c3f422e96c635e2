"""Measures how often the scripted experts succeed from LIBERO's stored initial states.

    python tests/benchmarks/bench_experts.py --assets builtin official --states 10

Writes one row a task and asset set to `tests/benchmarks/results/experts.csv`; rows of asset sets
that are not measured now are kept. A folder of models can be named as `--assets official=FOLDER`.
"""

import argparse
import csv
import importlib.metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.experts import ScriptedExpert, expert_tasks, make_expert
from libero_reward_envs.envs.tasks import Task

RESULTS = Path(__file__).parent / "results" / "experts.csv"
COLUMNS = ("task", "assets", "successes", "states", "median_steps", "failed_states", "mujoco")


def main(args: argparse.Namespace) -> None:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            rows = {(row["task"], row["assets"]): row for row in csv.DictReader(file)}
    for asset_set in args.assets:
        name, _, folder = asset_set.partition("=")
        for task in expert_tasks():
            if args.suite in (None, task.suite):
                rows[task.id, name] = measure(task, name, folder or name, args.states)
                print(*rows[task.id, name].values(), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))


def measure(task: Task, name: str, assets: str, n_states: int) -> dict[str, Any]:
    env = gym.make("Libero-v0", suite=task.suite, task=task.name, assets=assets)
    results = [run_episode(env, make_expert(task), state) for state in range(n_states)]
    env.close()
    steps = [n_steps for success, n_steps in results if success]
    return {
        "task": task.id,
        "assets": name,
        "successes": len(steps),
        "states": n_states,
        "median_steps": int(np.median(steps)) if steps else "",
        "failed_states": " ".join(str(i) for i, (success, _) in enumerate(results) if not success),
        "mujoco": importlib.metadata.version("mujoco"),
    }


def run_episode(env: gym.Env, expert: ScriptedExpert, init_state_id: int) -> tuple[bool, int]:
    """Whether the expert succeeded from a stored initial state, and after how many steps."""
    observation, info = env.reset(seed=init_state_id, options={"init_state_id": init_state_id})
    n_steps, is_over = 0, False
    while not is_over:
        action, _ = expert.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        is_over = terminated or truncated
        n_steps += 1
    return bool(info["is_success"]), n_steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--assets", nargs="+", default=["builtin"], help="name, or name=folder")
    parser.add_argument("--states", type=int, default=10, help="initial states of each task")
    parser.add_argument("--suite", help="only the tasks of this suite")
    main(parser.parse_args())
