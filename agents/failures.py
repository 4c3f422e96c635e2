"""Makes failures out of an expert: episodes that go wrong in the ways that agents go wrong."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from libero_reward_envs.agents.experts import Run, ScriptedExpert, ScriptedPolicy
from libero_reward_envs.agents.motions import OPEN, START, Move, ScriptRun
from libero_reward_envs.agents.recipes import other_scripts

FAILURE_KINDS = ("noise", "wrong_object", "early_release", "stop_short", "random")

# How far the noisy expert misjudges where things are: the fingers must hit what they are to carry,
# but a drawer, door or knob is large and moves when it is pushed anywhere.
_CARRYING_DRIFT_M, _PUSHING_DRIFT_M = (0.05, 0.1), (0.15, 0.3)
_JITTER = 0.3  # standard deviation of the noise on its actions
_RANDOM_PERSISTENCE = 0.8  # share of the last action in the next one: the arm wanders, not trembles


class FailingPolicy(ScriptedPolicy):
    """A policy that (mostly) fails, each episode in another way of its kind.

    Args:
        expert: The expert whose task it fails.
        kind: One of `FAILURE_KINDS`.
        start_run: Makes the run of an episode.
    """

    def __init__(self, expert: ScriptedExpert, kind: str, start_run: Callable[[], Run]):
        self.kind = kind
        super().__init__(expert.task, start_run)


def failure_kinds(expert: ScriptedExpert) -> tuple[str, ...]:
    """Return the kinds of failure that there are for the expert's task.

    A task with nothing else to take has no "wrong_object", and one in which nothing is carried has
    no "early_release".
    """
    makers = _makers(expert, np.random.default_rng(0))
    return tuple(kind for kind in FAILURE_KINDS if kind in makers)


def make_failing(expert: ScriptedExpert, kind: str, rng: np.random.Generator) -> FailingPolicy:
    """Return a policy that fails the expert's task.

    Whether an episode really failed is for the environment to tell: an object that is let go early
    may still fall where it belongs.

    Args:
        expert: The expert; it is not changed.
        kind: "noise" misjudges positions and trembles. "wrong_object" does the task with another
            object. "early_release" opens the gripper while it carries. "stop_short" stops for good
            on the way. "random" wanders without aim.
        rng: Draws what differs between the episodes.

    Raises:
        ValueError: For an unknown kind, or one that the task does not have.
    """
    if kind not in FAILURE_KINDS:
        raise ValueError(f"Unknown failure {kind!r}. Choose one of: {', '.join(FAILURE_KINDS)}.")
    makers = _makers(expert, rng)
    if kind not in makers:
        raise ValueError(
            f"There is no failure {kind!r} for {expert.task.id!r}. It has: {', '.join(makers)}."
        )
    return FailingPolicy(expert, kind, makers[kind])


def _makers(expert: ScriptedExpert, rng: np.random.Generator) -> dict[str, Callable[[], Run]]:
    script = expert.script
    makers: dict[str, Callable[[], Run]] = {
        "noise": lambda: _NoisyRun(script, rng),
        "stop_short": lambda: _StoppingRun(script, rng),
        "random": lambda: _RandomRun(rng),
    }
    if others := other_scripts(expert.task):
        makers["wrong_object"] = lambda: ScriptRun(others[rng.integers(len(others))])
    if _carries(script):
        makers["early_release"] = lambda: ScriptRun(_let_go_early(script, rng))
    return makers


class _NoisyRun:
    """The expert with a wrong idea of where things are, and trembling."""

    def __init__(self, script: tuple[Move, ...], rng: np.random.Generator):
        drift_range_m = _CARRYING_DRIFT_M if _carries(script) else _PUSHING_DRIFT_M
        angle_rad, length_m = rng.uniform(0, 2 * np.pi), rng.uniform(*drift_range_m)
        drift = length_m * np.array([np.cos(angle_rad), np.sin(angle_rad), 0.0])
        self._run = ScriptRun([_displaced(move, drift) for move in script])
        self._rng = rng

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        action = self._run.act(state)
        action[:6] += self._rng.normal(0.0, _JITTER, 6).astype(np.float32)
        return np.clip(action, -1.0, 1.0)


class _StoppingRun:
    """The expert up to a random point of its script, then no movement."""

    def __init__(self, script: tuple[Move, ...], rng: np.random.Generator):
        # Before what may already be the end: the object lowered, the drawer pushed.
        last = max(1, len(script) - 3)
        self._run = ScriptRun(script)
        self._stop_index = int(rng.integers(last))
        self._steps_left = int(rng.integers(1, 12))  # into the move at which it stops
        self._gripper = OPEN

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._steps_left > 0:
            action = self._run.act(state)
            self._gripper = float(action[6])
            self._steps_left -= self._run.index >= self._stop_index
            return action
        return np.array([0, 0, 0, 0, 0, 0, self._gripper], np.float32)


class _RandomRun:
    """A random walk in the space of actions."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._action = np.zeros(7)

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        fresh = self._rng.uniform(-1.0, 1.0, 7)
        share = _RANDOM_PERSISTENCE
        # The weights keep the spread of the walk equal to that of the fresh draws.
        self._action = share * self._action + np.sqrt(1 - share**2) * fresh
        return np.clip(self._action, -1.0, 1.0).astype(np.float32)


def _carries(script: tuple[Move, ...]) -> bool:
    return any(move.name == "carry" for move in script)


def _displaced(move: Move, drift_m: np.ndarray) -> Move:
    if move.anchor == START:
        return move
    x, y, z = np.asarray(move.offset_m) + drift_m
    return dataclasses.replace(move, offset_m=(float(x), float(y), float(z)), holds=None)


def _let_go_early(script: tuple[Move, ...], rng: np.random.Generator) -> tuple[Move, ...]:
    """Return the script that opens the gripper on the way and goes up, leaving what it carried."""
    index = next(i for i, move in enumerate(script) if move.name == "carry")
    index -= int(rng.integers(2))  # while lifting, or while carrying
    n_steps = int(rng.integers(3, 12))
    cut = dataclasses.replace(script[index], max_steps=n_steps, holds=None)
    release = Move("release", START, min_steps=6, max_steps=0)
    retreat = Move("retreat", START, (0.0, 0.0, 0.1), tolerance_m=0.03)
    return (*script[:index], cut, release, retreat)
