import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.frame_stream import FrameStream
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.torch_datasets import EpisodeStream, TransitionDataset

# The tests are about order, not speed: two cores can run five workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LENGTHS = [5, 3, 8, 1, 4, 6, 2, 7, 5]
N_STEPS = sum(LENGTHS)


def make_episode(number, n_steps, size=6):
    rng = np.random.default_rng(number)
    success = number % 2 == 0
    rewards = np.zeros(n_steps)
    rewards[-1] = success
    observations = {
        "state": rng.normal(size=(n_steps + 1, 3)),
        "a": rng.integers(0, 256, (n_steps + 1, size, size + 1, 3), dtype=np.uint8),
    }
    return Episode(observations, rng.uniform(-1, 1, (n_steps, 7)), rewards, success, success)


@pytest.fixture(scope="module")
def dataset():
    return EpisodeDataset([make_episode(*pair) for pair in enumerate(LENGTHS)])


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


def all_steps(lengths=LENGTHS):
    return [(number, t) for number, length in enumerate(lengths) for t in range(length)]


def check_transition(item, dataset):
    episode, t = dataset[int(item["episode"])], int(item["step"])
    for name, row in (("observations", t), ("next_observations", t + 1)):
        state, image = (episode.observations[key][row] for key in ("state", "a"))
        np.testing.assert_array_equal(item[name]["state"], state.astype(np.float32))
        assert item[name]["a"].dtype == torch.uint8
        np.testing.assert_array_equal(item[name]["a"], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(item["actions"], episode.actions[t])
    last = t == len(episode) - 1
    assert item["rewards"] == episode.rewards[t]
    assert item["terminated"] == (last and episode.terminated)
    assert item["success"] == (last and episode.success)
    assert item["success"].dtype == item["terminated"].dtype == torch.bool


def test_transitions_in_any_order(dataset):
    steps = TransitionDataset(dataset, cache_episodes=2)
    assert len(steps) == N_STEPS
    for index in np.random.default_rng(0).permutation(N_STEPS):
        item = steps[index]
        assert (int(item["episode"]), int(item["step"])) == all_steps()[index]
        assert steps.locate(index - N_STEPS) == steps.locate(index) == all_steps()[index]
        check_transition(item, dataset)
    for index in (N_STEPS, -N_STEPS - 1):
        with pytest.raises(IndexError, match=f"of {N_STEPS}"):
            steps[index]
    with pytest.raises(ValueError, match="`cache_episodes`"):
        TransitionDataset(dataset, cache_episodes=0)


def test_transitions_for_loaders_with_workers(dataset):
    steps = TransitionDataset(dataset, observation_keys=["state"])
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        steps, 6, sampler=RandomSampler(steps, generator=generator), num_workers=2,
        multiprocessing_context="fork",
    )  # fmt: skip
    batches = list(loader)
    assert sorted(steps_of(batches)) == all_steps()
    assert batches[0]["observations"].keys() == {"state"}
    assert batches[0]["observations"]["state"].shape == (6, 3)


class _Counting:
    """Notes in a file which episodes are read, by whichever process."""

    def __init__(self, episodes, log: Path):
        self.episodes, self.log = episodes, log

    def __len__(self):
        return len(self.episodes)

    def read(self, index, observation_keys=None):
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        episode = self.episodes[index]
        return episode if observation_keys is None else episode.select(observation_keys)

    def summaries(self):
        return [episode.summary() for episode in self.episodes]

    def count(self):
        n_read = len(self.log.read_text().split())
        self.log.write_text("")
        return n_read


def test_the_last_episodes_are_kept(dataset, tmp_path):
    source = _Counting(list(dataset), tmp_path / "log")
    steps = TransitionDataset(EpisodeDataset(source), cache_episodes=2)
    source.count()
    for index in (0, 1, 5, 2, 6, 8, 0):  # of episodes 0 0 1 0 1 2 0
        steps[index]
    assert source.count() == 4
    copy = pickle.loads(pickle.dumps(steps))
    copy[0]
    assert source.count() == 1


