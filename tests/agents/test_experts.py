import subprocess
import sys

import numpy as np
import pytest

from libero_reward_envs.agents.experts import ScriptedExpert, expert_tasks, make_expert
from libero_reward_envs.agents.motions import CLOSED, OPEN, START, Move, ScriptRun
from libero_reward_envs.envs.tasks import find_task

MILK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
# One of each way of moving: grocery into a basket, bowl by its rim, drawer pulled, knob, door.
SAMPLE = (
    MILK,
    "libero_spatial/pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate",
    "libero_goal/open_the_middle_drawer_of_the_cabinet",
    "libero_goal/turn_on_the_stove",
    "libero_90/KITCHEN_SCENE6_close_the_microwave",
)


def solves(env, expert, init_state_id):
    observation, _ = env.reset(seed=init_state_id, options={"init_state_id": init_state_id})
    expert.reset()
    for _ in range(expert.task.max_episode_steps):
        action, _ = expert.predict(observation)
        assert env.action_space.contains(action)
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            return True
    return False


def count_solved(make_env, task_id, states):
    expert = make_expert(task_id)
    env = make_env(expert.task.suite, expert.task.name)
    return sum(solves(env, expert, state) for state in states)


def test_all_tasks_that_must_have_an_expert_have_one():
    suites = [task.suite for task in expert_tasks()]
    assert suites.count("libero_object") == 10
    assert suites.count("libero_spatial") >= 5
    assert suites.count("libero_goal") >= 5


@pytest.mark.parametrize("task_id", SAMPLE)
def test_an_expert_solves_its_task(make_env, task_id):
    assert count_solved(make_env, task_id, [0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task_id", [task.id for task in expert_tasks()])
def test_every_expert_solves_nine_of_ten_initial_states(make_env, task_id):
    assert count_solved(make_env, task_id, range(10)) >= 9


def test_an_expert_acts_on_the_state_in_a_dict_as_on_the_state_alone(make_env):
    env = make_env(task=MILK.split("/")[1])
    state, _ = env.reset(seed=0)
    alone, _ = make_expert(MILK).predict(state)
    in_dict, _ = make_expert(MILK).predict({"state": state})
    np.testing.assert_array_equal(alone, in_dict)
    assert np.abs(alone[:3]).max() > 0.5


def test_an_expert_acts_for_several_environments_and_restarts_those_that_begin(make_env):
    env = make_env(task=MILK.split("/")[1])
    first, _ = env.reset(seed=0)
    expert, single = make_expert(MILK), make_expert(MILK)
    later = first
    for _ in range(40):  # far enough that the gripper is closed
        action, _ = single.predict(later)
        expert.predict(np.stack([later, later]))
        later, *_ = env.step(action)
    batch = np.stack([later, first])
    actions, state = expert.predict(batch, episode_start=np.array([False, True]))
    assert state is None
    assert actions.shape == (2, 7)
    assert actions[0, 6] == CLOSED
    assert actions[1, 6] == OPEN
    np.testing.assert_array_equal(actions[1], make_expert(MILK).predict(first)[0])


def test_reset_forgets_the_episode(make_env):
    env = make_env(task=MILK.split("/")[1])
    first, _ = env.reset(seed=0)
    expert = make_expert(MILK)
    observation = first
    expected, _ = expert.predict(first)
    for _ in range(40):
        observation, *_ = env.step(expert.predict(observation)[0])
    assert expert.predict(observation)[0][6] == CLOSED
    expert.reset()
    np.testing.assert_array_equal(expert.predict(first)[0], expected)


def test_stable_baselines_evaluates_an_expert(make_env):
    from gymnasium.wrappers import TimeLimit
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = Monitor(TimeLimit(make_env(task=MILK.split("/")[1]), 280))
    expert = make_expert(MILK)
    mean, _ = evaluate_policy(expert, DummyVecEnv([lambda: env]), n_eval_episodes=2)  # pyright: ignore
    assert mean == 1.0  # the second episode, too: it began a new run


def test_an_expert_knows_only_the_state():
    # Nothing but numbers: without the simulator the same observation gives the same action.
    code = (
        "import sys, numpy as np\n"
        "from libero_reward_envs.agents.experts import make_expert\n"
        f"expert = make_expert({MILK!r})\n"
        "action, _ = expert.predict(np.zeros(95))\n"
        "assert not {'torch', 'mujoco', 'robosuite', 'libero'} & sys.modules.keys()\n"
        "print(action.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(7,)"


def test_a_task_without_an_expert_is_refused_with_those_that_have_one():
    with pytest.raises(
        ValueError, match=r"no scripted expert for 'libero_10/.*close_the_microwave"
    ):
        make_expert(find_task("libero_10", 9))
    with pytest.raises(ValueError, match="pick_up_the_milk_and_place_it_in_the_basket"):
        make_expert("pick_up_the_milc_and_place_it_in_the_basket")


def test_a_state_of_another_task_is_refused():
    with pytest.raises(ValueError, match=r"95 values .*milk.*got shape \(94,\)"):
        make_expert(MILK).predict(np.zeros(94))
    with pytest.raises(ValueError, match="'state', got agentview_image"):
        make_expert(MILK).predict({"agentview_image": np.zeros((2, 2, 3), np.uint8)})


def state_at(position, held=(0.0, 0.0, 0.0)):
    return {
        "robot0_eef_pos": np.array(position, float),
        "robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),
        "cup_pos": np.array(held, float),
    }


def test_a_move_goes_to_its_goal_and_the_next_begins_there():
    run = ScriptRun([Move("up", START, (0.0, 0.0, 0.1)), Move("over", "cup", (0.3, 0.0, 0.0))])
    np.testing.assert_allclose(run.act(state_at((0, 0, 0))), [0, 0, 1, 0, 0, 0, OPEN])
    np.testing.assert_allclose(
        run.act(state_at((0, 0, 0.08))), [0, 0, 0.4, 0, 0, 0, OPEN], atol=1e-6
    )
    np.testing.assert_allclose(run.act(state_at((0, 0, 0.1)))[:3], [1, 0, -1])
    assert run.move is not None
    assert run.move.name == "over"


def test_a_turn_is_about_the_worlds_axes():
    turn = Move("turn", START, rotation_rad=(0.0, 0.0, 0.25))
    np.testing.assert_allclose(
        ScriptRun([turn]).act(state_at((0, 0, 0)))[3:6], [0, 0, 0.5], atol=1e-6
    )


def test_a_run_starts_over_when_the_object_was_not_taken():
    script = [
        Move("reach", "cup"),
        Move("lift", START, (0.0, 0.0, 0.2), gripper=CLOSED, max_steps=1, holds="cup"),
        Move("carry", START, gripper=CLOSED),
    ]
    run = ScriptRun(script)
    run.act(state_at((0, 0, 0)))
    assert run.index == 1
    run.act(state_at((0, 0, 0.2)))  # the cup stayed below
    assert run.index == 0


def test_a_script_that_is_over_stays_where_it_is():
    run = ScriptRun([Move("grip", START, gripper=CLOSED)])
    for _ in range(3):
        np.testing.assert_array_equal(run.act(state_at((0, 0, 0))), [0, 0, 0, 0, 0, 0, CLOSED])
    assert run.move is None


def test_an_expert_can_be_given_a_script():
    expert = ScriptedExpert(find_task(task=MILK), (Move("up", START, (0.0, 0.0, 0.1)),))
    assert expert.predict(np.zeros(95))[0][2] == 1.0
