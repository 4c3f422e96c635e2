import numpy as np
import pytest

from libero_reward_envs.agents.experts import expert_tasks, make_expert
from libero_reward_envs.agents.failures import FAILURE_KINDS, failure_kinds, make_failing

MILK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
STOVE = "libero_goal/turn_on_the_stove"


def run_episodes(env, policy, n_episodes):
    """Success of each episode, and its states, (T + 1, p)."""
    results = []
    for episode in range(n_episodes):
        observation, info = env.reset(seed=episode)
        policy.reset()
        states = [observation]
        for _ in range(policy.task.max_episode_steps):
            action, _ = policy.predict(observation)
            assert env.action_space.contains(action)
            observation, _, terminated, _, info = env.step(action)
            states.append(observation)
            if terminated:
                break
        results.append((info["is_success"], np.stack(states)))
    return results


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_a_failing_policy_fails_each_time_in_another_way(make_env, kind):
    env = make_env(task=MILK.split("/")[1])
    policy = make_failing(make_expert(MILK), kind, np.random.default_rng(0))
    results = run_episodes(env, policy, 2)
    assert sum(success for success, _ in results) == 0
    ends = [states[-1][:3] for _, states in results]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_the_wrong_object_is_the_one_that_moves(make_env):
    env = make_env(task=MILK.split("/")[1])
    layout = {part.name: part.slice for part in env.state_layout}
    policy = make_failing(make_expert(MILK), "wrong_object", np.random.default_rng(0))
    ((success, states),) = run_episodes(env, policy, 1)
    objects = [name for name in layout if name.endswith("_1_pos")]
    moved = {name: np.ptp(states[:, layout[name]], axis=0).max() for name in objects}
    assert not success
    assert moved["milk_1_pos"] < 0.02
    assert max(moved.values()) > 0.15


def test_an_object_released_early_was_lifted_first(make_env):
    env = make_env(task=MILK.split("/")[1])
    layout = {part.name: part.slice for part in env.state_layout}
    policy = make_failing(make_expert(MILK), "early_release", np.random.default_rng(1))
    ((success, states),) = run_episodes(env, policy, 1)
    height = states[:, layout["milk_1_pos"]][:, 2]
    assert not success
    assert height.max() > height[0] + 0.02
    assert height[-1] < height[0] + 0.01


def test_stopping_short_ends_without_movement(make_env):
    env = make_env(task=MILK.split("/")[1])
    policy = make_failing(make_expert(MILK), "stop_short", np.random.default_rng(0))
    ((_, states),) = run_episodes(env, policy, 1)
    layout = {part.name: part.slice for part in env.state_layout}
    gripper = states[:, layout["robot0_eef_pos"]]
    assert np.ptp(gripper, axis=0).max() > 0.02
    assert np.ptp(gripper[-50:], axis=0).max() < 0.002


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_the_generator_decides_everything(kind):
    expert = make_expert(MILK)
    state = np.random.default_rng(5).normal(size=95)

    def actions(seed):
        policy = make_failing(expert, kind, np.random.default_rng(seed))
        episodes = []
        for _ in range(8):
            policy.reset()
            episodes.append([policy.predict(state)[0] for _ in range(10)])
        return np.array(episodes)

    np.random.seed(0)  # noqa: NPY002  the global generator must not matter
    first = actions(0)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(first, actions(0))
    if kind in ("noise", "random", "wrong_object"):  # the others differ only later
        assert not np.array_equal(first, actions(1))


def test_a_task_offers_only_the_failures_that_it_can_have():
    assert failure_kinds(make_expert(MILK)) == FAILURE_KINDS
    assert failure_kinds(make_expert(STOVE)) == ("noise", "stop_short", "random")
    assert all(len(failure_kinds(make_expert(task))) >= 3 for task in expert_tasks())
    with pytest.raises(ValueError, match=r"no failure 'wrong_object' for 'libero_goal/turn_on"):
        make_failing(make_expert(STOVE), "wrong_object", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"Unknown failure 'sloth'\. Choose one of: noise,"):
        make_failing(make_expert(STOVE), "sloth", np.random.default_rng(0))
