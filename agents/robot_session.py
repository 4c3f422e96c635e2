"""Episodes of a robot, one after the other, with a log and a summary."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from libero_reward_envs.agents.policy_thread import InstructedPolicy
from libero_reward_envs.agents.robot_config import RobotConfig, TaskConfig
from libero_reward_envs.agents.robot_log import FAULTS, RobotOutcome
from libero_reward_envs.agents.robot_loop import RobotLoop
from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.evaluation.success import wilson_interval

EPISODES_FILE, SUMMARY_FILE = "episodes.h5", "summary.json"


def drive_robot(
    env: gym.Env[Any, Any],
    policy: InstructedPolicy,
    config: RobotConfig,
    task: TaskConfig,
    out: str | Path,
    *,
    n_episodes: int = 1,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Drive a robot for some episodes, and write them; a fault ends the session.

    Writes `episodes.h5`, which `load_episodes` reads, and `summary.json`, both after each episode.

    Args:
        env: The robot, see `RobotLoop`; it is closed at the end.
        policy: What acts.
        config: How the robot is driven.
        task: What it is to do.
        out: Folder of the results; must not hold earlier ones.
        n_episodes: How many episodes.
        seed: What the first one is reset with; the next ones follow.
        tell: Takes a line after each episode.

    Returns:
        The summary.

    Raises:
        FileExistsError: If the folder holds an earlier session.
        OSError: If results cannot be written.
        ValueError: If the environment, the policy and the configuration do not agree.
    """
    out = Path(out)
    try:
        if n_episodes < 1:
            raise ValueError(f"`n_episodes` must be at least 1, got {n_episodes}.")
        if any((out / name).exists() for name in (EPISODES_FILE, SUMMARY_FILE)):
            raise FileExistsError(f"{str(out)!r} holds an earlier session. Choose another folder.")
        out.mkdir(parents=True, exist_ok=True)
        loop = RobotLoop(env, policy, config, task)
        outcomes: list[RobotOutcome] = []
        summary: dict[str, Any] = {}
        try:
            loop.warm_up()
            with EpisodeWriter(out / EPISODES_FILE) as writer:
                for index in range(n_episodes):
                    outcome, episode = loop.run_episode(seed + index)
                    outcomes.append(outcome)
                    if episode is not None:
                        writer.append(episode)
                    summary = _summarize(outcomes, policy, config, task, seed)
                    text = json.dumps(summary, indent=2) + "\n"
                    write_atomically(out / SUMMARY_FILE, [text.encode()])
                    tell(f"Episode {index}: {_describe(outcome)}")
                    if outcome.reason in FAULTS:
                        break
        finally:
            loop.close()
    finally:
        env.close()
    return summary


def _summarize(
    outcomes: list[RobotOutcome],
    policy: InstructedPolicy,
    config: RobotConfig,
    task: TaskConfig,
    seed: int,
) -> dict[str, Any]:
    """Return what a session came to; success is counted over episodes without a fault."""
    finished = [outcome for outcome in outcomes if outcome.reason not in FAULTS]
    successes = sum(outcome.success for outcome in finished)
    interval = wilson_interval(successes, len(finished)) if finished else None
    return {
        "episodes": len(finished),
        "successes": successes,
        "success_interval": None if interval is None else list(interval),
        "faults": len(outcomes) - len(finished),
        "missed_deadlines": sum(outcome.missed_deadlines for outcome in outcomes),
        "seed": seed,
        "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
        "robot": dataclasses.asdict(config),
        "task": dataclasses.asdict(task),
        "policy": policy.settings,
    }


def _describe(outcome: RobotOutcome) -> str:
    detail = f" ({outcome.detail})" if outcome.detail else ""
    result = "success" if outcome.success else "no success"
    return (
        f"{outcome.reason}{detail} after {outcome.steps} steps, {result}; "
        f"{outcome.missed_deadlines} missed deadlines, {outcome.clipped} actions clipped"
    )
