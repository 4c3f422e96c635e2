"""Trains a Stable-Baselines3 agent as a configuration says, in a folder of its own."""

import contextlib
import dataclasses
import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

from libero_reward_envs.agent_config import TrainAgentConfig, describe_config
from libero_reward_envs.agents.agent_making import make_agent
from libero_reward_envs.agents.agent_setup import AgentPlan, make_envs, make_plan
from libero_reward_envs.agents.learning_session import (
    ShowProgress,
    closing,
    heed_ended_processes,
    logging_into,
)
from libero_reward_envs.agents.log_rewards import LogRewards, read_rewards, summarize_rewards
from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training
from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data.trajectory_store import CollectionCounts
from libero_reward_envs.evaluation.agent_figure import draw_agent_training
from libero_reward_envs.evaluation.run_folder import RunFolder
from libero_reward_envs.evaluation.success import (
    EpisodeResult,
    SuccessRate,
    evaluate_agent,
    summarize_results,
)
from libero_reward_envs.wrappers.vec_reward_data_collector import VecRewardDataCollector

if TYPE_CHECKING:
    from libero_reward_envs.reward_models.base import RewardModel

AGENT_FILE = "agent.zip"
REWARDS_FILE = "rewards.csv"
FIGURE_FILE = "curves.png"
TRAINING_FILE = "training.json"
EVALUATION_FILE = "evaluation.json"
SETTINGS_FILE = "config.yaml"
LOG_FOLDER = "logs"
CHECKPOINTS_FOLDER = "checkpoints"
_RESULTS = (
    *(AGENT_FILE, REWARDS_FILE, FIGURE_FILE, TRAINING_FILE, EVALUATION_FILE, SETTINGS_FILE),
    *(LOG_FOLDER, CHECKPOINTS_FOLDER),
)
# What may differ when a run goes on, because no result depends on it.
_MAY_CHANGE = (
    *("agent.total_timesteps", "agent.log_interval", "agent.device", "env.subprocesses"),
    *("evaluation.", "checkpoints.", "out"),
)
_STORED_INIT_STATES = 50  # of each LIBERO task
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentRun:
    """What came of a training.

    Attributes:
        folder: Where everything is.
        timesteps: Env steps that the agent was trained for.
        rewards: Means over the last episodes by name, as `LogRewards` logs them.
        counts: What was collected by this call; None if nothing was to be.
        success: True success in an env without a learned reward; None if it was not evaluated.
    """

    folder: Path
    timesteps: int
    rewards: Mapping[str, float]
    counts: CollectionCounts | None
    success: SuccessRate | None


def train_agent(
    config: TrainAgentConfig,
    *,
    overwrite: bool = False,
    show_progress: bool = False,
    tell: Callable[[str], object] = _logger.info,
) -> AgentRun:
    """Train an agent, save it with its logs, evaluate it by true success.

    A run that was stopped goes on from its last checkpoint when it is called again, and one that
    had finished from its end if `total_timesteps` is larger by now.

    Args:
        config: Of `load_agent_config`. `config.out` gets `config.yaml` (all settings, to be given
            again), `config.json` (versions), `logs` (CSV, TensorBoard), `rewards.csv` (one line an
            episode), `curves.png`, `checkpoints`, `agent.zip`, `training.json`, `evaluation.json`.
        overwrite: Whether to delete the results of a run with other settings in the same folder.
        show_progress: Whether to draw progress bars.
        tell: Called with what is done and found, a line at a time.

    Raises:
        FileNotFoundError: If the checkpoint of the reward model is not there; no env was started.
        RuntimeError: If the learned reward never changed a reward, or its weights were not loaded.
            In the first case, all files but the evaluation were written.
        ValueError: If a setting is wrong, or the folder holds another run.
    """
    plan = make_plan(config)
    for note in plan.notes:
        tell(note)
    run = RunFolder(plan.config.out)
    run.begin(_list_what_matters(plan), overwrite=overwrite)
    run.register(*_RESULTS)
    settings = yaml.safe_dump(describe_config(plan.config), sort_keys=False)
    run.write_bytes(SETTINGS_FILE, settings.encode())
    done: dict[str, Any] = {"timesteps": 0}
    if run.has(TRAINING_FILE):
        done = run.read_json(TRAINING_FILE)
    counts = None
    if done["timesteps"] < plan.config.agent.total_timesteps:
        with run.timed("training"), heed_ended_processes():
            counts = _train(run, plan, show_progress, tell)
        done = run.read_json(TRAINING_FILE)
    else:
        tell(f"Trained for {done['timesteps']} steps already: {run / AGENT_FILE}")
    if done["problem"]:
        raise RuntimeError(done["problem"])
    with run.timed("evaluation"):
        success = _evaluate(run, plan, done["timesteps"], show_progress)
    return AgentRun(run.path, done["timesteps"], done["rewards"], counts, success)


