"""An evaluation by protocol, in a folder of its own: rows as they come, resumed after a stop."""

import contextlib
import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from libero_reward_envs.agents.evaluated_agents import EvaluatedAgent, check_agent
from libero_reward_envs.agents.evaluation_plan import (
    EvaluationPlan,
    check_cameras,
    list_jobs,
    make_maker,
)
from libero_reward_envs.envs.assets import AssetSet, resolve_assets
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.evaluation.episode_rows import (
    EpisodeRow,
    append_row,
    read_rows,
    summarize_rows,
)
from libero_reward_envs.evaluation.evaluation_videos import (
    draw_video,
    read_actions,
    write_actions,
)
from libero_reward_envs.evaluation.parallel import FinishedEpisode, ParallelEvaluation
from libero_reward_envs.evaluation.run_folder import RunFolder, installed_versions

ROWS_FILE, SUMMARY_FILE = "episodes.jsonl", "summary.json"
ACTIONS_FOLDER, VIDEOS_FOLDER = "actions", "videos"
_logger = logging.getLogger(__name__)


def evaluate_by_protocol(
    agent: EvaluatedAgent,
    plan: EvaluationPlan,
    out: str | Path,
    *,
    overwrite: bool = False,
    show_progress: bool = False,
    tell: Callable[[str], object] = _logger.info,
) -> dict[str, Any]:
    """Run the episodes of a protocol that are not there yet, and sum up all of them.

    Episodes that ended in an error are tried again by the next call.

    Args:
        agent: What acts.
        plan: What is evaluated, and how.
        out: Folder of the results: `config.json` (protocol, agent by its hash, seeds, object
            models, versions, machine), `episodes.jsonl` (a row as each episode ends), `actions`,
            by which any of them can be played again, `summary.json`, `videos` of failures.
        overwrite: Whether to delete the results of other settings in that folder.
        show_progress: Whether to draw a bar.
        tell: Called with what is to be known, a line at a time.

    Returns:
        See `summarize_rows`.

    Raises:
        RuntimeError: If nothing but errors came of the first episodes.
        ValueError: If the agent cannot act in these tasks, or the folder holds other settings.
    """
    assets = resolve_assets(plan.assets)
    make_env = make_maker(agent, plan, assets)
    for task in plan.chosen_tasks:
        with contextlib.closing(make_env(task.id)) as env:  # not started by this
            check_agent(agent, env, task)
    check_cameras(agent, plan, assets)
    run = RunFolder(out)
    run.begin(
        _list_what_matters(agent, plan, assets),
        overwrite=overwrite,
        about={"machine": _describe_machine(plan)},
    )
    run.register(ROWS_FILE, SUMMARY_FILE, ACTIONS_FOLDER, VIDEOS_FOLDER)
    rows = read_rows(run / ROWS_FILE)
    jobs = list_jobs(plan)
    left = [job for job in jobs if not _is_done(rows.get((job.task, job.trial)))]
    if len(left) < len(jobs):
        tell(f"{len(jobs) - len(left)} of {len(jobs)} episodes are there already.")
    with (
        run.timed("episodes"),
        tqdm(
            total=len(jobs),
            initial=len(jobs) - len(left),
            desc="evaluate",
            unit="episode",
            disable=not show_progress,
        ) as bar,
    ):

        def keep(finished: FinishedEpisode) -> None:
            row = finished.row
            write_actions(find_actions(run, row), finished.actions)
            append_row(run / ROWS_FILE, row)
            rows[row.key] = row
            bar.update()
            bar.set_postfix_str(_count(rows.values()))

        if left:
            ParallelEvaluation(agent.agent, make_env, plan.n_envs).run(left, keep)
    ordered = [rows[job.task, job.trial] for job in jobs]
    summary = summarize_rows(ordered, plan.protocol.errors)
    run.write_json(SUMMARY_FILE, {**summary, "seconds": run.times()["episodes"]})
    with run.timed("videos"):
        _draw_failures(run, plan, assets, ordered, show_progress, tell)
    return summary


def find_actions(run: RunFolder, row: EpisodeRow) -> Path:
    """Return the file of an episode's actions."""
    return run / ACTIONS_FOLDER / f"{_name(row)}.npy"


def _list_what_matters(
    agent: EvaluatedAgent, plan: EvaluationPlan, assets: AssetSet
) -> dict[str, Any]:
    """Return what decides the results, by names such as "protocol.trials"."""
    about = {
        "protocol": plan.protocol.as_json(),
        "suite": plan.suite,
        "tasks": [task.id for task in plan.chosen_tasks],
        "trials": plan.n_trials,
        "seed": plan.seed,
        "agent": agent.description,
        "env": agent.env_arguments,
        "assets": {"name": assets.name, "files": _hash_names(assets.path)},
        "mujoco": installed_versions().get("mujoco"),
    }
    flat: dict[str, Any] = {}
    for name, value in about.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _hash_names(folder: Path) -> str:
    """Return the SHA-256 of the names and sizes of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _describe_machine(plan: EvaluationPlan) -> dict[str, Any]:
    import torch

    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gl": os.environ.get("MUJOCO_GL"),
        "n_envs": plan.n_envs,
    }


def _is_done(row: EpisodeRow | None) -> bool:
    return row is not None and row.result.error is None


def _count(rows: Any) -> str:
    results = [row.result for row in rows]
    solved = sum(bool(result.success) for result in results)
    errors = sum(result.error is not None for result in results)
    return f"solved {solved}/{len(results)}" + (f", errors {errors}" if errors else "")


def _name(row: EpisodeRow) -> str:
    task = find_task(None, row.task)
    return f"{task.suite}_{task.index:02d}_{row.trial:03d}"


def _draw_failures(
    run: RunFolder,
    plan: EvaluationPlan,
    assets: AssetSet,
    rows: Sequence[EpisodeRow],
    show_progress: bool,
    tell: Callable[[str], object],
) -> None:
    """Draw the first failures, of which there is no video yet."""
    failures = [row for row in rows if row.result.success is False][: plan.n_videos]
    missing = [row for row in failures if not (run / VIDEOS_FOLDER / f"{_name(row)}.mp4").exists()]
    options = {(job.task, job.trial): job.options for job in list_jobs(plan)} if missing else {}
    bar = tqdm(
        missing, desc="draw failures", unit="episode", disable=not show_progress or not missing
    )
    with contextlib.ExitStack() as envs, bar:
        env, made_for = None, None
        for row in bar:
            if env is None or row.task != made_for:
                envs.close()
                env, made_for = _make_drawn_env(row.task, plan, assets), row.task
                envs.callback(env.close)
            path = run / VIDEOS_FOLDER / f"{_name(row)}.mp4"
            try:
                actions = read_actions(find_actions(run, row))
                same = draw_video(env, row, options[row.key], actions, path)
            except (RuntimeError, ValueError) as error:
                tell(f"No video of {row.task}, trial {row.trial}: {error}")
                return
            if not same:
                tell(f"{row.task}, trial {row.trial}, went otherwise when played again.")


def _make_drawn_env(task: str, plan: EvaluationPlan, assets: AssetSet) -> LiberoEnv:
    return LiberoEnv(
        task=task,
        settle_steps=plan.protocol.settle_steps,
        assets=assets.path if assets.name == "folder" else assets.name,
        render_mode="rgb_array",
    )
