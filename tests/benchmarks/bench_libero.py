"""Does a reward learned by Randomized Return Decomposition help SAC to solve LIBERO tasks?

    python tests/benchmarks/bench_libero.py               # all runs; --jobs N for N at a time
    python tests/benchmarks/bench_libero.py --only env=libero_90_33,arm=sparse,seed=0
    python tests/benchmarks/bench_libero.py --summary     # tables and figure from the stored runs

LIBERO-90 tasks 28 (close the top drawer of the cabinet) and 33 (close the microwave), and
LIBERO-Object task 0 (pick up the alphabet soup and place it in the basket) as the hard case, with
LIBERO's own object models (README, "Object models"), observed as states, in episodes of 200 steps.
The arms:

- sparse: the task's own reward, 1 at success.
- rrd_frozen: a reward that `fit_rrd` fitted to 60 successes and 60 failures of scripted policies.
- rrd_online: that reward, which goes on learning from those 120 episodes and the agent's own, one
  reward step for each critic step.
- clock: the control, with one seed: a reward fitted in the same way to the number of the step
  alone. What it reaches, any reward reaches that only makes haste.

The collected episodes serve the reward, and the mean and deviation by which all arms alike scale
the state. On tasks 28 and 33 none of their transitions is in a replay buffer. On the pick-and-place
their successes are half of each batch in every arm, with that arm's reward; the critics have layer
normalisation and 3-step returns (demonstration_sac.py). Everything of SAC is the same in all arms
of a task.

Agents are judged by true success, of their deterministic action, from the first 25 stored initial
states, every 5,000 steps, up to 100,000. A run ends early once two evaluations in a row reach 95 %.

The episodes are collected where they are missing, two minutes a task, with fixed seeds, into
`--work-dir`. Writes into `results/libero/` one CSV and one JSON a run (see learning_runs.py) and,
when the grid is complete or with `--summary`, `summary.csv` and `curves.png`.
"""

import argparse
import functools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import libero_reward_envs  # noqa: F401  # isort: skip  # before torch, see envs/rendering.py
import gymnasium as gym
from learning_curves import Panel, Results, draw_curves, read_results, select
from learning_runs import Benchmark, main
from run_log import Run, RunLog, write_rows
from sac_runs import EvaluateRun, learn

from libero_reward_envs.envs.assets import cache_folder
from libero_reward_envs.evaluation.success import evaluate_agent

TASKS = {
    "libero_90_33": ("libero_90", 33, "LIBERO-90 33: close the microwave"),
    "libero_90_28": ("libero_90", 28, "LIBERO-90 28: close the top drawer"),
    "libero_object_0": ("libero_object", 0, "LIBERO-Object 0: soup into the basket"),
}
ARMS = {
    "sparse": "sparse success",
    "clock": "clock (control)",
    "rrd_frozen": "RRD, frozen",
    "rrd_online": "RRD, online",
}
SEEDS = {"sparse": 3, "rrd_frozen": 3, "rrd_online": 3, "clock": 1}
TOTAL_TIMESTEPS = 100_000
EVALUATE_EVERY = 5_000
EVALUATION_EPISODES = 25
EVALUATION_SEED = 10_000  # of the first episode; no training env is reset with it
SOLVED_PERCENT = 95.0  # twice in a row ends a run
GOAL_PERCENT = 90.0  # the table says when a run first reached it
WORK_DIR = "LIBERO_BENCHMARK_WORK_DIR"  # handed on to the process of each run


def evaluate(agent: Any, env: gym.Env) -> Mapping[str, Sequence[float]]:
    """True success and length of one episode from each of the first stored initial states.

    Raises:
        RuntimeError: If an episode broke, which says nothing about the agent.
    """
    results = evaluate_agent(
        agent,
        env,
        EVALUATION_EPISODES,
        seed=EVALUATION_SEED,
        init_state_ids=range(EVALUATION_EPISODES),
    )
    errors = [result.error for result in results if result.error is not None]
    if errors:
        raise RuntimeError(f"{len(errors)} evaluation episodes broke, the first by {errors[0]}")
    return {
        "success_percent": [100.0 * bool(result.success) for result in results],
        "steps": [float(result.steps) for result in results],
    }


