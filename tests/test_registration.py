"""Every id: its spec, its limits, and the conformance checkers."""

from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import libero_reward_envs
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import STEP_LIMITS

TASK_IDS = [f"{task.id}-v0" for task in libero_reward_envs.all_tasks()]
SPREAD = [
    "libero_spatial/pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet"
    "_and_place_it_on_the_plate-v0",
    "libero_goal/turn_on_the_stove-v0",
    "libero_10/KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it-v0",
    "libero_90/STUDY_SCENE4_pick_up_the_book_on_the_right_and_place_it_under_the_cabinet_shelf-v0",
]


def test_there_is_one_id_for_each_of_the_130_tasks() -> None:
    assert len(TASK_IDS) == len(set(TASK_IDS)) == 130
    assert set(TASK_IDS) <= gym.registry.keys()
    others = {"Libero-v0", "LiberoRRD-v0", "LiberoClassifier-v0", "LiberoOffline-v0"}
    assert others <= gym.registry.keys()


def test_registering_twice_changes_nothing() -> None:
    before = dict(gym.registry)
    libero_reward_envs.register_envs()
    assert gym.registry == before


@pytest.mark.parametrize(
    "env_id",
    ["Libero-v0", "LiberoRRD-v0", "LiberoClassifier-v0", "LiberoOffline-v0", *TASK_IDS],
)
def test_specs_survive_json(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert EnvSpec.from_json(spec.to_json()) == spec


def test_the_spec_of_a_made_environment_makes_it_again() -> None:
    keywords = {"suite": "libero_goal", "task": 3, "obs_type": "pixels", "cameras": ["agentview"]}
    env = gym.make("Libero-v0", **keywords)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec is not None
    assert again.spec.kwargs == keywords
    assert again.spec.max_episode_steps == 300
    assert isinstance(again.unwrapped, LiberoEnv)
    assert again.unwrapped.task == env.unwrapped.task  # pyright: ignore


@pytest.mark.parametrize(("suite", "limit"), STEP_LIMITS.items())
def test_the_step_limit_is_the_suites(suite: str, limit: int) -> None:
    by_argument = gym.make("Libero-v0", suite=suite)
    first = next(env_id for env_id in TASK_IDS if env_id.startswith(suite + "/"))
    for env in (by_argument, gym.make(first)):
        assert isinstance(env, gym.wrappers.TimeLimit)
        assert env.spec is not None
        assert env.spec.max_episode_steps == limit


@pytest.mark.parametrize("limit", [5, 900])
def test_gym_make_can_ask_for_another_limit(limit: int) -> None:
    env = gym.make("Libero-v0", max_episode_steps=limit)
    assert env.spec is not None
    assert env.spec.max_episode_steps == limit
    assert getattr(env, "_max_episode_steps") == limit  # noqa: B009


def test_recorded_episodes_have_no_limit_of_their_own() -> None:
    spec = gym.spec("LiberoOffline-v0")
    assert spec.max_episode_steps is None
    assert not spec.additional_wrappers


def test_the_time_limit_truncates() -> None:
    env = gym.make("Libero-v0", assets="builtin", max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()


def check(env_id: str, **keywords: Any) -> None:
    env = gym.make(env_id, assets="builtin", **keywords)
    check_env(env.unwrapped)
    check_env_for_sb3(env)
    env.close()


@pytest.mark.parametrize("env_id", ["Libero-v0", *SPREAD])
@pytest.mark.filterwarnings("ignore")
def test_conformance_checkers_pass(env_id: str) -> None:
    check(env_id)


@pytest.mark.parametrize("obs_type", ["pixels", "pixels_state"])
@pytest.mark.filterwarnings("ignore")
def test_conformance_checkers_pass_with_images(obs_type: str) -> None:
    check("Libero-v0", obs_type=obs_type, image_size=64, cameras=["agentview"])


@pytest.mark.slow
@pytest.mark.parametrize("env_id", TASK_IDS)
@pytest.mark.filterwarnings("ignore")
def test_conformance_checkers_pass_for_every_task(env_id: str) -> None:
    check(env_id)


def test_an_id_can_be_made_in_one_string_by_a_fresh_process(tmp_path) -> None:
    import subprocess
    import sys

    code = "import gymnasium as gym; print(gym.make('libero_reward_envs:Libero-v0').action_space)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "(7,)" in done.stdout
