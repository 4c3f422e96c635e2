"""Episodes in processes: all of them, in batches, and errors that stay where they belong."""

import numpy as np
import pytest

from libero_reward_envs.evaluation.parallel import (
    EpisodeJob,
    FinishedEpisode,
    ParallelEvaluation,
)
from tests.evaluation.walking_env import Walkers, make_corridor


def run(
    agent: Walkers, jobs: list[EpisodeJob], n_envs: int
) -> dict[tuple[str, int], FinishedEpisode]:
    found: dict[tuple[str, int], FinishedEpisode] = {}

    def keep(finished: FinishedEpisode) -> None:
        assert finished.row.key not in found
        found[finished.row.key] = finished

    ParallelEvaluation(agent, make_corridor, n_envs).run(jobs, keep)
    return found


def test_every_episode_is_run_once_and_several_share_a_decision() -> None:
    agent = Walkers()
    jobs = [
        EpisodeJob(task, trial, seed=10 + trial, init_state_id=trial, options={"start": trial})
        for task in ("up", "down")
        for trial in range(4)
    ]
    found = run(agent, jobs, 3)
    assert found.keys() == {(job.task, job.trial) for job in jobs}
    for (task, trial), finished in found.items():
        result = finished.row.result
        assert (result.seed, result.init_state_id, result.error) == (10 + trial, trial, None)
        assert (result.success, result.steps) == ((True, 3) if task == "up" else (False, 5))
        assert result.env_return == float(task == "up")
        assert finished.actions.shape == (result.steps, 1)
        assert finished.actions.dtype == np.float32
    assert max(agent.batches) > 1
    assert agent.starts == {0.0, 2.0, 4.0, 6.0}  # doubled in the processes
    assert sorted(agent.begun) == sorted([("up", "walk up")] * 4 + [("down", "walk down")] * 4)


def test_errors_of_an_env_a_process_and_the_agent_end_one_episode() -> None:
    jobs = [
        EpisodeJob(task, 0, seed=0) for task in ("up", "raises", "dies", "breaks", "up2", "up3")
    ]
    found = run(Walkers(), jobs, 1)
    errors = {task: finished.row.result.error for (task, _), finished in found.items()}
    assert errors["raises"] == "FloatingPointError: no start"
    assert errors["dies"] == "ProcessEnded: the env's process ended with 3"
    assert errors["breaks"] == "ValueError: no action"
    assert [found[task, 0].row.result.success for task in ("up", "up2", "up3")] == [True] * 3
    assert found["dies", 0].row.result.success is None
    assert found["dies", 0].row.result.steps == 1


def test_nothing_but_errors_is_no_evaluation() -> None:
    jobs = [EpisodeJob("raises", trial, seed=0) for trial in range(9)]
    with pytest.raises(RuntimeError, match=r"first 5 episodes all ended in an error.*no start"):
        run(Walkers(), jobs, 2)


def test_no_env_is_refused() -> None:
    with pytest.raises(ValueError, match="`n_envs` must be at least 1"):
        ParallelEvaluation(Walkers(), make_corridor, 0)
