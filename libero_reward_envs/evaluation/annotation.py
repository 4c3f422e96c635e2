"""A reward model's rewards of recorded episodes, in a file beside them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data.episodes import Episode, EpisodeDataset, EpisodeSummary
from libero_reward_envs.reward_models.base import (
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    RewardModel,
)
from libero_reward_envs.wrappers.episode_rewards import compute_episode_rewards
from libero_reward_envs.wrappers.reward_mix import RewardMix

_DIGEST_BYTES = 16
_KEYS = "observation_keys"
_NOT_STORED = (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)  # follow from the rewards
_SAVE_EVERY = 50  # episodes: as many are computed again after a kill


class Annotations(NamedTuple):
    """Rewards of the first n episodes of a dataset.

    Attributes:
        rewards: Of each episode, shape (T,), float32.
        digests: Of the actions, own rewards and read observations of each, shape (n, 16), uint8.
        made_by: Class and SHA-256 of the reward model, its `observation_keys`, and the settings of
            the `RewardMix`.
    """

    rewards: list[np.ndarray]
    digests: np.ndarray
    made_by: dict[str, Any]


def annotate_episodes(
    dataset: EpisodeDataset,
    model: RewardModel,
    path: str | Path,
    *,
    reward_mix: RewardMix | None = None,
    on_episode: Callable[[int], object] | None = None,
) -> Annotations:
    """Compute the rewards of every episode and write them into one file; the data stays as it is.

    The file is whole at any time and holds the first episodes; the same call goes on after a stop,
    if the model tells its arguments and weights: others cannot be told from each other.

    Args:
        dataset: The episodes, with the observations that the model reads.
        model: The reward model.
        path: The file, such as `episodes.rewards.safetensors`.
        reward_mix: How the model's rewards join the env's own; by default they replace them.
        on_episode: Called after each episode with the number that are done.

    Raises:
        ValueError: If the file is of another model, rule or data, or an observation is missing.
    """
    path = Path(path)
    mix = reward_mix or RewardMix()
    keys = [key for key in model.observation_keys if key not in _NOT_STORED]
    made_by = {**_describe_model(model), _KEYS: keys, "reward_mix": mix.settings}
    rewards: list[np.ndarray] = []
    digests: list[np.ndarray] = []
    if path.exists():
        before = read_annotations(path)
        if made_by["sha256"] is None:
            raise ValueError(
                f"{str(path)!r} is there, and {made_by['model']} has no `arguments` and "
                "`get_weights` to tell whether its rewards are those. Choose another file, or "
                "remove this one."
            )
        if before.made_by != made_by:
            raise ValueError(
                f"{str(path)!r} holds rewards of another model or rule: {before.made_by}, not "
                f"{made_by}. Choose another file, or remove this one."
            )
        rewards, digests = list(before.rewards), list(before.digests)
        if len(rewards) > len(dataset):
            raise ValueError(
                f"{str(path)!r} holds rewards of {len(rewards)} episodes, the data has "
                f"{len(dataset)}."
            )
    for index in range(len(dataset)):
        episode = dataset.read(index, model.observation_keys)
        digest = _compute_digest(episode, made_by[_KEYS])
        if index < len(digests):
            _check_digest(digest, digests[index], index, path)
            continue
        rewards.append(compute_episode_rewards(mix, model, episode.transitions(), episode.rewards))
        digests.append(digest)
        if len(rewards) % _SAVE_EVERY == 0:
            _write(path, rewards, digests, made_by)
        if on_episode is not None:
            on_episode(len(rewards))
    _write(path, rewards, digests, made_by)
    return Annotations(rewards, _stack(digests), made_by)


def read_annotations(path: str | Path) -> Annotations:
    """Read what `annotate_episodes` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No rewards at {str(path)!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            values = json.loads((file.metadata() or {})["made_by"])
            lengths, flat, digests = (
                np.array(file.get_tensor(name)) for name in ("lengths", "rewards", "digests")
            )
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"Cannot read {str(path)!r} as rewards of episodes: {error}.") from error
    kinds = [(array.dtype, array.ndim) for array in (lengths, flat, digests)]
    fits = kinds == [(np.int64, 1), (np.float32, 1), (np.uint8, 2)] and bool((lengths > 0).all())
    if not fits or digests.shape != (len(lengths), _DIGEST_BYTES) or lengths.sum() != len(flat):
        raise ValueError(f"The arrays in {str(path)!r} do not fit each other.")
    keys = values.get(_KEYS) if isinstance(values, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{str(path)!r} does not say which observations the model read.")
    rewards = np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return Annotations(rewards, digests, values)


def apply_annotations(dataset: EpisodeDataset, path: str | Path) -> EpisodeDataset:
    """Return a view of the episodes whose rewards are those of a file of `annotate_episodes`.

    Each episode is compared with what it was then when it is read, for which the observations that
    the model read are read too. Its own rewards are gone in this view alone; its success stays the
    env's.

    Args:
        dataset: The episodes that were annotated, all of them.
        path: The file.

    Raises:
        ValueError: If the file is not one, or of fewer or more episodes; when an episode is read
            that is another one.
    """
    annotations = read_annotations(path)
    if len(annotations.rewards) != len(dataset):
        raise ValueError(
            f"{str(path)!r} holds rewards of {len(annotations.rewards)} episodes, the data has "
            f"{len(dataset)}. Annotate it again."
        )
    return EpisodeDataset(_AnnotatedSource(dataset, annotations, Path(path)))


class _AnnotatedSource:
    def __init__(self, dataset: EpisodeDataset, annotations: Annotations, path: Path) -> None:
        self._dataset, self._annotations, self._path = dataset, annotations, path

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def skipped(self) -> list[str]:
        return self._dataset.skipped

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        checked = self._annotations.made_by[_KEYS]
        wanted = (
            None if observation_keys is None else [*dict.fromkeys([*observation_keys, *checked])]
        )
        episode = self._dataset.read(index, wanted)
        digest = self._annotations.digests[index]
        _check_digest(_compute_digest(episode, checked), digest, index, self._path)
        if observation_keys is not None:
            episode = episode.select(observation_keys)
        return replace(episode, rewards=self._annotations.rewards[index])

    def summaries(self) -> list[EpisodeSummary]:
        pairs = zip(self._dataset.summaries(), self._annotations.rewards, strict=True)
        return [
            replace(summary, episode_return=float(rewards.sum(dtype=np.float64)))
            for summary, rewards in pairs
        ]


def _write(
    path: Path,
    rewards: Sequence[np.ndarray],
    digests: Sequence[np.ndarray],
    made_by: dict[str, Any],
) -> None:
    arrays = {
        "lengths": np.array([len(part) for part in rewards], np.int64),
        "rewards": np.concatenate([np.empty(0, np.float32), *rewards]),
        "digests": _stack(digests),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [save(arrays, {"made_by": json.dumps(made_by)})])


def _stack(digests: Sequence[np.ndarray]) -> np.ndarray:
    return np.array(digests, np.uint8).reshape(len(digests), _DIGEST_BYTES)


def _compute_digest(episode: Episode, observation_keys: Sequence[str]) -> np.ndarray:
    digest = hashlib.sha256()
    for array in (episode.actions, episode.rewards):
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    missing = [key for key in observation_keys if key not in episode.observations]
    if missing:
        raise ValueError(
            f"Expected observations {missing}, got: {', '.join(episode.observations)}."
        )
    for key in observation_keys:
        array = episode.observations[key]
        digest.update(f"{key} {array.dtype.newbyteorder('<')} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return np.frombuffer(digest.digest()[:_DIGEST_BYTES], np.uint8)


def _check_digest(found: np.ndarray, expected: np.ndarray, index: int, path: Path) -> None:
    if not np.array_equal(found, expected):
        raise ValueError(
            f"Episode {index} has other actions, rewards or observations than when {str(path)!r} "
            "was made. Annotate the data again, into another file."
        )


def _describe_model(model: RewardModel) -> dict[str, Any]:
    """Return class and, where the model tells its weights, a hash of them and its arguments."""
    arguments, get_weights = getattr(model, "arguments", None), getattr(model, "get_weights", None)
    if arguments is None or get_weights is None:
        return {"model": type(model).__name__, "sha256": None}
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for name, weights in sorted(get_weights().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    return {"model": type(model).__name__, "sha256": digest.hexdigest()}
