import json
import subprocess
import sys
import textwrap
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import RescaleAction, TimeLimit
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

from libero_reward_envs.reward_models.rrd import RRDRewardModel
from libero_reward_envs.wrappers import LearnedReward

BOUNDS: Any = (-1.0, 1.0)  # JSON, unlike the np.floating that Gymnasium annotates


class LineEnv(gym.Env):
    """Moves along a line by the action; reaching 3 is the end and the success, and pays 1."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, observations="box"):
        box = gym.spaces.Box(-100, 100, (1,), np.float32)
        both: dict[str, gym.Space] = {
            "position": box,
            "goal": gym.spaces.Box(-100, 100, (2,), np.float32),
        }
        self.observation_space = box if observations == "box" else gym.spaces.Dict(both)
        self.position = np.zeros(1, np.float32)  # the same array every step, as some envs do it
        self.info = {}
        self.n_resets = 0

    def observe(self):
        if isinstance(self.observation_space, gym.spaces.Box):
            return self.position
        return {"position": self.position, "goal": np.full(2, 3, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_resets += 1
        self.position[0] = self.np_random.integers(-8, 8) / 8  # sums of eighths are exact
        return self.observe(), self.info

    def step(self, action):
        self.position += action
        success = bool(self.position[0] >= 3)
        self.info["is_success"] = success
        return self.observe(), float(success), success, False, self.info


class DistanceRewardModel:
    """Rewards the distance covered, so that an episode sums to last minus first position."""

    def __init__(self, key="state", end_bonus=0.0):
        self.observation_keys = (key,)
        self.end_bonus = end_bonus

    def compute_reward(self, transitions):
        key = self.observation_keys[0]
        distance = transitions.next_observations[key] - transitions.observations[key]
        return distance[:, 0] + np.float32(self.end_bonus) * transitions.terminated


class WrongRewardModel(DistanceRewardModel):
    def __init__(self, rewards):
        super().__init__()
        self.rewards = rewards

    def compute_reward(self, transitions):
        return self.rewards


@pytest.fixture
def folder(tmp_path):
    RRDRewardModel({"state": (1,)}, 1, hidden_sizes=(8,)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def forward(size=0.5):
    return np.array([size], np.float32)


def play(env, n_steps, seed=0):
    """Return the rewards and infos of steps forward, resetting as needed."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    steps = []
    for _ in range(n_steps):
        observation, *rest = env.step(rng.integers(-2, 9, 1).astype(np.float32) / 8)
        steps.append((observation.copy(), *rest))
        if rest[1] or rest[2]:
            env.reset()
    return steps


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_rewards_of_an_episode_sum_to_what_the_model_says(observations):
    key = "state" if observations == "box" else "position"
    inner = LineEnv(observations)
    env = LearnedReward(inner, DistanceRewardModel(key, end_bonus=10.0))
    observation, _ = env.reset(seed=0)
    first = float(inner.position[0])
    total, terminated, info = 0.0, False, {}
    while not terminated:
        observation, reward, terminated, truncated, info = env.step(forward())
        total += reward
        assert info["reward/total"] == info["reward/model"] == reward
        assert not truncated
    assert total == float(inner.position[0]) - first + 10
    assert info["reward/env"] == 1.0
    assert info["is_success"]
    assert env.observation_space.contains(observation)


def test_timeout_is_not_an_end():
    env = LearnedReward(TimeLimit(LineEnv(), 3), DistanceRewardModel(end_bonus=100.0))
    env.reset(seed=0)
    steps = [env.step(forward(0.125)) for _ in range(3)]
    assert steps[-1][1:4] == (0.125, False, True)


