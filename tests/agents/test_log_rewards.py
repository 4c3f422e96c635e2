"""True and learned rewards in the logs, apart, and the complaint about a model that did nothing."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from libero_reward_envs.agents import LogRewards
from libero_reward_envs.agents.log_rewards import COLUMNS, read_rewards, summarize_rewards
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.wrappers import LearnedReward, VecLearnedReward


class Countdown(gym.Env[np.ndarray, np.ndarray]):
    """Says 1 to n; step n ends the episode, with reward 1 and success in odd episodes."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps
        self.n_episodes = 0

    def reset(self, *, seed=None, options=None):  # pyright: ignore
        super().reset(seed=seed)
        self.step_number = 0
        self.n_episodes += 1
        return np.zeros(1, np.float32), {}

    def step(self, action):  # pyright: ignore
        self.step_number += 1
        is_over = self.step_number == self.n_steps
        success = is_over and self.n_episodes % 2 == 1
        observation = np.array([self.step_number], np.float32)
        return observation, float(success), is_over, False, {"is_success": success}


class Pays:
    """Pays the same at each step, or only where the observation is `at`."""

    observation_keys = ("state",)

    def __init__(self, reward: float, at: int | None = None) -> None:
        self.reward, self.at = np.float32(reward), at

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        numbers = transitions.next_observations["state"][:, 0]
        chosen = np.ones(len(numbers), bool) if self.at is None else numbers == self.at
        return self.reward * chosen.astype(np.float32)


class Seen(KVWriter):
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values, key_excluded, step=0) -> None:  # pyright: ignore
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


