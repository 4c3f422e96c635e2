"""Recorded episodes played again in the simulator, with other pictures and without idle steps."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.regeneration_report import (
    SOURCE_INDEX_KEY,
    Replayed,
    append_to_report,
    check_alike,
    check_report,
    check_same,
    find_written,
    read_report,
)
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.formats import FormatWriter
from libero_reward_envs.data.inspection import NO_OP_NORM
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance, read_provenance
from libero_reward_envs.envs.libero_env import CONTROL_FREQ_HZ
from libero_reward_envs.envs.recorded_reset import reset_as_recorded

# What a recording says of its env beside the provenance, see `RecordEpisodes`.
_TOLD_OF_ENV = ("obs_type", "orientation", "image_size", "init_states", "settle_steps")
MakeEnv = Callable[[str, str], gym.Env[Any, np.ndarray]]


def find_moving_steps(actions: np.ndarray) -> np.ndarray:
    """Return which actions are not idle, shape (T,), bool.

    The rule of OpenVLA's authors: an action is idle if its first six numbers are shorter than 1e-4
    and the gripper does what the last kept action had it do; of the first, the length decides.

    Args:
        actions: Shape (T, 7).
    """
    moves = np.linalg.norm(actions[:, :6], axis=1) >= NO_OP_NORM
    kept = np.zeros(len(actions), bool)
    gripper: float | None = None
    for step, action in enumerate(actions):
        changes = gripper is not None and action[-1] != gripper
        if moves[step] or changes:
            kept[step] = True
            gripper = float(action[-1])
    return kept


def replay_actions(
    episode: Episode, env: gym.Env[Any, np.ndarray], *, drop_no_ops: bool = True
) -> Episode:
    """Play an episode's actions again from its initial state, and return what is seen now.

    Its reward is 1 at the last step if the task is solved then, and 0 elsewhere, as in LIBERO's
    demonstrations.

    Args:
        episode: Its metadata tells how it began, see `reset_as_recorded`.
        env: The env of its task, with `terminate_on_success=False` and no limit on steps.
        drop_no_ops: Whether idle steps are left out, see `find_moving_steps`.

    Raises:
        ValueError: If the episode does not say how it began, or no step is left, or its actions
            are not LIBERO's.
    """
    _check_playable(episode.metadata, "The episode")
    kept = find_moving_steps(episode.actions) if drop_no_ops else np.ones(len(episode), bool)
    if not kept.any():
        raise ValueError("Every step is idle: nothing is left to play.")
    actions = episode.actions[kept]
    observation, info = reset_as_recorded(env, episode.metadata)
    observations = [_as_mapping(observation)]
    for action in actions:
        observation, _, _, _, info = env.step(action)
        observations.append(_as_mapping(observation))
    success = bool(info["is_success"])
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = success
    return Episode(
        {key: np.stack([part[key] for part in observations]) for key in observations[0]},
        actions,
        rewards,
        terminated=success,
        success=success,
        task=str(info["task"]),
        instruction=str(info["instruction"]),
        metadata={
            **episode.metadata,
            **{name: getattr(env.unwrapped, name) for name in _TOLD_OF_ENV},
            "assets": info["assets"],
            PROVENANCE_KEY: _describe(env, drop_no_ops, episode.metadata).as_json(),
        },
    )


def regenerate_episodes(
    dataset: EpisodeDataset,
    writer: FormatWriter,
    make_env: MakeEnv,
    *,
    path: str | Path,
    report_path: str | Path,
    drop_no_ops: bool = True,
    keep_failures: bool = False,
    on_episode: Callable[[Replayed], object] | None = None,
) -> list[Replayed]:
    """Play all episodes again and write those that succeed, as the modified RLDS sets were made.

    The report gains a line an episode as it is played; the same call goes on after a stop, and
    plays again what could not be played before, so that those episodes may stand last.

    Args:
        dataset: The episodes, see `replay_actions`.
        writer: Where to; of a format that keeps metadata, such as an HDF5 writer.
        make_env: Returns the env of a task, `suite/name`, with its initial states from
            "benchmark" or "sampled"; one at a time is kept. What it raises ends the call.
        path: What the writer writes, to see which episodes are there.
        report_path: A file of JSON lines, one `Replayed` each.
        drop_no_ops: Whether idle steps are left out.
        keep_failures: Whether episodes that fail now are written too.
        on_episode: Called with each result.

    Returns:
        What became of each episode, those of former calls included.

    Raises:
        ValueError: If the report or what is there is not of this dataset and these settings, or
            the actions of an episode are not LIBERO's.
    """
    report = Path(report_path)
    summaries = dataset.summaries()
    for index, summary in enumerate(summaries):
        _check_playable(summary.metadata, f"Episode {index}")
    there = find_written(path, len(writer))
    done = read_report(report)
    check_report(report, done, there, summaries)
    with _CurrentEnv(make_env) as current:
        for index in range(len(dataset)):
            if index in done and not done[index].error:
                continue
            episode = dataset.read(index)
            result, replayed = _replay(index, episode, current, drop_no_ops, keep_failures)
            if index in there:  # a kill lost only its line
                check_same(index, there[index], replayed)
            elif replayed is not None:
                check_alike(there, replayed)
                writer.append(replayed)
                there[index] = replayed.summary()
            append_to_report(report, result)
            done[index] = result
            if on_episode is not None:
                on_episode(result)
    return [done[index] for index in sorted(done)]


def _check_playable(metadata: Mapping[str, Any], name: str) -> None:
    provenance = read_provenance(metadata)
    if provenance is None:
        return
    if provenance.action_convention == "absolute":
        raise ValueError(f"{name} has absolute actions, and LIBERO's controller takes deltas.")
    if provenance.gripper_closed_at not in (None, 1):
        raise ValueError(
            f"{name} closes the gripper at {provenance.gripper_closed_at:g}, LIBERO at 1. Convert "
            "the episodes first: libero-reward convert ... --gripper-closed-at 1."
        )


def _replay(
    index: int,
    episode: Episode,
    current: "_CurrentEnv",
    drop_no_ops: bool,
    keep_failures: bool,
) -> tuple[Replayed, Episode | None]:
    env = current.get(episode)  # what this raises is of the settings, not of the episode
    try:
        replayed = replay_actions(episode, env, drop_no_ops=drop_no_ops)
    except ValueError as error:
        row = Replayed(index, len(episode), 0, episode.success, False, False, str(error))
        return row, None
    kept = replayed.success or keep_failures
    row = Replayed(index, len(episode), len(replayed), episode.success, replayed.success, kept)
    metadata = {**replayed.metadata, SOURCE_INDEX_KEY: index}
    return row, dataclasses.replace(replayed, metadata=metadata) if kept else None


class _CurrentEnv:
    """The env of the task that is being played; another task's closes it."""

    def __init__(self, make_env: MakeEnv) -> None:
        self._make_env = make_env
        self._made_for: tuple[str, str] | None = None
        self._env: gym.Env[Any, np.ndarray] | None = None

    def __enter__(self) -> "_CurrentEnv":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def get(self, episode: Episode) -> gym.Env[Any, np.ndarray]:
        wanted = (episode.task, str(episode.metadata.get("init_states", "benchmark")))
        if wanted != self._made_for or self._env is None:
            self._close()
            self._env, self._made_for = self._make_env(*wanted), wanted
        return self._env

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None


def _as_mapping(observation: Any) -> dict[str, np.ndarray]:
    found = observation if isinstance(observation, dict) else {"state": observation}
    return {key: np.array(value) for key, value in found.items()}


def _describe(
    env: gym.Env[Any, np.ndarray], drop_no_ops: bool, metadata: Mapping[str, Any]
) -> Provenance:
    inner: Any = env.unwrapped
    source = read_provenance(metadata)
    has_images = inner.obs_type != "state"
    return Provenance(
        "libero_reward_envs",
        image_size=(inner.image_size, inner.image_size) if has_images else None,
        orientation=inner.orientation if has_images else None,
        control_freq_hz=float(CONTROL_FREQ_HZ),
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        no_ops_filtered=drop_no_ops or (source is not None and source.no_ops_filtered is True),
        reward_source="last_step",
        success_source="env",
    )
