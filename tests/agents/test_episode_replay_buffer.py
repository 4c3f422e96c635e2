"""A replay buffer that knows its episodes, against loops over lists."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from libero_reward_envs.agents import EpisodeReplayBuffer

ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)


def make(replay_spaces, size, n_envs, observations="box", **options):
    return EpisodeReplayBuffer(size, replay_spaces[observations], ACTIONS, "cpu", n_envs, **options)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("seed", range(25))
def test_finished_episodes_are_those_that_a_loop_finds(replay_spaces, random_play, n_envs, seed):
    rng = np.random.default_rng(1000 + seed)
    size = int(rng.integers(1, 25))
    buffer = make(replay_spaces, size * n_envs, n_envs)
    assert buffer.buffer_size == size
    longest = int(rng.integers(1, 30))  # some episodes are longer than the ring
    play = random_play(buffer, seed, longest, resets=(seed % 3) * 0.1 if size > 1 else 0)
    for _ in range(30):
        play.play(int(rng.integers(1, 6)))
        check_episodes(buffer, play)


def check_episodes(buffer, play):
    expected = play.episodes()
    assert buffer.lengths.tolist() == [last - first + 1 for _, first, last in expected]
    parts = [play.steps[column][first : last + 1] for column, first, last in expected]
    returns = [sum(float(step.reward) for step in part) for part in parts]
    np.testing.assert_allclose(buffer.returns, returns, rtol=1e-12, atol=1e-12)
    assert (buffer.lengths.dtype, buffer.returns.dtype) == (np.int64, np.float64)
    if not expected:
        return
    episodes = play.rng.integers(len(expected), size=5)
    chosen = (play.rng.random((5, 4)) * buffer.lengths[episodes][:, None]).astype(np.int64)
    gathered = buffer.gather(episodes, chosen)
    steps = [
        parts[episode][step] for episode, row in zip(episodes, chosen, strict=True) for step in row
    ]
    stacked = [np.stack([getattr(s, name) for s in steps]) for name in ("observation", "action")]
    np.testing.assert_array_equal(gathered.observations["state"], stacked[0])
    np.testing.assert_array_equal(gathered.actions, stacked[1])
    following = np.stack([step.next_observation for step in steps])
    np.testing.assert_array_equal(gathered.next_observations["state"], following)
    assert gathered.terminated.tolist() == [step.done and not step.truncated for step in steps]


def test_index_arrays_stay_the_same_objects_until_an_episode_comes_or_goes(
    replay_spaces, random_play
):
    buffer = make(replay_spaces, 100, 1)
    play = random_play(buffer, 0, longest=1)
    play.play(3)
    lengths = buffer.lengths
    assert buffer.lengths is lengths
    play.longest, play.left = 50, [40]
    play.play(10)
    assert buffer.lengths is lengths
    play.play(30)
    assert buffer.lengths is not lengths
    assert lengths.tolist() == [1, 1, 1]


def test_a_running_episode_that_is_abandoned_never_counts(replay_spaces, random_play):
    buffer = make(replay_spaces, 100, 1, n_steps=5)
    play = random_play(buffer, 0, longest=20)
    play.left = [10]
    play.play(6)
    buffer.abandon_episodes()
    play.play(4)  # its last four steps, as if they were an episode of their own
    assert buffer.lengths.tolist() == [4]
    assert buffer.timeouts[5] == 1
    assert not buffer.terminated[:9].any()
    empty = make(replay_spaces, 100, 1)
    empty.abandon_episodes()
    assert not empty.timeouts.any()


@pytest.mark.parametrize("handle_timeouts", [True, False])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observations", ["box", "dict"])
def test_same_seed_samples_the_same_as_sb3(
    replay_spaces, random_play, observations, n_envs, handle_timeouts
):
    options = {"n_envs": n_envs, "handle_timeout_termination": handle_timeouts, "device": "cpu"}
    space = replay_spaces[observations]
    known = {"box": ReplayBuffer, "dict": DictReplayBuffer}[observations]
    pairs = [(known(50, space, ACTIONS, **options), {})]
    if observations == "box":
        n_step = {"n_steps": 4, "gamma": 0.9}
        pairs.append((NStepReplayBuffer(50, space, ACTIONS, **options, **n_step), n_step))
    for theirs, extra in pairs:
        ours = EpisodeReplayBuffer(50, space, ACTIONS, **options, **extra)
        for buffer in (theirs, ours):
            random_play(buffer, 3, observations=observations).play(70)
        samples = []
        for buffer in (theirs, ours):
            np.random.seed(0)  # noqa: NPY002
            samples.append(buffer.sample(200))
        assert type(samples[0]) is type(samples[1])
        for name, expected in samples[0]._asdict().items():
            found = getattr(samples[1], name)
            if isinstance(expected, dict):
                assert found.keys() == expected.keys()
                assert all((found[key] == expected[key]).all() for key in expected)
            elif expected is None:
                assert found is None
            else:
                assert found.dtype == expected.dtype
                assert found.shape == expected.shape
                assert (found == expected).all(), name


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_added", [13, 55])
def test_a_state_restores_the_buffer_exactly(replay_spaces, random_play, n_envs, n_added):
    first = make(replay_spaces, 20 * n_envs, n_envs, "dict")
    play = random_play(first, 0, observations="dict")
    play.play(n_added)
    arrays, values = first.get_state()
    assert len(arrays["rewards"]) == min(n_added, 20)
    assert np.shares_memory(arrays["observations/goal"], first.observations["goal"])
    arrays = {name: array.copy() for name, array in arrays.items()}
    second = make(replay_spaces, 20 * n_envs, n_envs, "dict")
    random_play(second, 1, observations="dict").play(7)
    second.set_state(arrays, values)
    for further in (0, 30):
        for buffer in (first, second):  # both go on in the same way
            play.buffer = buffer
            state = pickle.dumps((play.rng, play.current, play.left, play.n_observed))
            play.play(further)
            if buffer is first:
                play.rng, play.current, play.left, play.n_observed = pickle.loads(state)
        expected, found = first.get_state(), second.get_state()
        assert found[1] == expected[1]
        assert found[0].keys() == expected[0].keys()
        for name, array in expected[0].items():
            np.testing.assert_array_equal(found[0][name], array, err_msg=name)
        assert (second.pos, second.full) == (first.pos, first.full)


def test_a_state_of_another_buffer_is_refused_and_changes_nothing(replay_spaces, random_play):
    buffer = make(replay_spaces, 30, 3)
    random_play(buffer, 0).play(6)
    before = pickle.dumps(buffer.get_state())
    arrays, values = buffer.get_state()
    other = make(replay_spaces, 30, 3, "dict").get_state()[0]
    cases = [
        (arrays, {**values, "n_rows": 11}, "n_rows 10, got 11"),
        (arrays, {**values, "n_envs": 1}, "n_envs 3, got 1"),
        (other, values, "do not both have"),
        ({**arrays, "rewards": arrays["rewards"][:4]}, values, r"rewards of shape \(6, 3\)"),
        ({**arrays, "actions": arrays["actions"].astype(float)}, values, "actions .* float64"),
        ({**arrays, "episodes/returns": np.zeros(99)}, values, "returns of episodes"),
    ]
    for given, numbers, message in cases:
        with pytest.raises(ValueError, match=message):
            buffer.set_state(given, numbers)
        assert pickle.dumps(buffer.get_state()) == before


def test_resetting_forgets_the_episodes(replay_spaces, random_play):
    buffer = make(replay_spaces, 30, 1)
    random_play(buffer, 0).play(40)
    assert len(buffer.lengths)
    buffer.reset()
    assert (buffer.size(), len(buffer.lengths)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimize_memory_usage": True}, "optimize_memory_usage=False, got True"),
        ({"n_steps": 0}, "n_steps >= 1"),
        ({"gamma": 1.5}, "gamma in"),
    ],
)
def test_wrong_arguments_are_refused(replay_spaces, options, message):
    with pytest.raises(ValueError, match=message):
        make(replay_spaces, 10, 1, **options)