class MakeEnv:
    """Can be sent to another process."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def __call__(self) -> gym.Env:
        return Monitor(Countdown(self.n_steps))


def make_agent(venv, algorithm: type = PPO, **changes: Any) -> tuple[Any, Seen]:
    arguments: dict[str, Any] = {"n_steps": 15, "batch_size": 30, "n_epochs": 1}
    if algorithm is SAC:
        arguments = {"learning_starts": 25, "buffer_size": 99, "policy_kwargs": {"net_arch": [8]}}
    agent = algorithm("MlpPolicy", venv, seed=0, device="cpu", **{**arguments, **changes})
    seen = Seen()
    agent.set_logger(Logger(None, [seen]))
    return agent, seen


@pytest.mark.parametrize("vector", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_sums_of_episodes_are_logged_apart(algorithm, vector, tmp_path: Path) -> None:
    venv = VecLearnedReward(vector([MakeEnv(3), MakeEnv(5)]), Pays(2), mode="mix", step_cost=0.5)
    agent, seen = make_agent(venv, algorithm)
    callback = LogRewards(tmp_path / "rewards.csv")
    agent.learn(30, callback=callback)
    rows = read_rewards(tmp_path / "rewards.csv")
    assert sorted(rows["length"]) == [3] * 5 + [5] * 3
    np.testing.assert_array_equal(rows["model_return"], 2 * rows["length"])
    np.testing.assert_array_equal(rows["env_return"], rows["success"])
    np.testing.assert_array_equal(
        rows["total_return"], rows["env_return"] + 1.5 * rows["length"]
    )  # fmt: skip
    np.testing.assert_array_equal(rows["changed_steps"], rows["length"])
    assert callback.n_changed == 30
    logged = {k: v for row in seen.rows for k, v in row.items() if k.startswith("reward/")}
    last = {f"reward/{k}": v for k, v in summarize_rewards(to_rows(rows)).items()}
    if algorithm is PPO:
        assert logged == pytest.approx(last)
        assert logged["reward/env"] == 5 / 8
        assert logged["reward/model"] == pytest.approx(2 * 30 / 8)
    assert logged.keys() == {f"reward/{k}" for k in ("env", "model", "total", "changed_share")}
    venv.close()


def to_rows(columns: dict[str, np.ndarray]) -> list[dict[str, float]]:
    table = zip(*columns.values(), strict=True)
    return [dict(zip(columns, map(float, row), strict=True)) for row in table]


def test_seen_success_is_held_against_true_success(tmp_path: Path) -> None:
    """At step 2 of episodes of 3 and 1: the first always seen, though only odd ones are solved."""
    envs = DummyVecEnv([MakeEnv(3), MakeEnv(1)])
    venv = VecLearnedReward(envs, Pays(1, at=2), mode="success", success_window=(1, 1))
    agent, seen = make_agent(venv, n_steps=12, batch_size=24)
    agent.learn(24, callback=LogRewards(tmp_path / "rewards.csv"))
    rows = read_rewards(tmp_path / "rewards.csv")
    assert rows["predicted_success"].tolist() == (rows["env"] == 0).tolist()
    # Of env 0 two episodes solved and two not, all seen; of env 1 six and six, none seen.
    assert seen.rows[-1]["reward/false_success_rate"] == pytest.approx(2 / 8)
    assert seen.rows[-1]["reward/missed_success_rate"] == pytest.approx(6 / 8)
    assert seen.rows[-1]["reward/changed_share"] == pytest.approx((4 + 2 + 6) / 24)


def test_a_rollout_without_the_end_of_an_episode_logs_the_window_again() -> None:
    agent, seen = make_agent(
        VecLearnedReward(DummyVecEnv([MakeEnv(6)]), Pays(2)), n_steps=4, batch_size=4
    )
    agent.learn(12, callback=LogRewards())
    assert [row.get("reward/model") for row in seen.rows] == [None, 12.0, 12.0]


def test_the_window_is_sb3s() -> None:
    venv = VecLearnedReward(DummyVecEnv([MakeEnv(1)]), Pays(2))
    agent, seen = make_agent(venv, n_steps=10, batch_size=10, stats_window_size=1)
    agent.learn(10, callback=LogRewards())
    assert seen.rows[-1]["reward/env"] == 0  # of the tenth episode alone


def test_without_a_learned_reward_the_envs_own_is_logged_and_nothing_is_wrong() -> None:
    agent, seen = make_agent(DummyVecEnv([MakeEnv(3)]), batch_size=15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(15, callback=LogRewards(if_unused="raise"))
    row = seen.rows[-1]
    assert (row["reward/env"], row["reward/total"]) == (3 / 5, 3 / 5)
    assert row["reward/changed_share"] == 0
    assert "reward/model" not in row


def wrap_inside(pays: float, vector: type = DummyVecEnv) -> Any:
    return vector([InsideMaker(pays), InsideMaker(pays)])


class InsideMaker:
    def __init__(self, pays: float) -> None:
        self.pays = pays

    def __call__(self) -> gym.Env:
        return LearnedReward(Monitor(TimeLimit(Countdown(9), 4)), Pays(self.pays))


def wrap_outside(pays: float, vector: type = DummyVecEnv) -> Any:
    maker = TimeLimitMaker()
    return VecNormalize(VecLearnedReward(vector([maker, maker]), Pays(pays)), norm_reward=False)


class TimeLimitMaker:
    def __call__(self) -> gym.Env:
        return Monitor(TimeLimit(Countdown(9), 4))


@pytest.mark.parametrize(
    ("wrap", "vector"),
    [(wrap_inside, DummyVecEnv), (wrap_inside, SubprocVecEnv), (wrap_outside, DummyVecEnv)],
)
def test_a_model_that_never_changed_a_reward_is_complained_of(wrap, vector) -> None:
    """The env never pays, as its time is too short, and the model pays nothing either."""
    venv = wrap(0.0, vector)
    agent, _ = make_agent(venv)
    with pytest.raises(RuntimeError, match="changed none of"):
        agent.learn(30, callback=LogRewards(if_unused="raise"))
    with pytest.warns(UserWarning, match="changed none of"):
        agent.learn(30, callback=LogRewards())
    ignoring = LogRewards(if_unused="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(30, callback=ignoring)
    with pytest.raises(RuntimeError, match="changed none"):
        ignoring.check_used()
    venv.close()


@pytest.mark.parametrize("wrap", [wrap_inside, wrap_outside])
def test_one_changed_reward_is_enough(wrap) -> None:
    agent, _ = make_agent(wrap(1.0))
    agent.learn(30, callback=LogRewards(if_unused="raise"))


def test_going_on_keeps_the_lines_before_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "rewards.csv"
    for done, pays in ((0, 2), (8, 0)):
        venv = VecLearnedReward(DummyVecEnv([TimeLimitMaker()]), Pays(pays))
        agent, _ = make_agent(venv, n_steps=8, batch_size=8)
        agent.num_timesteps = done
        callback = LogRewards(path, if_unused="raise")
        # The second agent goes on from 8 of 16 steps, and its model no longer changes anything.
        agent.learn(16 - done, callback=callback, reset_num_timesteps=done == 0)
    rows = read_rewards(path)
    assert rows["step"].tolist() == [4, 8, 12, 16]
    assert rows["model_return"].tolist() == [8, 8, 0, 0]
    assert callback.n_changed == 8


def test_a_line_that_a_kill_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rewards.csv"
    path.write_text(",".join(COLUMNS) + "\n3,0,3,1,,1,0,1,\n6,0,3,")
    rows = read_rewards(path)
    assert rows["step"].tolist() == [3]
    assert np.isnan(rows["model_return"][0])


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`if_unused` must be 'warn', 'raise' or 'ignore'"):
        LogRewards(if_unused="shout")  # pyright: ignore[reportArgumentType]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="Expected the columns step, env"):
        read_rewards(tmp_path / "other.csv")
