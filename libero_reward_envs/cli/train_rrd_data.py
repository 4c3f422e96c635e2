"""The episodes of `libero-reward train-rrd`: chosen by suite, and checked before it trains."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.formats import load_episodes
from libero_reward_envs.envs.tasks import SUITES, task_names

_NO_SUITE = "no suite"


def read_dataset(path: Path, env: str | None) -> EpisodeDataset:
    """Return the episodes of a suite, or all.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it cannot be read, the suite is not known, or no episode is of it.
    """
    dataset = load_episodes(path)
    if not len(dataset):
        raise ValueError(f"{str(path)!r} holds no episodes.")
    return dataset if env is None else select_suite(dataset, env, str(path))


def select_suite(dataset: EpisodeDataset, env: str, source: str) -> EpisodeDataset:
    """Return a view of the episodes of a suite, and of those that name no task.

    Args:
        dataset: The episodes.
        env: The suite in any spelling, "LIBERO-10" or "libero_10"; "libero_100" is two suites.
        source: Where the episodes come from, for messages.

    Raises:
        ValueError: If there is no such suite, or no episode of it.
    """
    suite = env.lower().replace("-", "_")
    wanted = ("libero_10", "libero_90") if suite == "libero_100" else (suite,)
    found = [_suite_of(summary.task, wanted) for summary in dataset.summaries()]
    held = ", ".join(f"{name} ({n} episodes)" for name, n in sorted(Counter(found).items()))
    if not set(wanted) <= set(SUITES):
        raise ValueError(
            f"Unknown suite {env!r} for --env. Choose one of: {', '.join(SUITES)}. "
            f"{source!r} has: {held}."
        )
    flags = iter([name in (*wanted, _NO_SUITE) for name in found])
    kept = dataset.filter(lambda _: next(flags))  # which asks once for each episode, in order
    if not len(kept):
        raise ValueError(
            f"Expected episodes of {' or '.join(wanted)} (--env {env}) in {source!r}, which has: "
            f"{held}. Leave --env out to take them all."
        )
    n_unnamed = found.count(_NO_SUITE)
    if n_unnamed:
        warnings.warn(
            f"{n_unnamed} of {len(found)} episodes in {source!r} name no task. They are kept, "
            f"whether they are of {env} or not.",
            stacklevel=3,
        )
    return kept


def check_test_episodes(
    train: EpisodeDataset, test: EpisodeDataset, observation_keys: Sequence[str], source: str
) -> None:
    """Read the episodes to judge on once, so that what is wrong shows before the training.

    Warns of tasks that none of the fitted episodes has.

    Raises:
        ValueError: If they cannot be read, or are of other sizes than the first to fit.
    """
    expected = _sizes(train, 0, observation_keys)
    for index in range(len(test)):
        found = _sizes(test, index, observation_keys)
        if found != expected:
            raise ValueError(
                f"Expected test episodes of observations {expected[0]} and {expected[1]} actions, "
                f"as those to fit, got {found[0]} and {found[1]} in episode {index} of {source!r}."
            )
    other = {s.task for s in test.summaries()} - {s.task for s in train.summaries()}
    if other:
        warnings.warn(
            f"{source!r} has episodes of {', '.join(sorted(other)) or 'no task'}, which the reward "
            "is not fitted to. Its quality there says how far it carries to other tasks.",
            stacklevel=2,
        )


def check_image_size(dataset: EpisodeDataset, observation_keys: Sequence[str], size: int) -> None:
    """Compare the images that are read with the size that was named.

    Raises:
        ValueError: If one differs.
    """
    shapes, _ = _sizes(dataset, 0, observation_keys)
    images = {key: shape for key, shape in shapes.items() if len(shape) == 3}
    if not images:
        print("No images are read (--observation-keys), so --libero-image-size changes nothing.")
    for key, shape in images.items():
        if shape[:2] != (size, size):
            raise ValueError(
                f"Expected images of {size} x {size} pixels, as --libero-image-size says, got "
                f"{shape[0]} x {shape[1]} in {key!r}. Name their size, or take other data."
            )


def _suite_of(task: str, wanted: Sequence[str]) -> str:
    if not task:
        return _NO_SUITE
    if "/" in task:
        return task.split("/", 1)[0]
    owners = [suite for suite in SUITES if task in task_names()[suite]]
    return next((suite for suite in owners if suite in wanted), owners[0] if owners else task)


def _sizes(
    dataset: EpisodeDataset, index: int, observation_keys: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], int]:
    episode = dataset.read(index, observation_keys)
    shapes = {key: value.shape[1:] for key, value in episode.observations.items()}
    return shapes, episode.actions.shape[1]