def is_solved(rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether the last two evaluations are good enough to stop."""
    last = [row["success_percent"] for row in rows[-2:]]
    return len(last) == 2 and min(last) >= SOLVED_PERCENT


def train(run: Run, log: RunLog) -> bool:
    """Train and evaluate one agent; return whether the run is complete."""
    # Here, so that `--summary` needs no simulator.
    import libero_arms

    suite, task, _ = TASKS[run.env]
    folder = Path(os.environ.get(WORK_DIR) or cache_folder() / "bench_libero")
    arguments = libero_arms.get_sac_arguments(suite)
    learning_starts = round(arguments["learning_starts"] * log.scale)
    agent, model, trainer = libero_arms.make_agent(
        run.arm, suite, task, run.seed, folder, learning_starts
    )
    total_timesteps = round(TOTAL_TIMESTEPS * log.scale)
    log.arguments = {
        **arguments,
        "learning_starts": learning_starts,
        "policy_kwargs": libero_arms.NETWORK,
        "total_timesteps": total_timesteps,
        "evaluation_episodes": EVALUATION_EPISODES,
        "episode_steps": libero_arms.EPISODE_STEPS,
        "reward_model": describe_model(model),
        "step_cost": libero_arms.ONLINE_STEP_COST if trainer is not None else 0.0,
    }
    env = gym.make("Libero-v0", **libero_arms.make_env_arguments(suite, task))
    every = max(1, round(EVALUATE_EVERY * log.scale))
    evaluate_run = EvaluateRun(log, functools.partial(evaluate, env=env), every, is_solved)
    return learn(log, agent, total_timesteps, evaluate_run, trainer)


def describe_model(model: Any) -> dict[str, Any]:
    """What the reward model was before the agent began."""
    if model is None:
        return {}
    dropped = ("history", "versions")
    return {name: value for name, value in model.training.items() if name not in dropped}


def list_runs() -> list[Run]:
    """Seed after seed, the hard task last; arm after arm, the shortest runs first."""
    return [
        Run(env, arm, seed)
        for seed in range(max(SEEDS.values()))
        for envs in (("libero_90_33", "libero_90_28"), ("libero_object_0",))
        for arm in ("rrd_frozen", "rrd_online", "sparse", "clock")
        for env in envs
        if seed < SEEDS[arm]
    ]


def summarize(folder: Path) -> None:
    """Write `summary.csv` and `curves.png` from the complete runs in a folder."""
    results = read_results(folder, list_runs())
    rows = [
        summarize_arm(results, env, arm)
        for env in TASKS
        for arm in ARMS
        if select(results, env, arm)
    ]
    if not rows:
        print("No run is complete yet.")
        return
    write_rows(folder / "summary.csv", rows)
    panels = [
        Panel(env, title, {"goal": GOAL_PERCENT}, limits=(-2, 102))
        for env, (_, _, title) in TASKS.items()
        if any(run.env == env for run in results)
    ]
    draw_curves(
        folder / "curves.png", panels, ARMS, list_runs(), results, "success_percent", "success in %"
    )
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


def summarize_arm(results: Results, env: str, arm: str) -> dict[str, Any]:
    """One row: when each seed first reached the goal, and how well it ended."""
    runs = select(results, env, arm)
    reached = [first_reached(rows) for rows in runs]
    counted = [float("inf") if steps is None else steps for steps in reached]
    median = statistics.median_low(counted)
    last = [rows[-1]["success_percent"] for rows in runs]
    return {
        "env": env,
        "arm": arm,
        "seeds": f"{len(runs)} of {SEEDS[arm]}",
        "reached_goal": sum(steps is not None for steps in reached),
        "steps_to_goal": " ".join("never" if s is None else f"{s:.0f}" for s in reached),
        "median_steps_to_goal": "never" if median == float("inf") else f"{median:.0f}",
        "best_percent": " ".join(
            f"{max(row['success_percent'] for row in rows):.0f}" for rows in runs
        ),
        "last_percent": " ".join(f"{value:.0f}" for value in last),
        "mean_last_percent": round(statistics.mean(last), 1),
    }


def first_reached(rows: Sequence[Mapping[str, float]]) -> float | None:
    """The step of the first evaluation at or above the goal."""
    return next((row["step"] for row in rows if row["success_percent"] >= GOAL_PERCENT), None)


BENCHMARK = Benchmark(script=__file__, runs=list_runs(), train=train, summarize=summarize)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--work-dir", type=Path, help="folder of the collected episodes")
    known, rest = parser.parse_known_args()
    if known.work_dir is not None:
        os.environ[WORK_DIR] = str(known.work_dir.resolve())
    sys.exit(main(BENCHMARK, __doc__, rest))
