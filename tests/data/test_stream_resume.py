"""A pass of an `EpisodeStream` that is left and goes on."""

import json

import numpy as np
import pytest
from torch.utils.data import DataLoader

from libero_reward_envs.data import Episode, EpisodeDataset
from libero_reward_envs.data.stream_plan import Position
from libero_reward_envs.data.torch_datasets import EpisodeStream

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LENGTHS = [5, 3, 8, 1, 4, 6, 2, 7, 5]


@pytest.fixture(scope="module")
def dataset():
    return EpisodeDataset(
        [
            Episode({"state": np.zeros((n + 1, 2))}, np.zeros((n, 7)), np.zeros(n), False, False)
            for n in LENGTHS
        ]
    )


def steps_of(batches):
    """(episode, step) of the items, in their order."""
    return [
        pair
        for batch in batches
        for pair in zip(batch["episode"].tolist(), batch["step"].tolist(), strict=True)
    ]


def load(stream, n_workers=0, **options):
    if n_workers:
        options["multiprocessing_context"] = "fork"
    return DataLoader(stream, batch_size=None, num_workers=n_workers, **options)


@pytest.mark.parametrize("n_workers", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("n_batches", [1, 2, 11, 12])
def test_workers_in_turn_give_one_order_however_often_it_is_begun_again(n_workers, n_batches):
    def give(start):
        n = max(1, n_workers)
        turns = [
            list(Position(0, start, 0, n_workers).list_batches(n_batches, worker))
            for worker in range(n)
        ]
        given = []
        while any(turns):  # as the DataLoader takes them, while there are any
            given += [turn.pop(0) for turn in turns if turn]
        return given

    whole = give(0)
    assert sorted(whole) == list(range(n_batches))
    for start in range(n_batches + 1):
        assert give(start) == whole[start:]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("n_workers", [0, 2, 3])
def test_a_pass_goes_on_where_it_was(dataset, n_workers, persistent):
    stream = EpisodeStream(dataset, batch_size=4, buffer_steps=9)
    loader = load(stream, n_workers, persistent_workers=persistent and n_workers > 0)
    stream.set_epoch(5)
    whole = [steps_of([batch]) for batch in loader]
    for start in (0, 1, 2, 5, 8, 10, 11) if persistent else (1, 8):
        stream.set_epoch(5, start)
        assert [steps_of([batch]) for batch in loader] == whole[start:]
    stream.set_epoch(5)
    assert [steps_of([batch]) for batch in loader] == whole
    for wrong in ((5, 12), (5, -1), (-1, 0)):
        with pytest.raises(ValueError, match=r"a start in 0\.\.11"):
            stream.set_epoch(*wrong)


def test_the_state_without_workers(dataset):
    def make(**arguments):
        return EpisodeStream(dataset, **{"batch_size": 4, "buffer_steps": 9, **arguments})

    whole = make()
    whole.set_epoch(3)
    expected = [steps_of([batch]) for batch in whole]
    stream = make()
    stream.set_epoch(3)
    batches = iter(stream)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(stream.state_dict()))
    again = make()
    again.load_state_dict(state)
    assert again.state_dict() == state
    again.set_epoch(3)  # as a loop over epochs does
    assert [steps_of([batch]) for batch in again] == expected[4:]
    again.load_state_dict(state)
    rest = iter(again)
    next(rest)
    once_more = make()
    once_more.load_state_dict(again.state_dict())
    assert [steps_of([batch]) for batch in once_more] == expected[5:]
    assert [steps_of([batch]) for batch in once_more] == expected  # a pass of its own
    once_more.load_state_dict(state)
    once_more.set_epoch(4)
    assert [steps_of([batch]) for batch in once_more] != expected
    with pytest.raises(ValueError, match="with seed=0, this one has 1"):
        make(seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="with n_episodes=9, this one has 8"):
        EpisodeStream(dataset[:8], batch_size=4, buffer_steps=9).load_state_dict(state)
    again.load_state_dict(state)
    with pytest.raises(ValueError, match="The state is of 0 workers, here are 2"):
        list(load(again, 2))


def test_a_stream_does_not_say_what_only_workers_know(dataset):
    stream = EpisodeStream(dataset, batch_size=4)
    assert stream.state_dict()["yielded"] == 0
    next(iter(load(stream, 1)))
    with pytest.raises(RuntimeError, match="Workers make the batches"):
        stream.state_dict()
    stream.set_epoch(1)
    assert stream.state_dict()["epoch"] == 1


@pytest.mark.parametrize("n_workers", [0, 2])
def test_torchdata_saves_and_restores_it(dataset, n_workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make(epoch):
        stream = EpisodeStream(dataset, batch_size=4, buffer_steps=9)
        stream.set_epoch(epoch)
        options = {"multiprocessing_context": "fork"} if n_workers else {}
        return stream, stateful(stream, batch_size=None, num_workers=n_workers, **options)

    expected = [steps_of([batch]) for batch in make(3)[1]]
    for n_used in (1, 4, 9):
        _, loader = make(3)
        batches = iter(loader)
        for _ in range(n_used):
            next(batches)
        state = loader.state_dict()
        stream, loader = make(0)
        loader.load_state_dict(state)
        assert [steps_of([batch]) for batch in loader] == expected[n_used:]
        stream.set_epoch(3)
        assert [steps_of([batch]) for batch in loader] == expected
