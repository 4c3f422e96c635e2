"""A reward that pays at every step makes an agent linger rather than finish; the offset stops it.

A corridor of cells 0 .. GOAL with the actions left, stay and right; reaching GOAL ends the episode.
Optimal behaviour under a reward is computed exactly, by value iteration.
"""

import numpy as np
import pytest

from libero_reward_envs.data import Episode
from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.rrd import compute_reward_offset, fit_rrd

GOAL = 10
GAMMA = 0.98
MOVES = np.array([-1, 0, 1])
CELLS = np.arange(GOAL)
NEXT_CELLS = np.clip(CELLS[:, None] + MOVES, 0, GOAL)


def solve(rewards, gamma=GAMMA):
    """Return the optimal values (GOAL,) and moves (GOAL,) under rewards (GOAL, 3)."""
    values = np.zeros(GOAL + 1)  # the goal's stays 0: the episode has ended there
    action_values = rewards
    for _ in range(5000):
        action_values = rewards + gamma * values[NEXT_CELLS]
        values[:GOAL] = action_values.max(1)
    return values[:GOAL], MOVES[action_values.argmax(1)]


def follow(moves, cell=0, n_steps=1000):
    for _ in range(n_steps):
        if cell == GOAL:
            return cell
        cell = int(np.clip(cell + moves[cell], 0, GOAL))
    return cell


def progress_rewards():
    return NEXT_CELLS / GOAL  # a classifier of progress: 1 at the goal, 0.9 beside it


def test_agent_lingers_beside_the_goal_under_a_positive_reward():
    values, moves = solve(progress_rewards())
    assert moves[GOAL - 1] == 0
    assert follow(moves) == GOAL - 1
    # 0.9 at every step for ever is worth 45 times the 1 of finishing.
    assert values[GOAL - 1] == pytest.approx(0.9 / (1 - GAMMA))


@pytest.mark.parametrize("margin", [0.25, 1.0, 3.0])
def test_agent_finishes_from_everywhere_once_every_step_costs(margin):
    rewards = progress_rewards()
    shifted = rewards - compute_reward_offset(rewards.min(), rewards.max(), margin)
    assert shifted.max() < 0
    _, moves = solve(shifted)
    assert (moves == 1).all()


def worst_rewards():
    """Every step towards the goal pays the least there is, staying in cell 0 the most."""
    rewards = np.zeros((GOAL, 3))
    rewards[0, :2] = 1.0
    return rewards


@pytest.mark.parametrize(("margin", "finishes"), [(0.0, False), (0.1, False), (0.3, True)])
def test_margin_that_finishing_in_k_steps_takes_is_the_one_documented(margin, finishes):
    # 10 steps at gamma 0.98: gamma^10 >= 1 / (1 + margin) from a margin of 0.224 on.
    assert (margin >= GAMMA**-GOAL - 1) == finishes
    rewards = worst_rewards()
    _, moves = solve(rewards - compute_reward_offset(0.0, 1.0, margin))
    assert (follow(moves) == GOAL) == finishes


@pytest.mark.parametrize("excess", [-1e-3, 1e-3])
def test_documented_margin_is_the_exact_border(excess):
    margin = GAMMA**-GOAL - 1 + excess
    _, moves = solve(worst_rewards() - compute_reward_offset(0.0, 1.0, margin))
    assert (follow(moves) == GOAL) == (excess > 0)


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match="zero or more, got -1"):
        compute_reward_offset(0.0, 1.0, -1)


def make_random_walks(n_episodes, n_steps=60, seed=0):
    """Walk at random until the goal, which returns 1, or until the time is out, which returns 0."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(n_episodes):
        cells, actions = [int(rng.integers(GOAL))], []
        while len(actions) < n_steps and cells[-1] < GOAL:
            actions.append(rng.uniform(-1, 1))
            cells.append(int(np.clip(cells[-1] + np.round(1.5 * actions[-1]), 0, GOAL)))
        success = cells[-1] == GOAL
        rewards = np.zeros(len(actions))
        rewards[-1] = success
        states = np.array(cells, np.float32)[:, None] / GOAL
        episodes.append(
            Episode({"state": states}, np.array(actions)[:, None], rewards, success, success)
        )
    return episodes


def tabulate(model):
    states, actions = np.meshgrid(CELLS, MOVES, indexing="ij")
    rewards = model.compute_reward(
        Transitions(
            {"state": states.reshape(-1, 1).astype(np.float32) / GOAL},
            actions.reshape(-1, 1).astype(np.float32),
            {"state": NEXT_CELLS.reshape(-1, 1).astype(np.float32) / GOAL},
            (NEXT_CELLS == GOAL).ravel(),
        )
    )
    return rewards.reshape(GOAL, 3)


def test_agent_of_a_fitted_reward_lingers_without_the_offset_and_finishes_with_it():
    walks = make_random_walks(200)
    assert 0.2 < np.mean([walk.success for walk in walks]) < 0.9
    plain = fit_rrd(walks, n_steps=800, offset_margin=None)
    shifted = fit_rrd(walks, n_steps=800)
    _, moves = solve(tabulate(plain))
    assert follow(moves) < GOAL
    _, moves = solve(tabulate(shifted))
    assert follow(moves) == GOAL