@pytest.mark.parametrize("n_workers", [0, 1, 2, 3])
def test_every_transition_comes_once_a_pass(dataset, n_workers):
    stream = EpisodeStream(dataset, batch_size=4, buffer_steps=9)
    passes = []
    for epoch in (0, 0, 1):
        stream.set_epoch(epoch)
        batches = list(load(stream, n_workers))
        assert len(batches) == len(stream) == 11
        assert sorted(len(batch["step"]) for batch in batches) == [1] + [4] * 10
        passes.append(steps_of(batches))
        assert sorted(passes[-1]) == all_steps()
    assert passes[0] == passes[1] != passes[2]
    for number in range(4):
        check_transition({k: _row(v, number) for k, v in batches[0].items()}, dataset)
    other = EpisodeStream(dataset, batch_size=4, buffer_steps=9, seed=1)
    assert steps_of(load(other, n_workers)) != passes[0]


def _row(value, number):
    return {k: v[number] for k, v in value.items()} if isinstance(value, dict) else value[number]


def test_the_batches_are_the_same_for_any_number_of_workers(dataset):
    stream = EpisodeStream(dataset, batch_size=4, buffer_steps=9)
    kinds = [
        sorted(tuple(steps_of([batch])) for batch in load(stream, n_workers))
        for n_workers in (0, 2, 3)
    ]
    assert kinds[0] == kinds[1] == kinds[2]


def test_workers_read_different_episodes(tmp_path):
    episodes = [make_episode(number, 10) for number in range(12)]
    source = _Counting(episodes, tmp_path / "log")
    stream = EpisodeStream(EpisodeDataset(source), batch_size=5, buffer_steps=20)
    source.count()
    assert len(list(load(stream))) == 24
    assert source.count() == 12
    assert len(list(load(stream, 2))) == 24
    assert source.count() == 12
    # 24 batches in five parts: they meet within blocks of two episodes, which two workers read.
    assert len(list(load(stream, 5))) == 24
    assert source.count() <= 12 + 4 * 2


def test_more_workers_than_batches(dataset):
    stream = EpisodeStream(dataset[:2], batch_size=5)
    assert sorted(steps_of(load(stream, 3))) == all_steps(LENGTHS[:2])


def test_without_shuffling_steps_come_as_they_were_recorded(dataset):
    stream = EpisodeStream(dataset, batch_size=4, buffer_steps=9, shuffle=False)
    assert steps_of(stream) == all_steps()


def test_shuffled_batches_mix_episodes(dataset):
    mixed = [
        len(torch.unique(batch["episode"]))
        for batch in EpisodeStream(dataset, batch_size=8, buffer_steps=N_STEPS)
    ]
    assert np.mean(mixed) > 3


def test_a_smaller_batch_can_be_left_out(dataset):
    for n_workers in (0, 2):
        stream = EpisodeStream(dataset, batch_size=4, drop_last=True)
        batches = list(load(stream, n_workers))
        assert [len(batch["step"]) for batch in batches] == [4] * 10
        assert len(set(steps_of(batches))) == 40
    with pytest.raises(ValueError, match="got 41 transitions of 9 episodes with up to 8 steps"):
        EpisodeStream(dataset, batch_size=64, drop_last=True)


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("stride", [1, 3])
def test_subsequences(dataset, n_workers, stride):
    stream = EpisodeStream(
        dataset, items="subsequences", length=3, stride=stride, batch_size=5, buffer_steps=9
    )
    batches = list(load(stream, n_workers))
    expected = [(e, t) for e, n in enumerate(LENGTHS) for t in range(0, n - 2, stride)]
    assert sorted(steps_of(batches)) == expected
    for batch in batches:
        for row, (number, t) in enumerate(steps_of([batch])):
            episode, steps = dataset[number], slice(t, t + 3)
            state, images = (episode.observations[key][t : t + 4] for key in ("state", "a"))
            np.testing.assert_array_equal(
                batch["observations"]["state"][row], state.astype(np.float32)
            )
            np.testing.assert_array_equal(
                batch["observations"]["a"][row], images.transpose(0, 3, 1, 2)
            )
            np.testing.assert_array_equal(batch["actions"][row], episode.actions[steps])
            np.testing.assert_array_equal(batch["rewards"][row], episode.rewards[steps])
            ends = np.arange(t, t + 3) == len(episode) - 1
            np.testing.assert_array_equal(batch["terminated"][row], ends & episode.terminated)
            np.testing.assert_array_equal(batch["success"][row], ends & episode.success)
    assert "next_observations" not in batches[0]


