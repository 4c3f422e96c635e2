from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from libero_reward_envs.wrappers import Encode, VecEncode, VecLearnedReward
from tests.encoders.small_encoders import ImageMeanEncoder, WordCountEncoder
from tests.wrappers.picture_env import PictureEnv


def make_envs(n=3, vec_env=DummyVecEnv, **kwargs):
    return vec_env([lambda i=i: Monitor(PictureEnv(i, **kwargs)) for i in range(n)])


def play(venv, n_steps) -> list[Any]:
    """Return what reset returned, alone in a tuple, and what each step returned."""
    venv.seed(0)
    steps = [(venv.reset(),)]
    actions = np.zeros((venv.num_envs, 2), np.float32)
    return steps + [venv.step(actions) for _ in range(n_steps)]


def spaces_of(venv: Any):
    return dict(venv.observation_space.spaces)


def mean_of(images):
    return ImageMeanEncoder().encode({"agentview_image": images})


@pytest.mark.parametrize(("n", "vec_env"), [(3, DummyVecEnv), (2, SubprocVecEnv)])
def test_features_are_those_of_the_pictures_ends_of_episodes_included(n, vec_env):
    plain = make_envs(n)
    venv = VecEncode(make_envs(n, vec_env), [ImageMeanEncoder(), WordCountEncoder()])
    n_ended = 0
    for before, after in zip(play(plain, 12), play(venv, 12), strict=True):
        assert set(after[0]) == {"mean", "words", "state"}
        np.testing.assert_array_equal(after[0]["mean"], mean_of(before[0]["agentview_image"]))
        np.testing.assert_array_equal(after[0]["state"], before[0]["state"])
        for old, new in zip(*(step[3] for step in (before, after) if len(step) > 1), strict=False):
            if "terminal_observation" not in old:
                assert "terminal_observation" not in new
                continue
            n_ended += 1
            shown, found = old["terminal_observation"], new["terminal_observation"]
            assert set(found) == {"mean", "words", "state"}
            np.testing.assert_array_equal(found["mean"], mean_of(shown["agentview_image"][None])[0])
            np.testing.assert_array_equal(found["state"], shown["state"])
    assert n_ended == sum([6, 4, 3][:n])
    venv.close()


def test_each_env_has_the_instruction_of_its_own_episode():
    envs = DummyVecEnv([lambda i=i: PictureEnv(i) for i in range(2)])
    venv = VecEncode(VecMonitor(envs), [WordCountEncoder()])
    steps = play(venv, 4)
    n_words = np.array([step[0]["words"][:, 0] for step in steps])
    assert n_words.T.tolist() == [[2, 2, 3, 3, 4], [12, 12, 12, 13, 13]]
    last = [info["terminal_observation"]["words"][0] for info in steps[2][3][:1]]
    assert last == [2]  # not that of the episode that has begun
    assert steps[3][3][1]["terminal_observation"]["words"][0] == 12


def test_all_envs_are_one_batch():
    encoder = ImageMeanEncoder()
    venv = VecEncode(make_envs(3), [encoder])
    play(venv, 3)
    assert encoder.batches == [3, 3, 3 + 1, 3 + 1]


def test_an_observation_that_was_seen_is_not_encoded_again():
    class Frozen(PictureEnv):
        def observe(self):
            self.shown = super().observe()
            self.shown["agentview_image"][:] = self.n_steps
            return self.shown

    encoder = ImageMeanEncoder()
    venv = VecEncode(DummyVecEnv([Frozen, Frozen]), [encoder])
    steps = play(venv, 6)
    assert encoder.batches == [1, 1, 1]
    assert [step[0]["mean"][0, 0] for step in steps] == [0, 1, 0, 1, 0, 1, 0]
    encoder = ImageMeanEncoder()
    play(VecEncode(DummyVecEnv([Frozen, Frozen]), [encoder], cache_bytes=0), 2)
    assert encoder.batches == [1, 1, 2]


