"""What RRD costs beside a bare network and beside SAC, in one process, as ratios.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rrd.py [--repetitions N]

- reward step: `RRDTrainer.train` (drawing 4 episodes x 64 steps, gathering, loss, backward, Adam)
  against a bare torch forward and backward of the same network on the same 256 rows;
- relabelling: SB3's SAC gradient step at its default sizes (256 rows, two layers of 256) with a
  `RelabelReplayBuffer`, against the same step with SB3's own buffer;
- memory: the most that Python and NumPy allocate in a reward step, for episodes of 100 to 100,000
  steps. torch's own allocations are those of 256 rows, whatever the episodes are.

Both sides take turns, so that both see the same load of the machine; the medians are compared.
Writes `results/bench_rrd.csv` beside this file.
"""

import argparse
import csv
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure

from libero_reward_envs.agents.prefill import fill_replay_buffer
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer

SIZES = {"HalfCheetah-v5": (17, 6), "LIBERO-Object": (110, 7)}  # states and actions
EPISODES, ROWS = 4, 256


class FakeEnv(gym.Env[np.ndarray, np.ndarray]):
    """Only the spaces: no step is taken here."""

    def __init__(self, state_size: int, action_size: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (state_size,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (action_size,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(self.observation_space.shape or (), np.float32), {}


def make_episodes(n: int, n_steps: int, state_size: int, action_size: int) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            {"state": rng.normal(size=(n_steps + 1, state_size)).astype(np.float32)},
            rng.uniform(-1, 1, (n_steps, action_size)),
            rng.normal(size=n_steps),
            terminated=False,
            success=False,
        )
        for _ in range(n)
    ]


def take_turns(sides: dict[str, Callable[[], Any]], n: int) -> dict[str, float]:
    """Median milliseconds of each side, which are called one after the other, n times."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(measured[n // 10 :])) for name, measured in times.items()}


def bench_reward_step(state_size: int, action_size: int, n: int) -> dict[str, float]:
    store = EpisodeStore.from_dataset(make_episodes(50, 1000, state_size, action_size), ["state"])
    trainer = RRDTrainer(RRDRewardModel({"state": (state_size,)}, action_size))
    network = trainer.model.network
    rng = np.random.default_rng(0)
    steps = rng.integers(1000, size=(EPISODES, ROWS // EPISODES))
    rows = trainer.model.to_tensors(store.gather(np.arange(EPISODES), steps), torch.float32)
    targets = torch.zeros(EPISODES)

    def bare() -> None:
        network.zero_grad()
        predicted = network(*rows).view(EPISODES, -1).mean(1)
        ((predicted - targets) ** 2).mean().backward()

    return take_turns({"ours": lambda: trainer.train(store), "bare": bare}, n)


def make_agent(state_size: int, action_size: int, buffer_class: Any, **keywords: Any) -> SAC:
    agent = SAC(
        "MlpPolicy",
        FakeEnv(state_size, action_size),
        replay_buffer_class=buffer_class,
        replay_buffer_kwargs=keywords,
        buffer_size=20_000,
        device="cpu",
        seed=0,
    )
    agent.set_logger(configure(None, []))
    assert agent.replay_buffer is not None
    fill_replay_buffer(agent.replay_buffer, make_episodes(10, 1000, state_size, action_size))
    return agent


def bench_relabelling(state_size: int, action_size: int, n: int) -> dict[str, float]:
    model = RRDRewardModel({"state": (state_size,)}, action_size)
    plain = make_agent(state_size, action_size, ReplayBuffer)
    ours = make_agent(state_size, action_size, RelabelReplayBuffer, reward_model=model)
    return take_turns(
        {"ours": lambda: ours.train(1, ROWS), "bare": lambda: plain.train(1, ROWS)}, n
    )


def peak_bytes(n_steps: int) -> float:
    store = EpisodeStore.from_dataset(make_episodes(4, n_steps, 17, 6), ["state"])
    trainer = RRDTrainer(RRDRewardModel({"state": (17,)}, 6))
    trainer.train(store, 3)
    tracemalloc.start()
    trainer.train(store, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=600)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_rrd.csv"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, sizes in SIZES.items():
        for what, bench, goal in (
            ("reward step", bench_reward_step, 1.5),
            ("SAC gradient step with relabelling", bench_relabelling, 1.25),
        ):
            times = bench(*sizes, arguments.repetitions)
            ratio = times["ours"] / times["bare"]
            rows.append({"what": what, "sizes": name, **_rounded(times), "ratio": round(ratio, 3),
                         "goal": goal})  # fmt: skip
            print(rows[-1], flush=True)
    for n_steps in (100, 1000, 10_000, 100_000):
        peak_kb = peak_bytes(n_steps) / 1e3
        rows.append({"what": "peak allocation of a reward step, kB",
                     "sizes": f"{n_steps} steps an episode", "ours": round(peak_kb)})  # fmt: skip
        print(rows[-1], flush=True)
    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["what", "sizes", "ours", "bare", "ratio", "goal"])
        writer.writeheader()
        writer.writerows(rows)


def _rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in times.items()}


if __name__ == "__main__":
    main()
