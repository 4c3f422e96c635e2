"""Training batches of OpenVLA, in an order that can be taken up again at any place."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from libero_reward_envs.agents.openvla_examples import OpenVLAExamples
from libero_reward_envs.agents.openvla_rows import Batch, RowEncoder
from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.encoders.prefetch import prefetch
from libero_reward_envs.openvla.policy_images import ORIENTATION

_ORDER, _CHANGES = 0, 1  # what is drawn, as part of the seed
_DEPTH = 4  # batches that wait


class RowOrder(NamedTuple):
    """The steps of a pass.

    Attributes:
        episodes: Of each row, (n,).
        positions: Which of the episode's kept steps it is, (n,).
        last_use: Of each episode the last row, (E,), -1 for none; its pictures may then go.
    """

    episodes: np.ndarray
    positions: np.ndarray
    last_use: np.ndarray


def order_rows(
    lengths: np.ndarray, *, seed: int = 0, epoch: int = 0, buffer_steps: int | None = None
) -> RowOrder:
    """Return the order of the rows of a pass.

    Episodes are shuffled and taken together until they have `buffer_steps` steps; the steps of
    these are shuffled. So only that many pictures lie in memory.

    Args:
        lengths: Kept steps of each episode, (E,).
        seed: Decides the order, with the epoch.
        epoch: Number of the pass.
        buffer_steps: Steps that are shuffled together; None for the order of the data.
    """
    rng = np.random.default_rng((seed, _ORDER, epoch))
    order = np.arange(len(lengths)) if buffer_steps is None else rng.permutation(len(lengths))
    starts = np.concatenate([[0], np.cumsum(lengths[order])])[:-1]
    episodes = np.repeat(order, lengths[order])
    positions = np.arange(len(episodes)) - np.repeat(starts, lengths[order])
    if buffer_steps is not None:
        begin = 0
        while begin < len(episodes):
            # The end of the episode in which the buffer becomes full.
            end = min(begin + buffer_steps, len(episodes))
            number = int(np.searchsorted(starts, end - 1, side="right")) - 1
            end = int(starts[number] + lengths[order[number]])
            rows = begin + rng.permutation(end - begin)
            episodes[begin:end], positions[begin:end] = episodes[rows], positions[rows]
            begin = end
    last_use = np.full(len(lengths), -1)
    last_use[episodes] = np.arange(len(episodes))
    return RowOrder(episodes, positions, last_use)


class PolicyBatches:
    """Batches for one of several processes that train one network.

    In each pass every step comes once, but for those at its end that fill no update. Which steps
    make an update, and how their pictures are changed, depends on the seed, the pass and the size
    of all processes' batches together, not on how many processes or threads there are.

    Args:
        examples: What to train on.
        encoder: Makes the rows.
        batch_size: Rows of one process.
        accumulate: Batches of an update, of each process.
        n_processes: How many there are.
        process: Which one this is.
        seed: Decides order and changes.
        buffer_steps: See `order_rows`.
        n_threads: How many prepare pictures.

    Raises:
        ValueError: If there are fewer rows than an update takes.
    """

    def __init__(
        self,
        examples: OpenVLAExamples,
        encoder: RowEncoder,
        *,
        batch_size: int = 16,
        accumulate: int = 1,
        n_processes: int = 1,
        process: int = 0,
        seed: int = 0,
        buffer_steps: int = 2048,
        n_threads: int = 2,
    ) -> None:
        self.examples, self.encoder = examples, encoder
        self._batch_size, self._accumulate = batch_size, accumulate
        self._n_processes, self._process = n_processes, process
        self._seed, self._buffer_steps, self._n_threads = seed, buffer_steps, n_threads
        self.rows_per_update = batch_size * accumulate * n_processes
        if len(examples) < self.rows_per_update:
            raise ValueError(
                f"Expected at least the {self.rows_per_update} steps of an update "
                f"(`batch_size` {batch_size} x `gradient_accumulate_every` {accumulate} x "
                f"{n_processes} processes), got {len(examples)}. Lower them, or collect more."
            )

    def __len__(self) -> int:
        """The number of updates of a pass."""
        return len(self.examples) // self.rows_per_update

    def iterate(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of a pass, `accumulate` an update, from update `start` on.

        Beside what `RowEncoder.encode` returns stands `rows`, (n, 2) int64: episode and number of
        the kept step. Close it, or use it up, to end its threads.
        """
        order = order_rows(
            self.examples.lengths, seed=self._seed, epoch=epoch, buffer_steps=self._buffer_steps
        )
        n = self._n_processes * self._batch_size
        first, last = start * self._accumulate, len(self) * self._accumulate
        of_process = self._process * self._batch_size
        parts = [
            np.arange(number * n + of_process, number * n + of_process + self._batch_size)
            for number in range(first, last)
        ]

        def prepare(taken: "_Taken") -> Batch:
            rngs = [
                np.random.default_rng((self._seed, _CHANGES, epoch, int(row))) for row in taken.rows
            ]
            return _encode(self.examples, self.encoder, taken, rngs)

        items = _take(self.examples, order, parts)
        return prefetch(items, prepare, depth=_DEPTH, n_threads=self._n_threads)