def test_frames_are_those_of_the_classifier(tmp_path):
    for name, numbers in (("positive", (0, 2)), ("negative", (1, 3))):
        with EpisodeWriter(tmp_path / name / "episodes.hdf5") as writer:
            for number in numbers:
                writer.append(make_episode(number, 5 + number, size=40))
    episodes = [
        load_episodes(tmp_path / kind / "episodes.hdf5") for kind in ("positive", "negative")
    ]
    stream = EpisodeStream(episodes[0] + episodes[1], items="frames", observation_keys=["a"])
    labelled = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")

    def by_pixels(pairs):
        return sorted((images.numpy().tobytes(), float(label)) for images, label in pairs)

    ours = [
        pair
        for batch in stream
        for pair in zip(batch["observations"]["a"], batch["success"], strict=True)
    ]
    theirs = [
        pair
        for images, labels in FrameStream(labelled)
        for pair in zip(images["a"], labels, strict=True)
    ]
    assert len(ours) == 5 + 6 + 7 + 8
    assert by_pixels(ours) == by_pixels(theirs)


class _MadeWhenRead:
    """Sixty episodes of 50 steps that exist only while somebody holds them."""

    def __init__(self):
        self.first = make_episode(0, 50, 40)

    def __len__(self):
        return 60

    def read(self, index, observation_keys=None):
        return make_episode(index, 50, 40)

    def summaries(self):
        return [self.first.summary()] * 60


def test_memory_holds_one_buffer():
    n_bytes = 40 * 41 * 3  # a step
    dataset = EpisodeDataset(_MadeWhenRead())
    stream = EpisodeStream(dataset, batch_size=32, buffer_steps=400)
    tracemalloc.start()
    assert sum(len(batch["step"]) for batch in stream) == 60 * 50
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (400 + 4 * 50 + 4 * 32) * n_bytes * 1.2


def test_damage_and_differences_are_named(dataset, tmp_path):
    other = Episode({"state": np.zeros((3, 5)), "a": np.zeros((3, 6, 7, 3), np.uint8)},
                    np.zeros((2, 7)), np.zeros(2), False, False)  # fmt: skip
    mixed = dataset + EpisodeDataset([other])
    with pytest.raises(ValueError, match=r"'state' of \(3,\) float64 .* got \(5,\) .* episode 9"):
        list(EpisodeStream(mixed))
    with pytest.raises(ValueError, match="in episode 9"):
        TransitionDataset(mixed)[-1]
    with pytest.raises(ValueError, match="No observation 'b'"):
        EpisodeStream(dataset, observation_keys=["b"])
    source = _Counting([make_episode(0, 4)], tmp_path / "log")
    stream = EpisodeStream(EpisodeDataset(source))
    source.episodes = [make_episode(0, 5)]
    with pytest.raises(ValueError, match=r"Expected 4 steps in episode 0 .* got 5"):
        list(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": "steps"}, "Unknown items 'steps'. Choose one of: transitions, frames, subs"),
        ({"items": "subsequences"}, "`length` is for items='subsequences' and needed"),
        ({"length": 3}, "`length` is for items='subsequences' and needed"),
        ({"items": "subsequences", "length": 0}, "`length` must be at least 1, got 0"),
        ({"items": "subsequences", "length": 9}, "got 0 subsequences of 9 episodes with up to 8"),
        ({"stride": 2}, "`stride` is for items='subsequences'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"buffer_steps": 0}, "`buffer_steps` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodeStream(dataset, **arguments)
