"""Collects successes and failures of scripted policies into a file."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from libero_reward_envs.agents.attempts import Attempts, is_success_wanted
from libero_reward_envs.agents.experts import ScriptedExpert, make_expert
from libero_reward_envs.agents.failures import failure_kinds
from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import EpisodeDataset, EpisodeSummary
from libero_reward_envs.data.formats import load_episodes
from libero_reward_envs.data.hdf5 import pending_files
from libero_reward_envs.envs.tasks import Task

logger = logging.getLogger(__name__)

# What the settings of files are that were made before these settings were known.
_FORMER = {"steps_after_success": 0, "expert_noise": 0.0}


def collect_episodes(
    task: Task | str,
    n_episodes: int,
    out: str | os.PathLike[str],
    *,
    success_fraction: float = 0.5,
    seed: int = 0,
    obs_type: str = "state",
    assets: str | os.PathLike[str] = "auto",
    failures: Sequence[str] | None = None,
    steps_after_success: int = 0,
    expert_noise: float = 0.0,
    progress: bool = True,
    **env_arguments: Any,
) -> EpisodeDataset:
    """Collect episodes until the file holds `n_episodes` of them, and return them.

    Successes are the expert's, failures those of `make_failing`. Only the environment decides which
    is which: an attempt with another outcome than the wanted one is thrown away and made anew. The
    outcomes are interleaved, so that any first part of the file has about the wanted share.

    Episode i depends on `seed` and i alone. So a run that was stopped, or killed, is continued by
    the same call, a longer one too, with the episodes that an uninterrupted run would have made.

    A success ends at once, or `steps_after_success` later: then the policy acts on, the expert
    standing still once its script is over, and the rewards, 0 or 1, say at each step whether the
    task is solved then. An episode that was solved once is a success.

    Args:
        task: A task that has an expert, or its `suite/name`.
        n_episodes: Episodes that the file is to hold.
        out: The HDF5 file, made or continued.
        success_fraction: Share of successes, in [0, 1].
        seed: Decides every episode.
        obs_type: "state" or "pixels_state". The experts need the state.
        assets: The object models, as `LiberoEnv` takes them.
        failures: Kinds of failure that take turns; None for all that the task has.
        steps_after_success: Steps after the first one with success, unless the time is over.
        expert_noise: Standard deviation of the noise on the expert's movements, of size 1. Without
            it, an initial state always leads to the same success.
        progress: Whether to show a bar.
        **env_arguments: Further arguments of `LiberoEnv`, e.g. `image_size`, or of `gym.make`,
            e.g. `max_episode_steps`.

    Returns:
        All episodes of the file.

    Raises:
        ValueError: For a bad argument, or if the file holds episodes of another task or settings.
        RuntimeError: If `MAX_ATTEMPTS` attempts did not give the wanted outcome, or another process
            writes the file.
        OSError: If an episode cannot be written. Those before it stay readable.
    """
    expert = make_expert(task)
    kinds = check_arguments(
        expert, n_episodes, success_fraction, obs_type, failures, steps_after_success, expert_noise
    )
    settings = {
        "seed": seed,
        "success_fraction": float(success_fraction),
        "failures": list(kinds),
        "obs_type": obs_type,
        "steps_after_success": steps_after_success,
        "expert_noise": float(expert_noise),
        **{name: as_json(value) for name, value in sorted(env_arguments.items())},
    }
    if steps_after_success:
        env_arguments["terminate_on_success"] = False
    path = Path(out)
    with _open_writer(path) as writer:
        n_done = _check_continues(path, expert.task, settings)
        if n_done < n_episodes:
            env = start_env(expert.task, path, obs_type, assets, env_arguments)
            try:
                attempts = Attempts(env, expert, kinds, settings)
                outcomes = [is_success_wanted(i, success_fraction) for i in range(n_episodes)]
                _fill(writer, attempts, n_done, outcomes, progress=progress)
            finally:
                env.close()
    return load_episodes(path)


def _fill(
    writer: EpisodeWriter, attempts: Attempts, n_done: int, outcomes: list[bool], *, progress: bool
) -> None:
    """Write the episodes from `n_done` on, with a bar."""
    with tqdm(
        desc="collect", unit="episode", initial=n_done, total=len(outcomes), disable=not progress
    ) as bar:
        for index in range(n_done, len(outcomes)):
            n_failures = outcomes[:index].count(False)
            writer.append(attempts.collect(index, outcomes[index], n_failures))
            bar.update()
            bar.set_postfix(thrown_away=attempts.n_thrown)


def check_arguments(
    expert: ScriptedExpert,
    n_episodes: int,
    success_fraction: float,
    obs_type: str,
    failures: Sequence[str] | None,
    steps_after_success: int,
    expert_noise: float,
) -> tuple[str, ...]:
    """Return the kinds of failure to use, or raise ValueError, for `collect_episodes`."""
    if steps_after_success < 0:
        raise ValueError(f"`steps_after_success` must be at least 0, got {steps_after_success}.")
    if not 0 <= expert_noise < float("inf"):
        raise ValueError(f"`expert_noise` must be at least 0, got {expert_noise}.")
    if n_episodes < 1:
        raise ValueError(f"`n_episodes` must be at least 1, got {n_episodes}.")
    if not 0.0 <= success_fraction <= 1.0:
        raise ValueError(f"`success_fraction` must be in [0, 1], got {success_fraction}.")
    if obs_type not in ("state", "pixels_state"):
        raise ValueError(
            "`obs_type` must be 'state' or 'pixels_state', because the experts read the state, "
            f"got {obs_type!r}."
        )
    known = failure_kinds(expert)
    kinds = known if failures is None else tuple(failures)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or (not kinds and success_fraction < 1.0):
        raise ValueError(
            f"`failures` must be one or more of {', '.join(known)} for {expert.task.id}, "
            f"got {list(kinds)}."
        )
    return kinds


def start_env(
    task: Task,
    path: Path | None,
    obs_type: str,
    assets: str | os.PathLike[str],
    env_arguments: Mapping[str, Any],
) -> gym.Env[Any, np.ndarray]:
    """Return the running environment, on the assets that the file's episodes were made with."""
    env = gym.make(
        "Libero-v0", suite=task.suite, task=task.name, obs_type=obs_type, assets=assets,
        **env_arguments,
    )  # fmt: skip
    try:
        _, info = env.reset(seed=0)
        if path is not None:
            for summary in _summaries(path)[:1]:
                _check_same(path, "assets", summary.metadata.get("assets"), info["assets"])
    except BaseException:
        env.close()
        raise
    return env


