"""Does Randomized Return Decomposition recover what SAC loses when it is told only the return?

    python tests/benchmarks/bench_mujoco.py               # 48 runs; --jobs N for N at a time
    python tests/benchmarks/bench_mujoco.py --summary     # table and figure from the stored runs

Gymnasium's MuJoCo environments (v5, 1000 steps) in five arms: SAC on the dense reward, SAC on the
episodic reward (`EpisodicReward`: the return at the end, zero before), and SAC on the episodic
reward under three learned ones: RRD, RRD-L(RD) with the bias correction, and IRCR. An agent is
judged by its deterministic return under the dense reward, 10 episodes with the same seeds at every
evaluation. A sixth arm acts at random, 20 episodes, once an environment.

Everything of SAC is the same in all arms; of Stable-Baselines3's defaults only the networks, the
first random steps and Adam's fused form are changed. The networks have two layers of 128 units, not
256: on one core a gradient step then takes 7 ms and not 14. The reward of RRD is that of the paper:
two layers of 256 units, 4 episodes x 64 steps, Adam at 3e-4, one step for each critic step, no
normalisation, and all rewards computed anew whenever they are sampled.

Writes into `results/mujoco/` one CSV and one JSON a run (see learning_runs.py) and, at the end of
the grid or with `--summary`, `summary.csv` and `curves.png`. In the summary a run's final return is
the mean of its last three evaluations, `iqm` the interquartile mean over seeds with a 95 %
bootstrap interval, and `recovered` is (arm - random) / (dense - random), with random and dense at
their means. The rows of env "all" take all environments together, with a bootstrap stratified by
them.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from learning_curves import Panel, Results, describe, draw_curves, final_values, read_results
from learning_runs import Benchmark, main, make_grid
from run_log import Run, RunLog, write_rows
from sac_runs import EvaluateRun, RandomAgent, evaluate_returns, learn
from stable_baselines3 import SAC

from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.reward_models.redistribution import IRCRTrainer
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.reward_models.rrd_trainer import RRDTrainer
from libero_reward_envs.reward_models.training import RewardTrainer
from libero_reward_envs.wrappers import EpisodicReward

TOTAL_TIMESTEPS = {
    "InvertedDoublePendulum-v5": 50_000,
    "Hopper-v5": 50_000,
    "HalfCheetah-v5": 150_000,
}
LEARNING_STARTS = {
    "InvertedDoublePendulum-v5": 2_000,
    "Hopper-v5": 2_000,
    "HalfCheetah-v5": 5_000,
}
EVALUATE_EVERY = {
    "InvertedDoublePendulum-v5": 2_500,
    "Hopper-v5": 2_500,
    "HalfCheetah-v5": 5_000,
}
ARMS = {
    "sac_dense": "SAC, dense reward",
    "sac_episodic": "SAC, episodic reward",
    "rrd": "RRD",
    "rrd_lrd": "RRD-L(RD)",
    "ircr": "IRCR",
}
SEEDS = (0, 1, 2)
EVALUATION_EPISODES = 10
RANDOM_EPISODES = 20
EVALUATION_SEED = 10_000  # of the first episode; no training env is reset with it
SAC_ARGUMENTS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 256,
    "gamma": 0.99,
    "tau": 0.005,
    "train_freq": 1,
    "gradient_steps": 1,
    "policy_kwargs": {"net_arch": [128, 128], "optimizer_kwargs": {"fused": True}},
}
TRAINER_ARGUMENTS: dict[str, Any] = {
    "episodes_per_step": 4,
    "steps_per_episode": 64,
    "learning_rate": 3e-4,
    "return_scale": 1.0,
}


def make_env(env_id: str, arm: str) -> gym.Env:
    """The env that an arm learns in."""
    env = gym.make(env_id, disable_env_checker=True)
    return env if arm in ("sac_dense", "random") else EpisodicReward(env)


def make_trainer(run: Run, env: gym.Env) -> RewardTrainer | None:
    """What trains the reward of an arm; None for an arm without a learned reward."""
    if run.arm in ("sac_dense", "sac_episodic"):
        return None
    if run.arm == "ircr":
        return IRCRTrainer()
    if run.arm not in ("rrd", "rrd_lrd"):
        raise ValueError(f"Unknown arm {run.arm!r}. Choose one of: {', '.join(ARMS)}.")
    assert isinstance(env.action_space, gym.spaces.Box)
    assert env.observation_space.shape is not None
    model = RRDRewardModel(
        {"state": env.observation_space.shape},
        env.action_space.shape[0],
        normalize=False,
        seed=run.seed,
    )
    return RRDTrainer(
        model, bias_correction=run.arm == "rrd_lrd", seed=run.seed, **TRAINER_ARGUMENTS
    )


def train(run: Run, log: RunLog) -> bool:
    """Train and evaluate one agent; return whether the run is complete."""
    if run.arm == "random":
        envs = [make_env(run.env, run.arm) for _ in range(RANDOM_EPISODES)]
        agent = RandomAgent(envs[0].action_space, run.seed)
        log.add(0, {"return": evaluate_returns(agent, envs, EVALUATION_SEED)})
        return True
    total_timesteps = round(TOTAL_TIMESTEPS[run.env] * log.scale)
    arguments = {
        **copy.deepcopy(SAC_ARGUMENTS),  # SB3 adds to `policy_kwargs`
        "buffer_size": TOTAL_TIMESTEPS[run.env],
        "learning_starts": round(LEARNING_STARTS[run.env] * log.scale),
    }
    log.arguments = {
        **copy.deepcopy(arguments),
        "total_timesteps": total_timesteps,
        "evaluation_episodes": EVALUATION_EPISODES,
        "trainer": TRAINER_ARGUMENTS if run.arm.startswith("rrd") else {},
    }
    env = make_env(run.env, run.arm)
    trainer = make_trainer(run, env)
    if trainer is not None:
        arguments["replay_buffer_class"] = RelabelReplayBuffer
        arguments["replay_buffer_kwargs"] = {"reward_model": trainer.model, "relabel": "always"}
    agent = SAC("MlpPolicy", env, seed=run.seed, device="cpu", **arguments)
    envs = [make_env(run.env, "sac_dense") for _ in range(EVALUATION_EPISODES)]
    evaluate = EvaluateRun(
        log,
        lambda model: {"return": evaluate_returns(model, envs, EVALUATION_SEED)},
        max(1, round(EVALUATE_EVERY[run.env] * log.scale)),
    )
    return learn(log, agent, total_timesteps, evaluate, trainer)


def list_runs() -> list[Run]:
    """Env after env: the random policy, then all arms of the first seed, then of the next."""
    grid = make_grid(list(TOTAL_TIMESTEPS), list(ARMS), SEEDS)
    runs = []
    for env in TOTAL_TIMESTEPS:
        runs += [Run(env, "random", 0), *(run for run in grid if run.env == env)]
    return runs


def summarize(folder: Path) -> None:
    """Write `summary.csv` and `curves.png` from the complete runs in a folder."""
    results = read_results(folder, list_runs())
    rows = [row for env in TOTAL_TIMESTEPS for row in summarize_env(results, env)]
    rows += summarize_all(results)
    if not rows:
        print("No run is complete yet.")
        return
    write_rows(folder / "summary.csv", rows)
    panels = [
        Panel(env, env, {"random policy": value} if (value := mean(results, env, "random")) else {})
        for env in TOTAL_TIMESTEPS
        if any(run.env == env for run in results)
    ]
    draw_curves(
        folder / "curves.png", panels, ARMS, list_runs(), results, "return", "return (dense reward)"
    )
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items() if value != ""))


def mean(results: Results, env: str, arm: str) -> float | None:
    """Mean final return over the complete seeds of an arm."""
    values = final_values(results, env, arm, "return")
    return float(np.mean(values)) if values else None


def recovered(results: Results, env: str, arm: str) -> list[float]:
    """What share of dense SAC's return above random each seed of an arm reached."""
    low, high = mean(results, env, "random"), mean(results, env, "sac_dense")
    if low is None or high is None:
        return []
    values = final_values(results, env, arm, "return")
    return [(value - low) / (high - low) for value in values]