def iterate_holdout(
    examples: OpenVLAExamples,
    encoder: RowEncoder,
    *,
    batch_size: int,
    max_rows: int | None = None,
    n_processes: int = 1,
    process: int = 0,
    n_threads: int = 2,
) -> Iterator[Batch]:
    """Yield steps as a policy will see them, without random changes, the last batch smaller.

    Args:
        examples: Those held out.
        encoder: Makes the rows.
        batch_size: Rows of a batch.
        max_rows: How many, evenly spread over all; None for all.
        n_processes: Processes that share them.
        process: Which one this is.
        n_threads: How many prepare pictures.
    """
    order = order_rows(examples.lengths)
    n = len(examples) if max_rows is None else min(max_rows, len(examples))
    n = max(1, n // n_processes) * n_processes if n >= n_processes else n  # as many for each
    rows = np.linspace(0, len(examples) - 1, n).astype(int)[process::n_processes]
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return prefetch(
        _take(examples, order, parts),
        lambda taken: _encode(examples, encoder, taken, None),
        depth=_DEPTH,
        n_threads=n_threads,
    )


class _Taken(NamedTuple):
    """What was read of a batch: numbers of its rows in the pass, and their pictures by camera."""

    rows: np.ndarray
    episodes: np.ndarray
    positions: np.ndarray
    views: list[list[np.ndarray]]


def _take(
    examples: OpenVLAExamples, order: RowOrder, parts: Sequence[np.ndarray]
) -> Iterator[_Taken]:
    """Read the pictures of batches; an episode is kept until its last row was taken."""
    held: dict[int, list[np.ndarray]] = {}
    for rows in parts:
        episodes, positions = order.episodes[rows], order.positions[rows]
        for episode in np.unique(episodes).tolist():
            if episode not in held:
                held[episode] = examples.read_images(episode)
        pairs = list(zip(episodes.tolist(), positions.tolist(), strict=True))
        views = [
            [held[episode][camera][position].copy() for episode, position in pairs]
            for camera in range(len(examples.image_keys))
        ]
        yield _Taken(rows, episodes, positions, views)
        for episode in [key for key in held if order.last_use[key] <= rows[-1]]:
            del held[episode]


def _encode(
    examples: OpenVLAExamples,
    encoder: RowEncoder,
    taken: _Taken,
    rngs: Sequence[np.random.Generator] | None,
) -> Batch:
    pairs = list(zip(taken.episodes.tolist(), taken.positions.tolist(), strict=True))
    views = []
    for pictures in taken.views:
        prepared = [
            encoder.prepare_images(
                picture[None],
                examples.orientations[pairs[index][0]],
                None if rngs is None else [rngs[index]],
            )
            for index, picture in enumerate(pictures)
        ]
        views.append(np.concatenate(prepared))
    batch = encoder.encode(
        views,
        [examples.instructions[episode] for episode, _ in pairs],
        np.stack([examples.actions[episode][position] for episode, position in pairs]),
    )
    batch["rows"] = torch.tensor(pairs, dtype=torch.int64)
    return batch


class RawPolicyDataset(Dataset[dict[str, Any]]):
    """Single steps as plain pictures, actions and instructions, for other trainers.

    Item i is `image`, (3 * cameras, H, W) uint8, turned to "vla180"; `action`, (a,) float32 in
    OpenVLA's convention, not normalised; and `raw_lang`, the instruction. `RowEncoder.encode_raw`
    takes batches of them. The last episode that was read stays in memory.

    Args:
        examples: The steps.
    """

    def __init__(self, examples: OpenVLAExamples) -> None:
        self._examples = examples
        self._order = order_rows(examples.lengths)
        self._held: tuple[int, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._order.episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one step."""
        episode, position = int(self._order.episodes[index]), int(self._order.positions[index])
        if self._held is None or self._held[0] != episode:
            self._held = (episode, self._examples.read_images(episode))
        turned = [
            turn_images(view[position], self._examples.orientations[episode], ORIENTATION)
            for view in self._held[1]
        ]
        return {
            "image": torch.from_numpy(np.concatenate(turned, axis=-1)).movedim(-1, 0),
            "action": torch.from_numpy(self._examples.actions[episode][position]),
            "raw_lang": self._examples.instructions[episode],
        }
