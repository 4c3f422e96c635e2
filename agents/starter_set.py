"""A small balanced set of all tasks of a suite, so that every example runs without a download."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.agents.experts import expert_tasks
from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.formats import load_episodes

EPISODES_PER_TASK = 4


def collect_starter_set(
    suite: str,
    folder: str | os.PathLike[str],
    *,
    n_episodes: int = EPISODES_PER_TASK,
    on_task: Callable[[str], object] | None = None,
    **arguments: Any,
) -> EpisodeDataset:
    """Collect successes and failures, as many of each, of every task of a suite that has an expert.

    One file a task, `<folder>/<task>.hdf5`; the same call goes on where a stopped one was.

    Args:
        suite: The suite, such as "libero_object", whose ten tasks all have an expert.
        folder: Where the files go.
        n_episodes: Episodes of each task.
        on_task: Called with the name of each task before it is collected.
        arguments: Further arguments of `collect_episodes`, such as `seed` and `obs_type`.

    Returns:
        All episodes, in the order of the files' names.

    Raises:
        ValueError: If no task of the suite has an expert, or an argument is not valid.
    """
    tasks = [task for task in expert_tasks() if task.suite == suite]
    if not tasks:
        known = sorted({task.suite for task in expert_tasks()})
        raise ValueError(
            f"No task of {suite!r} has a scripted expert. Choose one of: {', '.join(known)}."
        )
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if on_task is not None:
            on_task(task.name)
        collect_episodes(task, n_episodes, path / f"{task.name}.hdf5", **arguments)
    return load_episodes(path)