def test_model_sees_the_action_the_agent_chose_and_the_info_of_the_env_stays():
    class ActionRewardModel(DistanceRewardModel):
        def compute_reward(self, transitions):
            assert transitions.actions.shape == (1, 1)
            assert transitions.actions.dtype == np.float32
            return transitions.actions[:, 0]

    class OverwritingEnv(LineEnv):
        def step(self, action):
            action[:] = 0
            return super().step(action)

    inner = OverwritingEnv()
    env = LearnedReward(inner, ActionRewardModel())
    env.reset(seed=0)
    assert env.step(forward(0.25))[1] == 0.25
    assert inner.info == {"is_success": False}


def test_monitor_inside_logs_the_return_of_the_env():
    monitor = Monitor(TimeLimit(LineEnv(), 20))
    env = LearnedReward(monitor, DistanceRewardModel())
    play(env, 200)
    assert set(monitor.get_episode_rewards()) <= {0.0, 1.0}
    assert len(monitor.get_episode_rewards()) > 5


def test_mix_weighs_both_rewards_and_steps_cost():
    rule: Any = {"mode": "mix", "env_weight": 4.0, "model_weight": 2.0, "step_cost": 0.5}
    env = LearnedReward(LineEnv(), DistanceRewardModel(), **rule)
    for _, reward, _, _, info in play(env, 50):
        assert reward == info["reward/total"]
        assert reward == 4 * info["reward/env"] + 2 * info["reward/model"] - 0.5
    env = LearnedReward(LineEnv(), DistanceRewardModel(), step_cost=0.25)
    for _, reward, _, _, info in play(env, 50):
        assert reward == info["reward/model"] - 0.25


def test_counter_tells_a_run_whose_model_changed_nothing():
    env = LearnedReward(LineEnv(), DistanceRewardModel(), mode="mix", model_weight=0.0)
    play(env, 30)
    assert (env.reward_mix.n_rewards, env.reward_mix.n_changed) == (30, 0)
    with pytest.raises(RuntimeError, match="changed none of 30 rewards"):
        env.reward_mix.check_used()
    env = LearnedReward(LineEnv(), DistanceRewardModel())
    play(env, 30)
    assert 20 < env.reward_mix.n_changed <= 30
    env.reward_mix.check_used()


def test_making_the_wrapper_does_not_reset_and_step_asks_for_it():
    inner = LineEnv()
    env = LearnedReward(inner, DistanceRewardModel())
    assert inner.n_resets == 0
    with pytest.raises(RuntimeError, match="Call reset before step"):
        env.step(forward())


def test_wrapping_twice_is_refused():
    env = TimeLimit(LearnedReward(LineEnv(), DistanceRewardModel()), 9)
    with pytest.raises(ValueError, match="already has a learned reward"):
        LearnedReward(env, DistanceRewardModel())


@pytest.mark.parametrize(
    ("observations", "key", "message"),
    [
        ("dict", "depth", "reads 'depth', which is not among the observations: goal, position"),
        ("dict", "state", "observations: goal, position"),
        ("box", "position", "reads 'position', which is not among the observations: state"),
    ],
)
def test_missing_observation_is_reported_when_wrapping(observations, key, message):
    with pytest.raises(ValueError, match=message):
        LearnedReward(LineEnv(observations), DistanceRewardModel(key))


