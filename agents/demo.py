"""The stages of `libero-reward demo`: fit a reward, train an agent on it, evaluate both.

Each stage writes its result into the run's folder whole or not at all.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tqdm import tqdm

from libero_reward_envs.agents.curves import LogCurves
from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.evaluation.reward_quality import (
    judge_scores,
    score_episodes,
    split_episodes,
)
from libero_reward_envs.evaluation.run_folder import RunFolder
from libero_reward_envs.evaluation.success import EpisodeResult, evaluate_agent, summarize_results
from libero_reward_envs.reward_models.rrd import RRDRewardModel, fit_rrd

if TYPE_CHECKING:
    from stable_baselines3 import SAC
    from stable_baselines3.common.vec_env import VecEnv

REWARD_FOLDER = "reward"
QUALITY_FILE = "reward_quality.json"
AGENT_FOLDER = "sac"
AGENT_FILE = "agent.zip"
CURVES_FILE = "curves.csv"
EVALUATION_FILE = "evaluation.json"

# An agent discounts the steps that RRD's offset makes costly, so gamma stays below 1. Entropy
# begins small: at SB3's 1 it outweighs rewards of this size for thousands of steps.
SAC_ARGUMENTS: dict[str, Any] = {"gamma": 0.98, "ent_coef": "auto_0.1", "learning_starts": 200}
EVALUATION_SEED = 10_000  # far from the seeds of collection and training


def fit_reward(
    run: RunFolder, dataset: EpisodeDataset, *, holdout_fraction: float, n_steps: int, seed: int
) -> None:
    """Fit an RRD reward to a part of the episodes and judge it on the others."""
    train, holdout = split_episodes(dataset, holdout_fraction, np.random.default_rng(seed))
    with tqdm(total=n_steps, desc="fit the reward", unit="step") as bar:

        def show(report: Mapping[str, float]) -> None:
            bar.update(int(report["step"]) - bar.n)
            bar.set_postfix(loss=f"{report['loss']:.1e}")

        model = fit_rrd(train, n_steps=n_steps, holdout=holdout, on_progress=show, seed=seed)
    scored = score_episodes(model, holdout)
    quality = judge_scores(scored)
    model.training["holdout"] = quality
    model.save_pretrained(run / REWARD_FOLDER)
    shortest = min(map(len, scored))
    episodes = [
        {
            "success": episode.success,
            "steps": len(episode),
            "true_return": episode.true_return,
            "predicted_return": episode.predicted_return,
            "return_at_equal_length": float(episode.rewards[:shortest].sum(dtype=np.float64)),
        }
        for episode in scored
    ]
    fitted = {"n_episodes": len(train), "n_successes": sum(s.success for s in train.summaries())}
    # Written last: this file tells that the stage is complete.
    run.write_json(QUALITY_FILE, {"measures": quality, "episodes": episodes, "fitted": fitted})


def split_again(
    dataset: EpisodeDataset, *, holdout_fraction: float, seed: int
) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Return the split that `fit_reward` made with the same arguments."""
    return split_episodes(dataset, holdout_fraction, np.random.default_rng(seed))


def load_reward(run: RunFolder) -> RRDRewardModel:
    """Return the reward that `fit_reward` saved."""
    return cast("RRDRewardModel", RRDRewardModel.from_pretrained(run / REWARD_FOLDER))


def train_agent(
    run: RunFolder,
    demonstrations: EpisodeDataset,
    env_arguments: Mapping[str, Any],
    *,
    total_timesteps: int,
    seed: int,
) -> None:
    """Train SAC on the fitted reward, with demonstrations in its replay buffer from the start."""
    from libero_reward_envs.agents.prefill import fill_replay_buffer
    from libero_reward_envs.factory import make_vec_env

    model = load_reward(run)
    venv = make_vec_env("Libero-v0", seed=seed, reward_model=model, **env_arguments)
    try:
        agent = make_sac(venv, seed)
        assert agent.replay_buffer is not None
        fill_replay_buffer(agent.replay_buffer, demonstrations, model)
        with (
            run.new_folder(AGENT_FOLDER) as folder,
            tqdm(total=total_timesteps, desc="train SAC", unit="step") as bar,
        ):
            curves = LogCurves(folder / CURVES_FILE, lambda step: bar.update(step - bar.n))
            agent.learn(total_timesteps, callback=curves)
            venv.reward_mix.check_used()  # pyright: ignore[reportAttributeAccessIssue]
            agent.save(folder / AGENT_FILE)
    finally:
        venv.close()


def make_sac(env: "VecEnv | Any", seed: int) -> "SAC":
    """Return an untrained SAC agent; the same one for the same seed."""
    from stable_baselines3 import SAC

    return SAC("MlpPolicy", env, seed=seed, device="cpu", **SAC_ARGUMENTS)


def evaluate_agents(
    run: RunFolder,
    env_arguments: Mapping[str, Any],
    *,
    task_id: str,
    n_episodes: int,
    seed: int,
) -> None:
    """Evaluate the agent before and after training, and the scripted expert, by true success."""
    import gymnasium as gym
    from stable_baselines3 import SAC

    from libero_reward_envs.agents.experts import make_expert
    from libero_reward_envs.envs.tasks import find_task
    from libero_reward_envs.wrappers.learned_reward import LearnedReward

    env = LearnedReward(gym.make("Libero-v0", **env_arguments), run / REWARD_FOLDER)
    try:
        agents: dict[str, Any] = {
            "untrained": make_sac(env, seed),
            "sac": SAC.load(run / AGENT_FOLDER / AGENT_FILE, device="cpu"),
            "expert": make_expert(find_task(task=task_id)),
        }
        results = {name: _evaluate(name, agent, env, n_episodes) for name, agent in agents.items()}
    finally:
        env.close()
    run.write_json(EVALUATION_FILE, {name: _as_json(rows) for name, rows in results.items()})


def _evaluate(name: str, agent: Any, env: Any, n_episodes: int) -> list[EpisodeResult]:
    with tqdm(total=n_episodes, desc=f"evaluate {name}", unit="episode") as bar:
        return evaluate_agent(
            agent,
            env,
            n_episodes,
            seed=EVALUATION_SEED,
            init_state_ids=range(50),
            on_episode=lambda _: bar.update(),
        )


def _as_json(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    return {
        "summary": dataclasses.asdict(summarize_results(results)),
        "episodes": [dataclasses.asdict(result) for result in results],
    }
