"""Does a learned reward pay more for finishing a task or for lingering on the way?

    libero-reward collect --task TASK --episodes 100 --assets builtin --out episodes.h5
    python tests/benchmarks/measure_lingering.py --data episodes.h5 --assets builtin

Fits an RRD reward without an offset, then runs the scripted expert from stored initial states in
the simulator: once to success, and once each stopped at a share of that way, holding still until
the step limit. A time-out is not an end, so lingering is taken to go on for ever at its last
reward. For each way of putting the reward below zero (none, and `compute_reward_offset` with
several margins) and each discount: the share of initial states in which finishing has the highest
discounted return, and by how much it leads the best lingering. Writes `results/lingering.csv`.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from libero_reward_envs.agents.experts import make_expert
from libero_reward_envs.data import Episode, load_episodes
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.reward_models.rrd import compute_reward_offset, fit_rrd

STOPS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97)  # shares of the way to success
MARGINS = (None, 0.0, 0.25, 1.0, 3.0)
GAMMAS = (0.98, 0.99)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="episodes to fit the reward to")
    parser.add_argument("--assets", default="auto", help="asset set or folder")
    parser.add_argument("--states", type=int, default=10, help="initial states")
    parser.add_argument("--steps", type=int, default=5000, help="optimiser steps")
    parser.add_argument("--seeds", type=int, default=3, help="rewards fitted")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "lingering.csv"
    )
    return parser.parse_args()


def run_expert(env: LiberoEnv, state_id: int, stop_step: int | None, limit: int) -> Episode:
    """The expert's episode, or that of one who holds still from `stop_step` on."""
    expert = make_expert(env.task)
    observation, _ = env.reset(seed=state_id, options={"init_state_id": state_id})
    observations, actions, rewards, terminated = [observation], [], [], False
    while len(actions) < limit and not terminated:
        if stop_step is None or len(actions) < stop_step:
            action, _ = expert.predict(observation)
        else:
            gripper = actions[-1][6] if actions else -1.0
            action = np.array([0, 0, 0, 0, 0, 0, gripper], np.float32)
        observation, reward, terminated, _, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
    return Episode(
        {"state": np.stack(observations)},
        np.stack(actions),
        np.array(rewards),
        terminated=terminated,
        success=terminated,
        task=env.task.id,
    )


def discounted_return(rewards: np.ndarray, gamma: float, goes_on: bool) -> float:
    """Of one episode; one that was only cut off goes on for ever at its last reward."""
    weights = gamma ** np.arange(len(rewards))
    tail = gamma ** len(rewards) * rewards[-1] / (1 - gamma) if goes_on else 0.0
    return float(weights @ rewards + tail)


def collect_ways(task_id: str, assets: str, n_states: int) -> list[tuple[Episode, list[Episode]]]:
    """For each initial state in which the expert succeeds: finishing, and ways of lingering."""
    task = find_task(None, task_id)
    env = LiberoEnv(task.suite, task.index, assets=assets)
    ways = []
    for state_id in range(n_states):
        finish = run_expert(env, state_id, None, task.max_episode_steps)
        if not finish.success:
            print(f"initial state {state_id}: the expert failed; left out")
            continue
        stops = [int(share * len(finish)) for share in STOPS]
        lingers = [run_expert(env, state_id, stop, task.max_episode_steps) for stop in stops]
        ways.append((finish, [episode for episode in lingers if not episode.success]))
    env.close()
    return ways


def main(args: argparse.Namespace) -> None:
    dataset = load_episodes(args.data)
    ways = collect_ways(dataset.summaries()[0].task, args.assets, args.states)
    rows = []
    for seed in range(args.seeds):
        model = fit_rrd(dataset, n_steps=args.steps, offset_margin=None, seed=seed)
        lowest, highest = model.training["reward_range"]
        scored = [
            [model.compute_reward(episode.transitions()) for episode in (finish, *lingers)]
            for finish, lingers in ways
        ]
        for margin in MARGINS:
            offset = 0.0 if margin is None else compute_reward_offset(lowest, highest, margin)
            for gamma in GAMMAS:
                leads = []
                for (first, *others), _ in zip(scored, ways, strict=True):
                    best = max(discounted_return(other - offset, gamma, True) for other in others)
                    leads.append(discounted_return(first - offset, gamma, False) - best)
                rows.append(
                    {
                        "seed": seed,
                        "margin": "none" if margin is None else margin,
                        "offset": round(offset, 5),
                        "gamma": gamma,
                        "n_states": len(leads),
                        "finishing_is_best": float(np.mean(np.array(leads) > 0)),
                        "median_lead": round(float(np.median(leads)), 4),
                    }
                )
                print(rows[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"Written: {args.out}")


if __name__ == "__main__":
    main(parse_args())
