"""The LIBERO benchmark's own parts: its rewards, agents and tables."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.envs.assets import AssetSet

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import libero_arms  # pyright: ignore[reportMissingImports]

    return libero_arms


def make_episode(length: int, success: bool, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        {"state": rng.normal(size=(length + 1, 3)).astype(np.float32)},
        rng.uniform(-1, 1, (length, 7)),
        np.eye(1, length, length - 1)[0] * success,
        terminated=success,
        success=success,
    )


class StepsModel:
    """Pays the number of the step."""

    observation_keys = ("state",)

    def compute_reward(self, transitions: Any) -> np.ndarray:
        assert not transitions.actions.any()
        return transitions.observations["state"][:, 0].astype(np.float32)


def test_the_clock_counts_the_steps_of_each_episode(arms: Any) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = DummyVecEnv([lambda n=n: gym.make("Pendulum-v1", max_episode_steps=n) for n in (3, 5)])
    clock = arms.ClockReward(venv, StepsModel())
    clock.reset()
    found = []
    for _ in range(7):
        _, rewards, _, infos = clock.step(np.ones((2, 1), np.float32))
        found.append(rewards.tolist())
        assert [info["reward/model"] for info in infos] == rewards.tolist()
        assert all(info["reward/env"] < 0 for info in infos)
    assert found == [[0, 0], [1, 1], [2, 2], [0, 3], [1, 4], [2, 0], [0, 1]]
    clock.close()


def test_a_clock_reward_is_fitted_to_nothing_but_time(arms: Any) -> None:
    episode = arms.leave_only_time(make_episode(4, success=True))
    assert episode.observations["state"].ravel().tolist() == [0, 1, 2, 3, 4]
    assert not episode.actions.any()
    assert episode.rewards.tolist() == [0, 0, 0, 1]
    assert (episode.success, episode.terminated) == (True, True)


def test_a_trainer_learns_from_collected_episodes_and_the_agents_own(arms: Any) -> None:
    def state(trainer: Any) -> list[np.ndarray]:
        return list(trainer.model.get_weights().values())

    own, collected = make_episode(5, success=False), make_episode(4, success=True, seed=1)
    stores = [
        arms.EpisodeStore.from_dataset(episodes, ("state",))
        for episodes in ([collected, own], [collected], [own])
    ]
    trainers = [
        arms.RRDTrainer(arms.RRDRewardModel({"state": (3,)}, 7), steps_per_episode=3)
        for _ in range(2)
    ]
    together, joined = trainers[0], arms.TrainerWithCollected(trainers[1], stores[1])
    for _ in range(3):
        assert together.train(stores[0], 2) == joined.train(stores[2], 2)
    assert joined.n_steps == 6
    for one, other in zip(state(together), state(joined), strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_of_each_batch_are_demonstrations_and_critics_are_normalised(arms: Any) -> None:
    from stable_baselines3 import SAC

    env = gym.make("Pendulum-v1")
    env = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    buffer_arguments = {"n_steps": 3, "gamma": 0.5}
    agent = SAC(
        arms.LayerNormPolicy,
        env,
        gamma=0.5,
        learning_starts=20,
        batch_size=10,
        policy_kwargs={"net_arch": [8, 8]},
        replay_buffer_class=arms.HalfDemonstrationsBuffer,
        replay_buffer_kwargs=buffer_arguments,
        seed=0,
        device="cpu",
    )
    steps = np.full((6, 3), 7.0, np.float32)
    demonstration = Episode(
        {"state": steps}, np.zeros((5, 1)), np.ones(5), terminated=True, success=True
    )
    arms.add_demonstrations(agent.replay_buffer, [demonstration], buffer_arguments)
    agent.learn(60)
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.size() == 60
    samples = agent.replay_buffer.sample(11)
    are_demonstrations = (samples.observations == 7.0).all(1)
    assert are_demonstrations.tolist() == [True] * 5 + [False] * 6
    assert set(samples.rewards[:5].ravel().tolist()) <= {1.75, 1.5, 1.0}  # 3, 2 and 1 steps left
    assert samples.discounts is not None
    for network in (*agent.critic.q_networks, *agent.critic_target.q_networks):
        kinds = [type(layer).__name__ for layer in network]  # pyright: ignore  # a Sequential
        assert kinds == ["Linear", "LayerNorm", "ReLU", "Linear", "LayerNorm", "ReLU", "Linear"]
    trained = {id(p) for group in agent.critic.optimizer.param_groups for p in group["params"]}
    wanted = [p for network in agent.critic.q_networks for p in network.parameters()]
    assert all(id(p) in trained for p in wanted)
    q_values = agent.critic(samples.observations, samples.actions)[0]
    expected = agent.critic.q_networks[0](torch.cat([samples.observations, samples.actions], 1))
    torch.testing.assert_close(q_values, expected)


def test_a_run_ends_after_two_good_evaluations_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from bench_libero import is_solved  # pyright: ignore[reportMissingImports]

    def rows(*values: float) -> list[dict[str, float]]:
        return [{"success_percent": value} for value in values]

    assert not is_solved(rows())
    assert not is_solved(rows(100))
    assert not is_solved(rows(96, 92, 100))
    assert is_solved(rows(0, 96, 100))


def test_the_tables_say_when_each_seed_reached_the_goal(tmp_path: Path) -> None:
    curves = {
        "sparse__s0": [0, 0, 92, 80],
        "sparse__s1": [0, 0, 0, 40],
        "sparse__s2": [0, 88, 100, 100],
        "rrd_frozen__s0": [96, 100],
    }
    for name, values in curves.items():
        lines = [f"{5000 * (i + 1)},{value},0.0,100,0,25,1" for i, value in enumerate(values)]
        text = "step,success_percent,success_percent_std,steps,steps_std,n,wall_s"
        (tmp_path / f"libero_90_33__{name}.csv").write_text("\n".join([text, *lines]) + "\n")
    subprocess.run(
        [sys.executable, BENCHMARKS / "bench_libero.py", "--summary", "--out", tmp_path], check=True
    )
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"sparse", "rrd_frozen"}
    assert rows["sparse"]["steps_to_goal"] == "15000 never 15000"
    assert rows["sparse"]["median_steps_to_goal"] == "15000"
    assert rows["sparse"]["mean_last_percent"] == "73.3"
    assert (rows["rrd_frozen"]["seeds"], rows["rrd_frozen"]["steps_to_goal"]) == ("1 of 3", "5000")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.official_assets
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_90", "libero_object"])
def test_every_arm_makes_an_agent_that_learns(
    arms: Any,
    suite: str,
    official_assets: AssetSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIBERO_REWARD_ENVS_ASSETS", str(official_assets.path))
    monkeypatch.setattr(arms, "COLLECTED_EPISODES", 4)
    monkeypatch.setattr(arms, "RRD_STEPS", 20)
    task = {"libero_90": 33, "libero_object": 0}[suite]
    for arm in ("sparse", "clock", "rrd_frozen", "rrd_online"):
        agent, model, trainer = arms.make_agent(arm, suite, task, 0, tmp_path, 20)
        assert (model is None) == (arm == "sparse")
        assert (trainer is not None) == (arm == "rrd_online")
        agent.learn(40)
        rewards = agent.replay_buffer.sample(50).rewards
        assert bool((rewards == 0).all()) == (arm == "sparse" and suite == "libero_90")
        assert arm == "sparse" or bool((rewards < 0).all())
        agent.get_env().close()
