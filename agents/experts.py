"""Scripted experts: policies that solve a task from the positions in its state observation."""

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from libero_reward_envs.agents.motions import Move, ScriptRun
from libero_reward_envs.agents.recipes import RECIPES
from libero_reward_envs.envs.scene import StatePart, read_scene
from libero_reward_envs.envs.tasks import Task, all_tasks, bddl_file, find_task


class Run(Protocol):
    """What a policy does during one episode."""

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the next action, shape (7,), from the named parts of the state."""
        ...


class ScriptedPolicy:
    """A policy on the state observation that starts a new run for each episode.

    It knows what stands in the state and nothing else of the simulator. `predict` has the form of
    Stable-Baselines3's, so that its `evaluate_policy` takes a scripted policy.

    Args:
        task: The task whose state it reads.
        start_run: Makes the run of an episode.
    """

    def __init__(self, task: Task, start_run: Callable[[], Run]):
        self.task = task
        self._start_run = start_run
        self._layout = read_scene(bddl_file(task)).state_layout()
        self._state_size = self._layout[-1].start + self._layout[-1].size
        self._runs: list[Run] = []

    def reset(self) -> None:
        """Forget the episode; the next `predict` starts a new one."""
        self._runs = []

    def predict(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """Return the next action and None, which stands for SB3's recurrent state.

        Args:
            observation: The state, shape (p,) or, from n environments, (n, p); or a mapping that
                has it under "state".
            state: Not used.
            episode_start: Shape (n,), bool; where True a new episode begins.
            deterministic: Not used.

        Returns:
            The action, shape (7,) or (n, 7), float32, in [-1, 1], and None.

        Raises:
            ValueError: If there is no state in the observation, or it has another task's size.
        """
        values = self._state_values(observation)
        rows = np.atleast_2d(values)
        if len(self._runs) != len(rows):
            self._runs = [self._start_run() for _ in rows]
        elif episode_start is not None:
            for index in np.flatnonzero(episode_start):
                self._runs[index] = self._start_run()
        actions = [
            run.act(_NamedState(row, self._layout))
            for run, row in zip(self._runs, rows, strict=True)
        ]
        return np.stack(actions).reshape(*values.shape[:-1], -1), None

    def _state_values(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        if isinstance(observation, Mapping):
            if "state" not in observation:
                raise ValueError(
                    f"Expected the observation 'state', got {', '.join(observation)}. "
                    "Make the environment with `obs_type='pixels_state'` or 'state'."
                )
            observation = observation["state"]
        values = np.asarray(observation, np.float64)
        if values.ndim not in (1, 2) or values.shape[-1] != self._state_size:
            raise ValueError(
                f"Expected a state of {self._state_size} values for {self.task.id}, "
                f"got shape {values.shape}."
            )
        return values


class ScriptedExpert(ScriptedPolicy):
    """Solves a task by a script of moves.

    Args:
        task: The task.
        script: The moves; `make_expert` has those of the supported tasks.

    Example:
        >>> expert = make_expert("libero_object/pick_up_the_milk_and_place_it_in_the_basket")
        >>> action, _ = expert.predict(np.zeros(95))
        >>> action.shape
        (7,)
    """

    def __init__(self, task: Task, script: tuple[Move, ...]):
        self.script = script
        super().__init__(task, functools.partial(ScriptRun, script))


class _NamedState(Mapping[str, np.ndarray]):
    """The parts of a flat state by name, cut out when they are asked for."""

    def __init__(self, values: np.ndarray, layout: tuple[StatePart, ...]):
        self._values = values
        self._slices = _slices(layout)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[self._slices[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


@functools.lru_cache(maxsize=8)
def _slices(layout: tuple[StatePart, ...]) -> dict[str, slice]:
    return {part.name: part.slice for part in layout}


def expert_tasks() -> list[Task]:
    """Return the tasks that have an expert, in LIBERO's order."""
    return [task for task in all_tasks() if task.id in RECIPES]


def make_expert(task: Task | str) -> ScriptedExpert:
    """Return the expert of a task.

    Args:
        task: A task, its `suite/name`, or its name where only one suite has it.

    Raises:
        ValueError: If there is no such task, or no expert for it; the message lists all.
    """
    if isinstance(task, str):
        task = find_task(None, task)
    if task.id not in RECIPES:
        near = difflib.get_close_matches(task.id, RECIPES, n=1, cutoff=0.0)
        raise ValueError(
            f"There is no scripted expert for {task.id!r}; the nearest task that has one is "
            f"{near[0]!r}. All of them: {', '.join(RECIPES)}."
        )
    return ScriptedExpert(task, RECIPES[task.id].moves())