def test_spaces_of_the_wrapped_envs_stay_and_the_constructor_does_not_reset():
    inner = make_envs(2)
    before = spaces_of(inner)
    venv = VecEncode(inner, [ImageMeanEncoder()], keep=["agentview_image"])
    assert inner.get_attr("n_episodes") == [0, 0]
    assert spaces_of(inner) == before
    assert set(spaces_of(venv)) == {"agentview_image", "mean", "state"}
    observation = play(venv, 1)[-1][0]
    assert {key: value.shape for key, value in observation.items()} == {
        "agentview_image": (2, 4, 6, 3),
        "mean": (2, 3),
        "state": (2, 2),
    }
    assert observation["mean"].dtype == np.float32
    for index in range(2):
        row = {key: value[index] for key, value in observation.items()}
        assert venv.observation_space.contains(row)


def test_infos_of_the_wrapped_envs_are_not_changed():
    class Kept(DummyVecEnv):
        def step_wait(self):
            step = super().step_wait()
            self.last_infos = step[3]
            return step

    inner = Kept([PictureEnv])
    venv = VecEncode(inner, [ImageMeanEncoder()])
    steps = play(venv, 2)
    assert set(steps[-1][3][0]["terminal_observation"]) == {"mean", "state"}
    assert "agentview_image" in inner.last_infos[0]["terminal_observation"]


def test_it_gives_what_the_wrapper_of_one_env_gives():
    encoders = [ImageMeanEncoder(), WordCountEncoder()]
    inside = DummyVecEnv([lambda i=i: Encode(PictureEnv(i), encoders) for i in range(2)])
    outside = VecEncode(make_envs(2), encoders)
    assert inside.observation_space == outside.observation_space
    for one, other in zip(play(inside, 7), play(outside, 7), strict=True):
        for key in one[0]:
            np.testing.assert_array_equal(one[0][key], other[0][key])
        if len(one) > 1:
            for old, new in zip(one[3], other[3], strict=True):
                for key, value in old.get("terminal_observation", {}).items():
                    np.testing.assert_array_equal(value, new["terminal_observation"][key])


def test_a_learned_reward_reads_features_of_the_last_observation():
    class MeanReward:
        observation_keys = ("mean",)

        def compute_reward(self, transitions):
            return transitions.next_observations["mean"][:, 0]

    plain = play(make_envs(2), 8)
    venv = VecLearnedReward(VecEncode(make_envs(2), [ImageMeanEncoder()]), MeanReward())
    for before, after in zip(plain[1:], play(venv, 8)[1:], strict=True):
        images = [
            info["terminal_observation"]["agentview_image"] if done else image
            for image, done, info in zip(before[0]["agentview_image"], *before[2:], strict=True)
        ]
        np.testing.assert_array_equal(after[1], mean_of(np.stack(images))[:, 0])


def test_an_agent_learns_on_features_that_vecnormalize_leaves_alone():
    venv = VecEncode(make_envs(2, terminates=False), [ImageMeanEncoder(factor=0.01)])
    venv = VecNormalize(venv, norm_reward=False, norm_obs_keys=["state"])
    agent = SAC("MultiInputPolicy", venv, learning_starts=10, buffer_size=100, batch_size=8, seed=0)
    agent.learn(40)
    assert agent.replay_buffer is not None
    stored = agent.replay_buffer.observations
    assert set(stored) == {"mean", "state"}
    assert 0.5 < stored["mean"][:20].min() < stored["mean"][:20].max() < 2.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="reads 'front_image', which is not among"):
        VecEncode(make_envs(1), [ImageMeanEncoder("front_image")])
    with pytest.raises(ValueError, match="'raw' for 'mean', got 'upright' of an env"):
        VecEncode(make_envs(2, orientation="upright"), [ImageMeanEncoder(orientation="raw")])
    venv = VecEncode(make_envs(2, tells=False), [WordCountEncoder()])
    with pytest.raises(ValueError, match="Expected an instruction, got none"):
        venv.reset()
