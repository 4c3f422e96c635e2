"""Measures evaluation by protocol: what several environments in one batch gain, and an expert.

    python tests/benchmarks/bench_evaluation.py speed --envs 1 8 --steps 30 --episodes 8
    python tests/benchmarks/bench_evaluation.py expert --suite libero_object --trials 50 --envs 2

`speed` runs the same episodes of the tiny OpenVLA, whose pictures and batches are those of the real
one, with each number of environments in one run, and writes episodes per hour and their ratio to
`tests/benchmarks/results/evaluation_speed.json`. Episodes are cut to `--steps`; each environment's
first episode, in which its simulator starts, is left out. `expert` runs the published protocol and
writes success rates to `results/evaluation_expert_<suite>.json`; it goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
from libero_reward_envs.agents.evaluated_agents import EvaluatedAgent, load_agent
from libero_reward_envs.agents.evaluation_plan import EvaluationPlan, list_jobs, make_maker
from libero_reward_envs.agents.protocol_evaluation import evaluate_by_protocol
from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.envs.assets import resolve_assets
from libero_reward_envs.evaluation.episode_rows import describe_summary
from libero_reward_envs.evaluation.parallel import FinishedEpisode, ParallelEvaluation
from libero_reward_envs.evaluation.protocols import find_protocol
from libero_reward_envs.evaluation.run_folder import installed_versions

RESULTS = Path(__file__).parent / "results"
MACHINE = {"cpus": os.cpu_count(), "gl": os.environ.get("MUJOCO_GL")}


def measure_speed(args: argparse.Namespace) -> None:
    protocol = dataclasses.replace(
        find_protocol("openvla"), step_limits={args.suite: args.steps}, settle_steps=0
    )
    agent = load_agent(args.checkpoint, args.suite, protocol)
    rows = []
    for n_envs in args.envs:
        plan = EvaluationPlan(
            protocol, args.suite, ("0",), args.episodes + n_envs, 0, args.assets, n_envs
        )
        rate = measure_rate(agent, plan)
        rows.append({"n_envs": n_envs, "episodes_per_hour": round(rate, 1)})
        print(rows[-1], flush=True)
    found = {
        "checkpoint": args.checkpoint,
        "steps_per_episode": args.steps,
        "episodes": args.episodes,
        "rows": rows,
        "ratio": round(rows[-1]["episodes_per_hour"] / rows[0]["episodes_per_hour"], 3),
        "load": [round(value, 2) for value in os.getloadavg()],
    }
    write("evaluation_speed.json", found)


def measure_rate(agent: EvaluatedAgent, plan: EvaluationPlan) -> float:
    """Return episodes per hour, from when every environment has finished its first one."""
    assert plan.trials is not None
    ends: list[float] = []

    def note(finished: FinishedEpisode) -> None:
        if finished.row.result.error is not None:
            raise RuntimeError(finished.row.result.error)
        ends.append(time.perf_counter())

    maker = make_maker(agent, plan, resolve_assets(plan.assets))
    ParallelEvaluation(agent.agent, maker, plan.n_envs).run(list_jobs(plan), note)
    return 3600 * (len(ends) - plan.n_envs) / (ends[-1] - ends[plan.n_envs - 1])


def evaluate_expert(args: argparse.Namespace) -> None:
    plan = EvaluationPlan(
        find_protocol("openvla"), args.suite, None, args.trials, 0, args.assets, args.envs[0], 0
    )
    agent = load_agent("expert", plan.suite, plan.protocol)
    start = time.perf_counter()
    summary = evaluate_by_protocol(agent, plan, args.out, show_progress=True, tell=print)
    print(describe_summary(summary))
    seconds = round(time.perf_counter() - start, 1)
    found = {"assets": args.assets, "n_envs": plan.n_envs, "last_call_s": seconds, **summary}
    write(f"evaluation_expert_{plan.suite}.json", found)


def write(name: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    about = {**found, "machine": MACHINE, "versions": installed_versions()}
    write_atomically(RESULTS / name, [(json.dumps(about, indent=1) + "\n").encode()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("speed", "expert"))
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8], help="of expert, the first")
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--steps", type=int, default=30, help="of an episode; speed only")
    parser.add_argument("--episodes", type=int, default=8, help="measured ones; speed only")
    parser.add_argument("--checkpoint", default="tiny-random-openvla", help="speed only")
    parser.add_argument("--trials", type=int, default=50, help="of each task; expert only")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation_expert"))
    arguments = parser.parse_args()
    {"speed": measure_speed, "expert": evaluate_expert}[arguments.what](arguments)