def _train(
    run: RunFolder, plan: AgentPlan, show_progress: bool, tell: Callable[[str], object]
) -> CollectionCounts | None:
    """Train until the end and write what came of it."""
    config = plan.config
    venv = make_envs(plan)
    with closing(venv):
        agent = make_agent(config.agent, venv)
        done = resume_training(agent, run / CHECKPOINTS_FOLDER)
        if done:
            tell(f"Going on from the checkpoint at {done} steps.")
        log = LogRewards(run / REWARDS_FILE, if_unused="ignore")
        total, interval = config.agent.total_timesteps, config.agent.log_interval
        intervals: dict[str, Any] = {} if interval is None else {"log_interval": interval}
        callbacks = [log, *_list_callbacks(run, config, show_progress)]
        with logging_into(agent, run / LOG_FOLDER, done):
            if done < total:
                agent.learn(total - done, callbacks, reset_num_timesteps=done == 0, **intervals)
        problem = _find_problem(log) if done < total else None
        content = io.BytesIO()
        agent.save(content)
        write_atomically(run / AGENT_FILE, [content.getvalue()])
    episodes = read_rewards(run / REWARDS_FILE)
    draw_agent_training(run / FIGURE_FILE, episodes, f"{config.agent.algorithm}, {run.path.name}")
    summary = {
        "timesteps": agent.num_timesteps,
        "episodes": len(episodes["step"]),
        "rewards": _summarize(episodes),
        "problem": problem,
    }
    run.write_json(TRAINING_FILE, summary)  # the last, because it tells that training is complete
    return _count(venv)


def _list_callbacks(
    run: RunFolder, config: TrainAgentConfig, show_progress: bool
) -> list[BaseCallback]:
    callbacks: list[BaseCallback] = []
    if config.checkpoints.save_freq is not None:
        settings = dataclasses.asdict(config.checkpoints)
        callbacks.append(SaveCheckpoints(run / CHECKPOINTS_FOLDER, **settings))
    if show_progress:
        callbacks.append(ShowProgress(config.agent.total_timesteps))
    return callbacks


def _find_problem(log: LogRewards) -> str | None:
    try:
        log.check_used()
    except RuntimeError as error:
        return (
            f"{error} That is so as well where success was neither reached nor seen, as in a short "
            "run with a binary reward or mode 'success'; with `reward_type: continuous` and "
            "`mode: difference` a working model changes every reward. Agent and logs were saved."
        )
    return None


def _evaluate(
    run: RunFolder, plan: AgentPlan, timesteps: int, show_progress: bool
) -> SuccessRate | None:
    """Evaluate the saved agent by true success, unless that was done."""
    settings = plan.config.evaluation
    asked = {"timesteps": timesteps, **dataclasses.asdict(settings)}
    if settings.episodes == 0:
        return None
    if run.has(EVALUATION_FILE):
        found = run.read_json(EVALUATION_FILE)
        if found["asked"] == asked:
            return SuccessRate(**found["summary"])
    results = _run_episodes(run / AGENT_FILE, plan.config, show_progress)
    success = summarize_results(results)
    if not success.episodes:
        raise RuntimeError(f"No episode of the evaluation was finished: {results[0].error}")
    episodes = [dataclasses.asdict(result) for result in results]
    found = {"asked": asked, "summary": dataclasses.asdict(success), "episodes": episodes}
    run.write_json(EVALUATION_FILE, found)
    return success


def _run_episodes(path: Path, config: TrainAgentConfig, show_progress: bool) -> list[EpisodeResult]:
    """Let a saved agent act in an env without a learned reward."""
    import gymnasium as gym
    import stable_baselines3
    from tqdm import tqdm

    n = config.evaluation.episodes
    algorithm = getattr(stable_baselines3, config.agent.algorithm)
    agent = algorithm.load(path, device=config.agent.device)
    env = gym.make(config.env.id, **config.env.arguments)
    is_stored = getattr(env.unwrapped, "init_states", None) == "benchmark"
    with (
        contextlib.closing(env),
        tqdm(total=n, desc="evaluate", unit="episode", disable=not show_progress) as bar,
    ):
        return evaluate_agent(
            agent,
            env,
            n,
            seed=config.evaluation.seed,
            init_state_ids=range(_STORED_INIT_STATES) if is_stored else None,
            on_episode=lambda _: bar.update(),
        )


def _list_what_matters(plan: AgentPlan) -> dict[str, Any]:
    """Return the settings that decide the results, by names such as "agent.seed"."""
    flat: dict[str, Any] = {"reward_model_sha256": _hash_weights(plan.reward_model)}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                add(f"{name}.{key}" if name else key, part)
        elif not name.startswith(_MAY_CHANGE):
            flat[name] = value

    add("", describe_config(plan.config))
    return flat


def _hash_weights(model: "RewardModel | None") -> str | None:
    """Return the SHA-256 of a reward model's weights, None for one without weights."""
    get_weights = getattr(model, "get_weights", None)
    if get_weights is None:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(get_weights().items()):
        digest.update(f"{name}{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _summarize(episodes: Mapping[str, np.ndarray], n: int = 100) -> dict[str, float]:
    columns = {name: values[-n:].tolist() for name, values in episodes.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return summarize_rewards(rows)


def _count(venv: Any) -> CollectionCounts | None:
    while isinstance(venv, VecEnvWrapper):
        if isinstance(venv, VecRewardDataCollector):
            return venv.counts
        venv = venv.venv
    return None