def summarize_env(results: Results, env: str) -> list[dict[str, Any]]:
    """One row an arm that has a complete run."""
    rows = []
    for arm in ARMS:
        values = final_values(results, env, arm, "return")
        if not values:
            continue
        random = mean(results, env, "random")
        rows.append(
            {
                "env": env,
                "arm": arm,
                "seeds": f"{len(values)} of {len(SEEDS)}",
                **named("iqm", describe([values]), 1),
                "random": "" if random is None else round(random, 1),
                **named("recovered", describe([recovered(results, env, arm)]), 3),
            }
        )
    return rows


def summarize_all(results: Results) -> list[dict[str, Any]]:
    """One row an arm that has complete runs in every environment."""
    rows = []
    for arm in ARMS:
        strata = [recovered(results, env, arm) for env in TOTAL_TIMESTEPS]
        if all(strata):
            n_runs = sum(map(len, strata))
            rows.append(
                {
                    "env": "all",
                    "arm": arm,
                    "seeds": f"{n_runs} of {len(SEEDS) * len(strata)} runs",
                    **named("iqm", None, 1),
                    "random": "",
                    **named("recovered", describe(strata), 3),
                }
            )
    return rows


def named(name: str, found: tuple[float, float, float] | None, digits: int) -> dict[str, Any]:
    """A statistic and the ends of its interval as columns, empty where there is none."""
    values = ("", "", "") if found is None else [round(value, digits) for value in found]
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


BENCHMARK = Benchmark(script=__file__, runs=list_runs(), train=train, summarize=summarize)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK, __doc__))