def _check_continues(path: Path, task: Task, settings: Mapping[str, Any]) -> int:
    """The number of episodes in the file, which are of this task and these settings."""
    summaries = _summaries(path)
    for index, summary in enumerate(summaries):
        _check_same(path, "task", summary.task, task.id)
        made = summary.metadata.get("collection")
        if not isinstance(made, Mapping) or summary.metadata.get("episode") != index:
            raise ValueError(
                f"Expected a new file, or one that `collect_episodes` began, at {str(path)!r}, "
                f"but its episode {index} is from elsewhere. Choose another file."
            )
        for name in sorted(made.keys() | settings.keys()):
            _check_same(path, name, made.get(name, _FORMER.get(name)), settings.get(name))
    return len(summaries)


def _check_same(path: Path, name: str, there: Any, asked: Any) -> None:
    if there != asked:
        raise ValueError(
            f"Expected `{name}` to be {there!r} as in the episodes that {str(path)!r} already "
            f"holds, got {asked!r}. Choose another file, or remove this one."
        )


def _summaries(path: Path) -> list[EpisodeSummary]:
    if not path.exists() and not pending_files(path):
        return []
    return load_episodes(path).summaries()


@contextlib.contextmanager
def _open_writer(path: Path) -> Iterator[EpisodeWriter]:
    """A writer that is closed at the end, and whose first error is the one that is seen."""
    writer = EpisodeWriter(path)
    try:
        yield writer
    except BaseException:
        # What stopped the work, such as a full disk, may stop the merging too. Nothing is lost by
        # that: the episodes are read, and merged later, from where they wait.
        with contextlib.suppress(OSError):
            writer.close()
        raise
    writer.close()


def as_json(value: Any) -> Any:
    """Return an argument as JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value
