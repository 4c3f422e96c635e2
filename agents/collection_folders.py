"""Collects successes and failures of scripted policies into the two folders of a classifier."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from libero_reward_envs.agents.attempts import Attempts, is_success_wanted
from libero_reward_envs.agents.collection import as_json, check_arguments, start_env
from libero_reward_envs.agents.experts import make_expert
from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.data.frame_sources import find_sources
from libero_reward_envs.data.trajectory_store import CollectionCounts, OpenEpisode, TrajectoryStore
from libero_reward_envs.envs.tasks import Task

_SUFFIX = "_image"  # of an image key, after the camera's name
_KEPT = ("init_state_id", "assets")  # of an episode's metadata


def collect_trajectories(
    task: Task | str,
    n_episodes: int,
    positive_dir: str | os.PathLike[str],
    negative_dir: str | os.PathLike[str],
    image_keys: Sequence[str],
    *,
    success_fraction: float = 0.5,
    seed: int = 0,
    assets: str | os.PathLike[str] = "auto",
    failures: Sequence[str] | None = None,
    steps_after_success: int = 10,
    expert_noise: float = 0.0,
    max_positive_trajectories: int | None = None,
    max_negative_trajectories: int | None = None,
    storage: str = "auto",
    progress: bool = True,
    **env_arguments: Any,
) -> CollectionCounts:
    """Add `n_episodes` labelled trajectories to two folders, as `RewardDataCollector` writes them.

    Episodes are made as by `collect_episodes`. What lies in the folders stays as it is. Episodes
    depend on `seed` and on how many trajectories lie there, so that a second run, or one that goes
    on where another was stopped, adds new ones and no twins, which would end up on both sides of a
    split. Two runs at the same time need two seeds.

    Args:
        task: A task that has an expert, or its `suite/name`.
        n_episodes: Trajectories to add, less those that the limits leave out.
        positive_dir: Folder of successes.
        negative_dir: Folder of failures.
        image_keys: What to save, such as "agentview_image"; only these cameras are drawn.
        success_fraction: See `collect_episodes`, also for the following three.
        seed: See above and there.
        assets: See there.
        failures: See there.
        steps_after_success: Frames of success after the first one, see `collect_episodes`.
        expert_noise: See there.
        max_positive_trajectories: How many successes this run saves at most; None for all.
        max_negative_trajectories: How many failures.
        storage: "npy", "hdf5" or "auto", see `TrajectoryStore`.
        progress: Whether to show a bar.
        **env_arguments: See `collect_episodes`.

    Returns:
        What was saved.

    Raises:
        ValueError: For a bad argument.
        RuntimeError: If `MAX_ATTEMPTS` attempts did not give the wanted outcome.
        OSError: If a trajectory cannot be written. Those before it stay.
    """
    expert = make_expert(task)
    kinds = check_arguments(
        expert, n_episodes, success_fraction, "pixels_state", failures, steps_after_success,
        expert_noise,
    )  # fmt: skip
    n_present = sum(_count(Path(folder), image_keys) for folder in (positive_dir, negative_dir))
    settings = {
        "seed": [seed, n_present] if n_present else seed,
        "failures": list(kinds),
        "steps_after_success": steps_after_success,
        "expert_noise": float(expert_noise),
        **{name: as_json(value) for name, value in sorted(env_arguments.items())},
    }
    store = TrajectoryStore(
        Path(positive_dir),
        Path(negative_dir),
        image_keys,
        max_positive_trajectories=max_positive_trajectories,
        max_negative_trajectories=max_negative_trajectories,
        storage=storage,
        metadata={
            "collection": settings,
            "orientation": env_arguments.get("orientation", "upright"),
        },
    )
    env_arguments["cameras"] = find_cameras(store.image_keys)
    env_arguments["terminate_on_success"] = not steps_after_success
    env = start_env(expert.task, None, "pixels_state", assets, env_arguments)
    try:
        attempts = Attempts(env, expert, kinds, settings)
        outcomes = [is_success_wanted(index, success_fraction) for index in range(n_episodes)]
        _fill(store, attempts, outcomes, (max_negative_trajectories, max_positive_trajectories),
              progress=progress)  # fmt: skip
    finally:
        try:
            store.close()
        finally:
            env.close()
    return store.counts


def _fill(
    store: TrajectoryStore,
    attempts: Attempts,
    outcomes: Sequence[bool],
    limits: tuple[int | None, int | None],
    *,
    progress: bool,
) -> None:
    saved = [0, 0]
    with tqdm(desc="collect", unit="trajectory", total=len(outcomes), disable=not progress) as bar:
        for index, outcome in enumerate(outcomes):
            limit = limits[outcome]
            if limit is None or saved[outcome] < limit:
                n_failures = outcomes[:index].count(False)
                _save(store, attempts.collect(index, outcome, n_failures))
                saved[outcome] += 1
            bar.update()
            bar.set_postfix(thrown_away=attempts.n_thrown)


def _save(store: TrajectoryStore, episode: Episode) -> None:
    images = {key: episode.observations[key] for key in store.image_keys}
    trajectory = OpenEpisode(
        frames={key: list(frames) for key, frames in images.items()},
        labels=episode.rewards.tolist(),
        actions=list(episode.actions),
        rewards=episode.rewards.tolist(),
    )
    info: Mapping[str, Any] = {
        "task": episode.task,
        "instruction": episode.instruction,
        **{name: episode.metadata[name] for name in _KEPT if name in episode.metadata},
    }
    store.save(trajectory, terminated=episode.terminated, info=info)


def _count(folder: Path, image_keys: Sequence[str]) -> int:
    if not folder.exists():
        return 0
    found, skipped = find_sources(folder, image_keys)
    return len(found) + len(skipped)


def find_cameras(image_keys: Sequence[str]) -> list[str]:
    """Return the cameras of images, or raise ValueError if a key is no camera's."""
    wrong = [key for key in image_keys if not key.endswith(_SUFFIX)]
    if wrong:
        raise ValueError(
            f"Expected image keys such as 'agentview_image' or 'robot0_eye_in_hand_image', a "
            f"camera's name and {_SUFFIX!r}, got {wrong[0]!r}."
        )
    return [key.removesuffix(_SUFFIX) for key in image_keys]
