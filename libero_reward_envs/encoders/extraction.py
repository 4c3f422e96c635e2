"""Computing the features of a dataset once: frames go to the encoders in full batches."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.encoders.base import (
    INSTRUCTION_KEY,
    Encoder,
    StagedEncoder,
    check_encoders,
    check_features,
    encode_rows,
    select_inputs,
)
from libero_reward_envs.encoders.cache import FeatureCache
from libero_reward_envs.encoders.frame_hashes import find_new_rows, hash_rows
from libero_reward_envs.encoders.orientation import check_orientation, read_orientation
from libero_reward_envs.encoders.prefetch import prefetch


class Extraction(NamedTuple):
    """What was done.

    Attributes:
        n_frames: Frames of the dataset.
        n_encoded: Rows that each encoder was given now, by key; the others were there or are alike.
        folders: Where the features of each are, by key.
        damaged: What was wrong with chunks of a former run, which were made anew.
        seconds: How long it took, from the first episode on.
    """

    n_frames: int
    n_encoded: dict[str, int]
    folders: dict[str, Path]
    damaged: list[str]
    seconds: float


def extract_features(
    dataset: EpisodeDataset,
    encoders: Sequence[Encoder],
    root: str | Path,
    *,
    dtype: str | None = None,
    batch_size: int = 32,
    n_threads: int = 4,
    on_frames: Callable[[int], object] | None = None,
) -> Extraction:
    """Compute the features of all frames that are not in the cache yet.

    Reading and what an encoder does on the CPU (`StagedEncoder.prepare`) go on in threads while the
    model runs. A run that was killed is gone on with; frames that are alike are encoded once.

    Args:
        dataset: The episodes.
        encoders: What computes features, each into a cache of its own.
        root: The folder of the caches, see `get_features_folder`.
        dtype: "float16" or "bfloat16", what features are kept in; None for the `stored_dtype` of
            encoders that have one, else float16.
        batch_size: How many frames an encoder is given at once.
        n_threads: Threads that prepare batches.
        on_frames: Called with the number of frames that are done.

    Raises:
        RuntimeError: If another writer has a cache open.
        ValueError: If an episode lacks what an encoder reads, its images are turned otherwise, or
            features do not fit into their type. What was computed before is safe.
    """
    check_encoders(encoders, {key for encoder in encoders for key in encoder.observation_keys})
    if batch_size < 1 or n_threads < 1:
        raise ValueError(
            f"`batch_size` and `n_threads` must be at least 1, got {batch_size} and {n_threads}."
        )
    n_frames, n_encoded = 0, {encoder.key: 0 for encoder in encoders}
    with ExitStack() as stack:
        lanes = [
            _Lane(
                encoder,
                stack.enter_context(
                    FeatureCache(root, encoder, dtype=dtype or _get_dtype(encoder), writing=True)
                ),
            )
            for encoder in encoders
        ]
        for lane in lanes:
            lane.cache.check()
        start = time.perf_counter()
        batches = prefetch(
            _make_batches(dataset, lanes, batch_size),
            _prepare,
            depth=2 * n_threads,
            n_threads=n_threads,
        )
        stack.callback(batches.close)  # pyright: ignore[reportAttributeAccessIssue]  # a generator
        for batch in batches:
            if batch.lane is not None:
                batch.lane.cache.add(batch.hashes, _encode(batch))
                n_encoded[batch.lane.encoder.key] += len(batch.hashes)
            n_frames = batch.n_frames
            if on_frames is not None:
                on_frames(n_frames)
    return Extraction(
        n_frames,
        n_encoded,
        {lane.encoder.key: lane.cache.folder for lane in lanes},
        [reason for lane in lanes for reason in lane.cache.skipped],
        time.perf_counter() - start,
    )


def _get_dtype(encoder: Encoder) -> str:
    return getattr(encoder, "stored_dtype", "float16")


@dataclass
class _Lane:
    """An encoder, its cache, and the frames that wait until they are a batch."""

    encoder: Encoder
    cache: FeatureCache
    seen: set[bytes] = field(default_factory=set)
    hashes: list[bytes] = field(default_factory=list)
    inputs: list[Mapping[str, np.ndarray]] = field(default_factory=list)  # (1, ...) each

    def take(self, episode: Episode) -> None:
        """Take the frames of an episode that have no features."""
        inputs = select_inputs(
            self.encoder, episode.observations, [episode.instruction] * (len(episode) + 1)
        )
        hashes = hash_rows(inputs, self.encoder.observation_keys)
        for row in find_new_rows(hashes, self.seen):
            self.seen.add(hashes[row])
            if hashes[row] not in self.cache:
                self.hashes.append(hashes[row])
                self.inputs.append({k: v[row : row + 1].copy() for k, v in inputs.items()})

    def pop(self, size: int) -> tuple[list[bytes], dict[str, np.ndarray]]:
        """Return hashes and inputs of the next frames of one size, at most so many."""
        shapes = [{key: value.shape for key, value in row.items()} for row in self.inputs[:size]]
        size = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), len(shapes))
        hashes, rows = self.hashes[:size], self.inputs[:size]
        self.hashes, self.inputs = self.hashes[size:], self.inputs[size:]
        return hashes, {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


class _Batch(NamedTuple):
    lane: _Lane | None  # None where there is nothing to do but to count
    hashes: list[bytes]
    inputs: Any  # of the encoder, or what it prepared
    n_frames: int  # of the dataset, up to here


def _make_batches(
    dataset: EpisodeDataset, lanes: Sequence[_Lane], batch_size: int
) -> Iterator[_Batch]:
    encoders = [lane.encoder for lane in lanes]
    needed = {key for encoder in encoders for key in encoder.observation_keys} - {INSTRUCTION_KEY}
    n_frames = 0
    for index in range(len(dataset)):
        episode = dataset.read(index, sorted(needed))
        check_orientation(encoders, read_orientation(episode.metadata), f"episode {index}")
        n_frames += len(episode) + 1
        for lane in lanes:
            lane.take(episode)
            while len(lane.hashes) >= batch_size:
                yield _Batch(lane, *lane.pop(batch_size), n_frames)
        yield _Batch(None, [], None, n_frames)
    for lane in lanes:
        while lane.hashes:
            yield _Batch(lane, *lane.pop(batch_size), n_frames)


def _prepare(batch: _Batch) -> _Batch:
    if batch.lane is None or not isinstance(batch.lane.encoder, StagedEncoder):
        return batch
    return batch._replace(inputs=batch.lane.encoder.prepare(batch.inputs))


def _encode(batch: _Batch) -> np.ndarray:
    assert batch.lane is not None
    encoder = batch.lane.encoder
    if isinstance(encoder, StagedEncoder):
        return check_features(encoder.encode_prepared(batch.inputs), len(batch.hashes), encoder)
    return encode_rows(encoder, batch.inputs)