def test_what_cannot_be_wrapped_is_refused(tmp_path, folder):
    model = DistanceRewardModel()
    with pytest.raises(ValueError, match=r"vectors in \[-1, 1\], got .*RescaleAction"):
        LearnedReward(gym.make("Pendulum-v1"), model)
    with pytest.raises(ValueError, match=r"vectors in \[-1, 1\], got Discrete"):
        LearnedReward(gym.make("CartPole-v1"), model)
    with pytest.raises(ValueError, match=r"Unknown mode 'add'. Choose one of: replace, mix"):
        LearnedReward(LineEnv(), model, mode="add")  # pyright: ignore[reportArgumentType]  # on purpose
    with pytest.raises(ValueError, match="`step_cost` must be finite, got nan"):
        LearnedReward(LineEnv(), model, step_cost=float("nan"))
    with pytest.raises(TypeError, match=r"Expected a reward model or the path .* got function"):
        LearnedReward(LineEnv(), play)  # pyright: ignore[reportArgumentType]  # on purpose
    with pytest.raises(FileNotFoundError, match="No folder"):
        LearnedReward(LineEnv(), tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No config\.json"):
        LearnedReward(LineEnv(), tmp_path)
    with pytest.raises(ValueError, match="reads 'state', which is not among"):
        LearnedReward(LineEnv("dict"), folder)


@pytest.mark.parametrize(
    "rewards",
    [np.zeros(1), np.zeros(2, np.float32), np.full(1, np.nan, np.float32), [0.0], 0.0],
)
def test_wrong_output_names_the_model(rewards):
    env = LearnedReward(LineEnv(), WrongRewardModel(rewards))
    env.reset()
    with pytest.raises(ValueError, match="from WrongRewardModel"):
        env.step(forward())


def test_saved_model_is_loaded_when_the_env_is_first_used(folder):
    env = LearnedReward(LineEnv(), str(folder))
    RRDRewardModel({"state": (1,)}, 1, reward_offset=50.0).save_pretrained(folder)
    env.reset(seed=0)
    assert env.step(forward())[1] < -40
    assert isinstance(env.reward_model, RRDRewardModel)


def test_env_with_a_saved_model_is_described_by_json_and_made_again(folder):
    env = RescaleAction(gym.make("Pendulum-v1"), *BOUNDS)
    RRDRewardModel({"state": (3,)}, 1).save_pretrained(folder)
    env = LearnedReward(env, folder, step_cost=0.5)
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["additional_wrappers"][-1]["kwargs"]["step_cost"] == 0.5
    again = gym.make(EnvSpec.from_json(text))
    for seed in range(2):
        rewards = []
        for one in (env, again):
            one.reset(seed=seed)
            rewards.append([one.step(forward(0.3))[1] for _ in range(5)])
        assert rewards[0] == rewards[1]


def test_two_copies_with_one_seed_stay_equal_and_the_checker_of_sb3_is_content(folder):
    envs = [LearnedReward(TimeLimit(LineEnv(), 9), str(folder)) for _ in range(2)]
    for first, second in zip(*(play(env, 50) for env in envs), strict=True):
        assert first[1:] == second[1:]
    check_env(LearnedReward(CopyingLineEnv(), DistanceRewardModel()))


class CopyingLineEnv(LineEnv):
    def observe(self):
        return np.clip(self.position, -100, 100)


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_rewards_stay_within_episodes_in_every_autoreset_mode(mode):
    # A step of at most 1 covers at most 1; a reward across a reset would be more than that.
    envs = gym.vector.SyncVectorEnv(
        [lambda: LearnedReward(TimeLimit(CopyingLineEnv(), 7), DistanceRewardModel())] * 3,
        autoreset_mode=mode,
    )
    envs.reset(seed=0)
    n_ended = 0
    for _ in range(100):
        _, rewards, terminated, truncated, _ = envs.step(np.full((3, 1), 0.875, np.float32))
        # The step that only resets (next-step mode) is the vector's own, and pays 0.
        assert set(rewards.tolist()) <= {0.0, 0.875}
        n_ended += (terminated | truncated).sum()
        if mode == gym.vector.AutoresetMode.DISABLED and (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})
    assert n_ended > 20


def test_wrappers_are_imported_without_torch():
    program = textwrap.dedent("""
        import sys
        import libero_reward_envs.wrappers
        from libero_reward_envs.wrappers import LearnedReward
        assert not {"torch", "stable_baselines3", "libero"} & sys.modules.keys()
        assert dir(libero_reward_envs.wrappers) == sorted(libero_reward_envs.wrappers.__all__)
        from libero_reward_envs.wrappers import VecLearnedReward
        assert "stable_baselines3" in sys.modules
        assert not hasattr(libero_reward_envs.wrappers, "Nothing")
    """)
    subprocess.run([sys.executable, "-c", program], check=True)
