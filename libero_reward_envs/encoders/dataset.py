"""Recorded episodes with features instead of images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset, EpisodeSummary
from libero_reward_envs.encoders.base import (
    INSTRUCTION_KEY,
    Encoder,
    check_encoders,
    encode_rows,
    is_image,
    select_inputs,
)
from libero_reward_envs.encoders.cache import FeatureCache, open_feature_cache
from libero_reward_envs.encoders.frame_hashes import HASH_BYTES, hash_rows
from libero_reward_envs.encoders.orientation import check_orientation, read_orientation


def encode_dataset(
    dataset: EpisodeDataset,
    encoders: Sequence[Encoder],
    cache: str | Path | None = None,
    *,
    keep: Sequence[str] = (),
    batch_size: int = 32,
) -> EpisodeDataset:
    """Return a view of the episodes whose observations have features, and no images unless kept.

    Nothing is read or computed before an episode is read. Features are taken from the cache where
    they are there, which reads the images the first time, to tell them by their hashes; who reads
    an episode again gets its features without them.

    Args:
        dataset: The episodes, with all that the encoders read. Those in files must not change.
        encoders: What adds features; their keys must be new.
        cache: The folder of features, see `get_features_folder`; None to encode always. What is
            not there is encoded, and not added. What is there was rounded to the type it is kept
            in, by at most one part in 2048 (float16) or 256 (bfloat16).
        keep: Images to keep.
        batch_size: How many frames an encoder is given at once.

    Raises:
        ValueError: If there is no encoder, or two have one key; when an episode is read, if it
            lacks what one reads, or its images are turned otherwise than an encoder's.
    """
    check_encoders(encoders, {key for encoder in encoders for key in encoder.observation_keys})
    return EpisodeDataset(_EncodedSource(dataset, encoders, cache, keep, batch_size))


@dataclass
class _Known:
    """What is kept of an episode that was read, so that its images need not be read again."""

    summary: EpisodeSummary
    actions: np.ndarray
    rewards: np.ndarray
    other_keys: tuple[str, ...] | None = None  # all but images and features, once all were read
    hashes: dict[str, bytes] = field(default_factory=dict)  # by encoder, joined


class _EncodedSource:
    def __init__(
        self,
        dataset: EpisodeDataset,
        encoders: Sequence[Encoder],
        root: str | Path | None,
        keep: Sequence[str],
        batch_size: int,
    ) -> None:
        self._dataset, self._keep, self._batch_size = dataset, tuple(keep), batch_size
        self._encoders = {encoder.key: encoder for encoder in encoders}
        self._root = root
        self._caches: dict[str, FeatureCache] = {}
        self._known: dict[int, _Known] = {}
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def skipped(self) -> list[str]:
        return self._dataset.skipped

    def summaries(self) -> list[EpisodeSummary]:
        return self._dataset.summaries()

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read an episode with all features and other observations, or only those named."""
        index %= len(self._dataset)
        keys = observation_keys
        wanted = [key for key in self._encoders if keys is None or key in keys]
        others = None if keys is None else [key for key in keys if key not in self._encoders]
        episode = self._read_known(index, wanted, others)
        if episode is None:
            episode = self._read_new(index, wanted, others)
        return episode if keys is None else episode.select(keys)

    def _read_known(
        self, index: int, wanted: Sequence[str], others: Sequence[str] | None
    ) -> Episode | None:
        """Return an episode without reading images for their hashes, None if that cannot be."""
        known = self._known.get(index)
        if known is None or not set(wanted) <= known.hashes.keys():
            return None
        others = known.other_keys if others is None else others
        if others is None:
            return None
        features = {}
        for key in wanted:
            features[key], is_there = self._caches[key].read(_split(known.hashes[key]))
            if not is_there.all():
                return None
        if others:
            episode = self._dataset.read(index, others)
            return replace(episode, observations={**self._drop_images(episode), **features})
        return known.summary.make_episode(features, known.actions, known.rewards)

    def _read_new(self, index: int, wanted: Sequence[str], others: Sequence[str] | None) -> Episode:
        encoders = [self._encoders[key] for key in wanted]
        needed = [key for encoder in encoders for key in encoder.observation_keys]
        named = {*needed, *(others or ())} - {INSTRUCTION_KEY}
        episode = self._dataset.read(index, None if others is None else sorted(named))
        if encoders:
            check_encoders(encoders, list(episode.observations))
            check_orientation(encoders, read_orientation(episode.metadata), f"episode {index}")
        known = self._known.setdefault(
            index, _Known(episode.summary(), episode.actions, episode.rewards)
        )
        features = {encoder.key: self._encode(encoder, episode, known) for encoder in encoders}
        kept = self._drop_images(episode)
        if others is None:
            known.other_keys = tuple(kept)
        return replace(episode, observations={**kept, **features})

    def _encode(self, encoder: Encoder, episode: Episode, known: _Known) -> np.ndarray:
        n = len(episode) + 1
        inputs = select_inputs(encoder, episode.observations, [episode.instruction] * n)
        if self._root is None:
            return encode_rows(encoder, inputs, self._batch_size)
        if encoder.key not in self._caches:
            self._caches[encoder.key] = open_feature_cache(self._root, encoder)
        hashes = hash_rows(inputs, encoder.observation_keys)
        features, is_there = self._caches[encoder.key].read(hashes)
        if is_there.all():
            known.hashes[encoder.key] = b"".join(hashes)
            return features
        self._warn_once(encoder.key)
        rows = np.flatnonzero(~is_there)
        missing = {key: value[rows] for key, value in inputs.items()}
        features[rows] = encode_rows(encoder, missing, self._batch_size)
        return features

    def _drop_images(self, episode: Episode) -> dict[str, np.ndarray]:
        return {
            key: value
            for key, value in episode.observations.items()
            if key in self._keep or not is_image(value.shape[1:], value.dtype)
        }

    def _warn_once(self, key: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"Not all frames have features {key!r} in {str(self._root)!r}; these are encoded "
                "whenever they are read. `libero-reward extract-features` encodes them once.",
                stacklevel=2,
            )


def _split(joined: bytes) -> list[bytes]:
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]
