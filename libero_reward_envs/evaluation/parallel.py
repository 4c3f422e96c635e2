"""Episodes of one agent in several environments at once, each ended and begun by itself."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from libero_reward_envs.evaluation.env_workers import (
    EnvWorker,
    MakeEnv,
    Prepare,
    Stepped,
    wait_for,
)
from libero_reward_envs.evaluation.episode_rows import EpisodeRow
from libero_reward_envs.evaluation.success import EpisodeResult

# Share of the time of a decision that the agent waits for further envs, once one asks: with a
# model on a GPU, one decision for all is cheaper than two for some.
_PATIENCE = 0.5
# As many errors from the beginning on, and nothing else, are no bad luck.
_ERRORS_AT_START = 5


class BatchAgent(Protocol):
    """What acts in several environments, each known by a number that stays the same."""

    @property
    def prepare(self) -> Prepare | None:
        """What the processes of the environments make of an observation; picklable."""
        ...

    def begin(self, row: int, task: str, instruction: str | None) -> None:
        """Heed that an episode of a task begins in an environment."""
        ...

    def act(self, rows: Sequence[int], prepared: Sequence[Any]) -> np.ndarray:
        """Return actions, (k, a), for k environments that have just been seen."""
        ...


@dataclasses.dataclass(frozen=True)
class EpisodeJob:
    """An episode that is to be run.

    Args:
        task: Its task.
        trial: Its number among those of the task.
        seed: What the env is reset with.
        init_state_id: The stored initial state that `options` say, None for none.
        options: Of the env's reset.
        instruction: What the agent is told, where the env does not say it.
    """

    task: str
    trial: int
    seed: int
    init_state_id: int | None = None
    options: dict[str, Any] | None = None
    instruction: str | None = None


@dataclasses.dataclass(frozen=True)
class FinishedEpisode:
    """An episode that was run.

    Args:
        row: What became of it.
        actions: What the agent did, (T, a) float32.
    """

    row: EpisodeRow
    actions: np.ndarray


class ParallelEvaluation:
    """Runs episodes in n processes, and asks the agent for all that need an action at once.

    While the agent decides, the other environments step. Each environment takes the next job when
    its episode is over.

    Args:
        agent: What acts.
        make_env: Makes the env of a task; picklable.
        n_envs: Processes.

    Raises:
        ValueError: If `n_envs` is not positive.
    """

    def __init__(self, agent: BatchAgent, make_env: MakeEnv, n_envs: int) -> None:
        if n_envs < 1:
            raise ValueError(f"`n_envs` must be at least 1, got {n_envs}.")
        self._agent = agent
        self._make_env = make_env
        self._n_envs = n_envs
        self._decision_s = 0.0
        self._n_errors = self._n_finished = 0

    def run(
        self, jobs: Iterable[EpisodeJob], on_episode: Callable[[FinishedEpisode], object]
    ) -> None:
        """Run all jobs.

        Args:
            jobs: The episodes.
            on_episode: Called with each as it ends, in no particular order.

        Raises:
            MemoryError: If the agent has no room for so many environments.
            RuntimeError: If nothing but errors came of the first episodes.
        """
        self._queue = deque(jobs)
        self._on_episode = on_episode
        slots = [
            _Slot(row, EnvWorker(self._make_env, self._agent.prepare))
            for row in range(min(self._n_envs, len(self._queue)))
        ]
        try:
            for slot in slots:
                slot.begin(self._queue.popleft())
            while working := [slot for slot in slots if slot.job is not None]:
                self._listen(working)
                if asking := [slot for slot in working if slot.is_asking]:
                    self._decide(asking)
        except BaseException:
            for slot in slots:
                slot.worker.terminate()
            raise
        for slot in slots:
            slot.worker.close()

    def _listen(self, working: Sequence["_Slot"]) -> None:
        """Hear the envs that step; once one asks, wait only a moment for the others."""
        stepping = {slot.worker: slot for slot in working if not slot.is_asking}
        deadline: float | None = None
        while stepping:
            if deadline is None and any(slot.is_asking for slot in working):
                deadline = time.perf_counter() + _PATIENCE * self._decision_s
            timeout_s = None if deadline is None else max(0.0, deadline - time.perf_counter())
            ready = wait_for(stepping, timeout_s)
            if not ready:
                return
            for worker in ready:
                # One whose next episode begins now is heard of later: resets take long.
                slot = stepping.pop(worker)
                if (finished := slot.hear(worker.receive(), self._agent)) is not None:
                    self._finish(slot, finished)

    def _decide(self, asking: Sequence["_Slot"]) -> None:
        start = time.perf_counter()
        try:
            actions = self._agent.act(
                [slot.row for slot in asking], [slot.prepared for slot in asking]
            )
        except MemoryError:
            raise
        except Exception as error:  # of the agent; other episodes may still go well
            for slot in asking:
                self._finish(slot, slot.finish(f"{type(error).__name__}: {error}"))
            return
        self._decision_s = time.perf_counter() - start
        for slot, action in zip(asking, actions, strict=True):
            slot.step(np.asarray(action))

    def _finish(self, slot: "_Slot", finished: FinishedEpisode) -> None:
        error = finished.row.result.error
        self._n_finished += 1
        self._n_errors += error is not None
        self._on_episode(finished)
        if self._n_errors == self._n_finished == _ERRORS_AT_START:
            raise RuntimeError(
                f"The first {_ERRORS_AT_START} episodes all ended in an error, the last one: "
                f"{error}"
            )
        if self._queue:
            slot.begin(self._queue.popleft())


class _Slot:
    """One environment, the episode in it, and whether it asks for an action."""

    def __init__(self, row: int, worker: EnvWorker) -> None:
        self.row, self.worker = row, worker
        self.job: EpisodeJob | None = None
        self.prepared: Any = None
        self.is_asking = False

    def begin(self, job: EpisodeJob) -> None:
        self.job, self.is_asking = job, False
        self._is_begun, self._success = False, False
        self._actions: list[np.ndarray] = []
        self._env_return, self._model_return = 0.0, None
        self._assets: str | None = None
        self._start = time.perf_counter()
        self.worker.reset(job.task, job.seed, job.options)

    def step(self, action: np.ndarray) -> None:
        self._actions.append(action.astype(np.float32))
        self.is_asking = False
        self.worker.step(action)

    def hear(self, said: Stepped, agent: BatchAgent) -> FinishedEpisode | None:
        """Take what the env says; return the episode if it is over."""
        assert self.job is not None
        if said.error is not None:
            return self.finish(said.error)
        if not self._is_begun:
            self._is_begun = True
            self._assets = said.info.get("assets")
            agent.begin(self.row, self.job.task, said.info.get("instruction", self.job.instruction))
        else:
            self._count(said)
        if said.is_over:
            return self.finish()
        self.prepared, self.is_asking = said.prepared, True
        return None

    def finish(self, error: str | None = None) -> FinishedEpisode:
        job = self.job
        assert job is not None
        result = EpisodeResult(
            init_state_id=job.init_state_id,
            seed=job.seed,
            steps=len(self._actions),
            success=self._success if error is None else None,
            env_return=self._env_return,
            model_return=self._model_return,
            error=error,
            assets=self._assets,
        )
        seconds = round(time.perf_counter() - self._start, 3)
        self.job, self.is_asking, self.prepared = None, False, None
        actions = np.stack(self._actions) if self._actions else np.zeros((0, 0), np.float32)
        return FinishedEpisode(EpisodeRow(job.task, job.trial, result, seconds), actions)

    def _count(self, said: Stepped) -> None:
        self._env_return += float(said.info.get("reward/env", said.reward))
        if "reward/model" in said.info:
            self._model_return = (self._model_return or 0.0) + float(said.info["reward/model"])
        self._success = self._success or bool(said.info.get("is_success", False))
