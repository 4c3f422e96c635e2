import multiprocessing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from libero_reward_envs.data import load_episodes
from libero_reward_envs.data.frames import RewardDataset
from libero_reward_envs.data.trajectory_files import read_trajectory
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.wrappers import RewardDataCollector

MILK = find_task("libero_object", 7)
KEY = "agentview_image"


class Counter(gym.Env):
    """Shows the number of its step in one reused image; every `period`-th episode succeeds."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, period=2, n_steps=3, dtype: Any = np.uint8, shape=(4, 5, 3)):
        high = 255 if dtype == np.uint8 else 1
        self.observation_space = gym.spaces.Dict({"a": gym.spaces.Box(0, high, shape, dtype)})
        self.image = np.zeros(shape, dtype)
        self.period, self.n_steps, self.episode = period, n_steps, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        self.image[:] = 0
        return {"a": self.image}, {}

    def step(self, action) -> Any:
        self.t += 1
        self.image[:] = 10 * self.t + 100 * (self.episode % 2)
        solved = self.t == 2 and self.episode % self.period == 0
        info = {"is_success": solved, "reward/env": float(solved)}
        return {"a": self.image}, 5.0, False, self.t == self.n_steps, info


def collect(folder, n_episodes, env=None, **arguments):
    env = RewardDataCollector(
        env or Counter(), folder / "positive", folder / "negative", ["a"], **arguments
    )
    for _ in range(n_episodes):
        env.reset()
        ended = False
        while not ended:
            *_, ended, _ = env.step(np.full(2, 0.5))
    env.close()
    return env


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_frames_of_libero_are_those_after_each_step(make_env, tmp_path):
    plain = gym.wrappers.TimeLimit(
        make_env(task=MILK.name, obs_type="pixels", image_size=64, cameras=("agentview",)), 4
    )
    for storage in ("npy", "hdf5"):
        folder = tmp_path / storage
        env = RewardDataCollector(
            plain, folder / "positive", folder / "negative", [KEY], storage=storage,
            image_size=(3, 64, 64), metadata={"policy": "mine"},
        )  # fmt: skip
        env.reset(seed=3, options={"init_state_id": 4})
        seen = [env.step(np.full(7, 0.3, np.float32))[0][KEY] for _ in range(4)]
        env._store.close()  # the env itself is shared
    assert len(np.unique(np.stack(seen), axis=0)) == 4
    trajectory = read_trajectory(tmp_path / "npy/negative/000000.npy")
    images = trajectory.images[KEY]
    assert (images.shape, images.dtype) == ((4, 3, 64, 64), np.float32)
    np.testing.assert_array_equal(np.rint(images * 255), np.stack(seen).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(trajectory.labels, np.zeros(4))
    (episode,) = load_episodes(tmp_path / "hdf5/negative/000000.hdf5")
    np.testing.assert_array_equal(episode.observations[KEY][1:], np.stack(seen))
    assert episode.observations[KEY].dtype == np.uint8
    assert (episode.task, episode.success, episode.terminated) == (MILK.id, False, False)
    assert episode.metadata == {"init_state_id": 4, "assets": "builtin", "policy": "mine"}
    assert not (tmp_path / "npy/positive").exists()


@pytest.mark.parametrize("storage", ["npy", "hdf5"])
def test_labels_and_outcomes_follow_is_success(tmp_path, storage):
    env = collect(tmp_path, 4, storage=storage)
    assert (env.counts.positive_saved, env.counts.negative_saved) == (2, 2)
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    for source, kind in zip(dataset.sources, dataset.classes, strict=True):
        np.testing.assert_array_equal(source.labels, [0, kind, 0])
    # Episodes 0 and 2 succeed; 10, 20, 30 are the images after their steps, never the first one.
    for index in range(len(dataset)):
        trajectory, frame = dataset.locate(index)
        failed = dataset.classes[trajectory] == 0
        assert (dataset[index][0]["a"] == 10 * (frame + 1) + 100 * failed).all()


def test_success_once_alone_makes_a_positive(tmp_path):
    class Once(Counter):
        def step(self, action) -> Any:
            *step, _ = super().step(action)
            # A stale flag at the first step, left from the episode before, does not count.
            once = self.t == self.n_steps if self.episode == 0 else self.t == 1
            return *step, {"is_success": False, "success_once": once}

    env = collect(tmp_path, 2, Once(), storage="npy")
    assert (env.counts.positive_saved, env.counts.negative_saved) == (1, 1)
    np.testing.assert_array_equal(read_trajectory(tmp_path / "positive/000000.npy").labels, [0] * 3)


def test_a_label_between_counts_from_a_half_on(tmp_path):
    class Soft(Counter):
        def step(self, action) -> Any:
            *step, _ = super().step(action)
            return *step, {"is_success": 0.5 if self.episode == 0 else 0.49}

    counts = collect(tmp_path, 2, Soft(), storage="npy").counts
    assert (counts.positive_saved, counts.negative_saved) == (1, 1)


@pytest.mark.parametrize("storage", ["npy", "hdf5"])
def test_a_second_run_loses_nothing(tmp_path, storage):
    collect(tmp_path, 4, storage=storage)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    collect(tmp_path, 4, storage=storage)
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    assert len(names(tmp_path)) == 2 * len(before)
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    assert len(dataset.sources) == 8


def run(folder, storage):
    collect(folder, 20, storage=storage)


@pytest.mark.parametrize("storage", ["npy", "hdf5"])
def test_two_runs_at_once_lose_nothing(tmp_path, storage):
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=run, args=(tmp_path, storage)) for _ in range(2)]
    for process in runs:
        process.start()
    for process in runs:
        process.join()
    assert [process.exitcode for process in runs] == [0, 0]
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    assert np.bincount(dataset.classes).tolist() == [20, 20]
    assert not dataset.skipped


def test_what_a_killed_run_leaves_is_read_and_left_alone(tmp_path):
    env = RewardDataCollector(
        Counter(), tmp_path / "positive", tmp_path / "negative", ["a"], storage="hdf5"
    )
    for _ in range(2):
        env.reset()
        for _ in range(3):
            env.step(np.zeros(2))
    for writer in env._store._writers:
        assert writer is not None
        writer._release()  # as the end of a process does; nothing was closed
    collect(tmp_path, 2, storage="hdf5")
    dataset = RewardDataset(tmp_path / "positive", tmp_path / "negative", image_keys="a")
    assert len({(s.folder, s.name) for s in dataset.sources}) == 4


def test_limits_drop_and_count(tmp_path, caplog):
    env = collect(
        tmp_path, 9, max_positive_trajectories=2, max_negative_trajectories=3, storage="auto"
    )
    assert vars(env.counts) == {
        "positive_saved": 2,
        "negative_saved": 3,
        "positive_dropped": 3,
        "negative_dropped": 1,
        "unfinished": 0,
    }
    assert len(names(tmp_path)) == 5
    assert caplog.text.count("further ones are dropped") == 2
    collect(tmp_path, 9, max_positive_trajectories=2, max_negative_trajectories=0)
    assert len(names(tmp_path)) == 7


def test_auto_storage_is_npy_for_small_sets_and_hdf5_for_large_ones(tmp_path):
    for limits, ending in [((500, 500), ".npy"), ((501, 500), ".hdf5"), ((None, 5), ".hdf5")]:
        folder = tmp_path / str(limits)
        arguments = {"max_positive_trajectories": limits[0], "max_negative_trajectories": limits[1]}
        collect(folder, 1, **arguments)
        assert [name[-5:].lstrip("0") for name in names(folder)] == [ending]


def test_unfinished_episodes_are_discarded_and_counted(tmp_path):
    env = RewardDataCollector(Counter(), tmp_path / "p", tmp_path / "n", ["a"], storage="npy")
    env.reset()
    env.reset()  # nothing was begun
    env.step(np.zeros(2))
    env.reset()
    for _ in range(5):  # two steps after the end
        env.step(np.zeros(2))
    env.reset()
    env.step(np.zeros(2))
    env.close()
    assert env.counts.unfinished == 2
    assert env.counts.positive_saved + env.counts.negative_saved == 1
    assert len(read_trajectory(next(tmp_path.rglob("*.npy"))).labels) == 3


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (Counter(dtype=np.float32, shape=(3, 4, 5)), 10 / 255),
        (Counter(shape=(3, 4, 5)), 10 / 255),
        (Counter(shape=(4, 5, 1)), 10 / 255),
    ],
)
def test_channels_first_floats_and_grey_are_understood(tmp_path, env: Any, expected):
    if env.image.dtype == np.float32:
        env = gym.wrappers.TransformObservation(
            env, lambda o: {"a": o["a"] / np.float32(255)}, env.observation_space
        )
    collect(tmp_path, 1, env, storage="npy")
    images = read_trajectory(tmp_path / "positive/000000.npy").images["a"]
    assert images.shape[1:] == (1 if env.unwrapped.image.shape[-1] == 1 else 3, 4, 5)
    np.testing.assert_allclose(images[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        (Counter(), {"image_keys": ["b"]}, "'b' in the observation, it has: a"),
        (
            Counter(),
            {"image_size": (3, 64, 64)},
            r"\(3, 64, 64\), the environment's is \(3, 4, 5\)",
        ),
        (Counter(shape=(4, 5, 12)), {}, "before frames are stacked"),
        (Counter(), {"storage": "zip"}, "npy, hdf5"),
        (Counter(), {"max_positive_trajectories": -1}, "max_positive_trajectories"),
        (Counter(), {"image_keys": "a"}, "list of names"),
        (gym.make("Pendulum-v1"), {}, "image 'a'"),
    ],
)
def test_bad_arguments_are_named_at_once(tmp_path, env, arguments, message):
    arguments = {"image_keys": ["a"], **arguments}
    with pytest.raises(ValueError, match=message):
        RewardDataCollector(env, tmp_path / "p", tmp_path / "n", **arguments)
    assert names(tmp_path) == []


def test_actions_beyond_one_are_for_npy_only(tmp_path):
    env = Counter()
    env.action_space = gym.spaces.Box(-2, 2, (2,), np.float32)
    with pytest.raises(ValueError, match="RescaleAction"):
        RewardDataCollector(env, tmp_path / "p", tmp_path / "n", ["a"], storage="hdf5")
    RewardDataCollector(env, tmp_path / "p", tmp_path / "n", ["a"], storage="npy")


def test_an_env_that_does_not_tell_success_is_refused(tmp_path):
    class Silent(Counter):
        def step(self, action) -> Any:
            return *super().step(action)[:4], {}

    with pytest.raises(ValueError, match="is_success"):
        collect(tmp_path, 1, Silent())
