"""Collects successes and failures of scripted policies into a file."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from libero_reward_envs.agents.experts import ScriptedExpert, ScriptedPolicy, make_expert
from libero_reward_envs.agents.failures import failure_kinds, make_failing
from libero_reward_envs.data.episode_writer import EpisodeWriter
from libero_reward_envs.data.episodes import Episode, EpisodeDataset, EpisodeSummary
from libero_reward_envs.data.hdf5 import load_episodes, pending_files
from libero_reward_envs.envs.tasks import Task
from libero_reward_envs.wrappers.record_episodes import RecordEpisodes

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 20  # for one episode of the wanted outcome
EXPERT = "expert"  # the kind of an episode that the expert itself acts in


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
    progress: bool = True,
    **env_arguments: Any,
) -> EpisodeDataset:
    """Collect episodes until the file holds `n_episodes` of them, and return them.

    Successes are the expert's, failures those of `make_failing`. Only the environment decides which
    is which: an attempt with another outcome than the wanted one is thrown away and made anew. The
    outcomes are interleaved, so that any first part of the file has about the wanted share.

    Episode i depends on `seed` and i alone. So a run that was stopped, or killed, is continued by
    the same call, a longer one too, with the episodes that an uninterrupted run would have made.

    Args:
        task: A task that has an expert, or its `suite/name`.
        n_episodes: Episodes that the file is to hold.
        out: The HDF5 file, made or continued.
        success_fraction: Share of successes, in [0, 1].
        seed: Decides every episode.
        obs_type: "state" or "pixels_state". The experts need the state.
        assets: The object models, as `LiberoEnv` takes them.
        failures: Kinds of failure that take turns; None for all that the task has.
        progress: Whether to show a bar.
        **env_arguments: Further arguments of `LiberoEnv`, e.g. `image_size`.

    Returns:
        All episodes of the file.

    Raises:
        ValueError: For a bad argument, or if the file holds episodes of another task or settings.
        RuntimeError: If `MAX_ATTEMPTS` attempts did not give the wanted outcome, or another process
            writes the file.
        OSError: If an episode cannot be written. Those before it stay readable.
    """
    expert = make_expert(task)
    kinds = _check_arguments(expert, n_episodes, success_fraction, obs_type, failures)
    settings = {
        "seed": seed,
        "success_fraction": float(success_fraction),
        "failures": list(kinds),
        "obs_type": obs_type,
        **{name: _as_json(value) for name, value in sorted(env_arguments.items())},
    }
    path = Path(out)
    with _open_writer(path) as writer:
        n_done = _check_continues(path, expert.task, settings)
        if n_done < n_episodes:
            env = _start_env(expert.task, path, obs_type, assets, env_arguments)
            try:
                collector = _Collector(env, expert, kinds, settings)
                collector.fill(writer, n_done, n_episodes, progress=progress)
            finally:
                env.close()
    return load_episodes(path)


class _Collector:
    """Makes episode i of the wanted outcome, from the seed and i alone."""

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        expert: ScriptedExpert,
        kinds: Sequence[str],
        settings: Mapping[str, Any],
    ):
        self._episodes: list[Episode] = []
        self._env = RecordEpisodes(env, self._episodes.append)
        self._expert = expert
        self._kinds = kinds
        self._settings = settings
        self._n_thrown = 0

    def fill(self, writer: EpisodeWriter, n_done: int, n_episodes: int, *, progress: bool) -> None:
        """Write the episodes from `n_done` on, with a bar."""
        share = self._settings["success_fraction"]
        outcomes = [_is_success_wanted(index, share) for index in range(n_episodes)]
        with tqdm(
            desc="collect", unit="episode", initial=n_done, total=n_episodes, disable=not progress
        ) as bar:
            for index in range(n_done, n_episodes):
                n_failures = outcomes[:index].count(False)
                writer.append(self.collect(index, outcomes[index], n_failures))
                bar.update()
                bar.set_postfix(thrown_away=self._n_thrown)

    def collect(self, index: int, success: bool, n_failures: int) -> Episode:
        """Return episode `index`, before which there are `n_failures` failures."""
        for attempt in range(MAX_ATTEMPTS):
            entropy = np.random.SeedSequence(self._settings["seed"], spawn_key=(index, attempt))
            rng = np.random.default_rng(entropy)
            kind = EXPERT if success else self._kinds[(n_failures + attempt) % len(self._kinds)]
            episode = self._attempt(index, attempt, kind, rng)
            if episode.success == success:
                return episode
            self._n_thrown += 1
        wanted = "successes" if success else "failures"
        raise RuntimeError(
            f"Expected {wanted} on {self._expert.task.id}, got none in {MAX_ATTEMPTS} attempts at "
            f"episode {index}. Try other `assets` or `failures`."
        )

    def _attempt(self, index: int, attempt: int, kind: str, rng: np.random.Generator) -> Episode:
        policy: ScriptedPolicy = self._expert
        if kind != EXPERT:
            policy = make_failing(self._expert, kind, rng)
        self._env.episode_metadata = {
            "collection": dict(self._settings),
            "episode": index,
            "attempt": attempt,
            "policy": kind,
        }
        self._episodes.clear()
        observation, _ = self._env.reset(seed=int(rng.integers(2**31)))
        policy.reset()
        while not self._episodes:
            action, _ = policy.predict(observation)
            observation, *_ = self._env.step(action)
        return self._episodes[0]


def _check_arguments(
    expert: ScriptedExpert,
    n_episodes: int,
    success_fraction: float,
    obs_type: str,
    failures: Sequence[str] | None,
) -> tuple[str, ...]:
    """The kinds of failure to use, once the arguments are known to be right."""
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


def _is_success_wanted(index: int, success_fraction: float) -> bool:
    """Whether episode `index` is a success; of the first n, `success_fraction` n rounded are."""
    before, after = (
        # The small number takes back what is lost on decimal fractions such as 0.3.
        math.floor(n * success_fraction + 0.5 + 1e-9)
        for n in (index, index + 1)
    )
    return after > before


def _start_env(
    task: Task,
    path: Path,
    obs_type: str,
    assets: str | os.PathLike[str],
    env_arguments: Mapping[str, Any],
) -> gym.Env[Any, np.ndarray]:
    """The running environment, on the assets that the file's episodes were made with."""
    env = gym.make(
        "Libero-v0", suite=task.suite, task=task.name, obs_type=obs_type, assets=assets,
        **env_arguments,
    )  # fmt: skip
    try:
        _, info = env.reset(seed=0)
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
            _check_same(path, name, made.get(name), settings.get(name))
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


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
