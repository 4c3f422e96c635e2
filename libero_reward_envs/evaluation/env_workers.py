"""Environments in processes of their own, each of which steps when it is told to.

Unlike Stable-Baselines3's vector environments they need not step together: an episode begins in
the state that is asked for, one env can change its task while others act, and what goes wrong in
one, the end of its process included, ends one episode only.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

MakeEnv = Callable[[str], gym.Env[Any, Any]]
Prepare = Callable[[Any], Any]
_JOIN_S = 10.0


class Stepped(NamedTuple):
    """What an env says after a reset or a step.

    Attributes:
        prepared: What was made of the observation.
        reward: Of the step, 0 after a reset.
        is_over: Whether the episode ended, by success or by its limit.
        info: Of the env, numbers and texts only.
        error: What went wrong; the rest then means nothing.
    """

    prepared: Any = None
    reward: float = 0.0
    is_over: bool = False
    info: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    error: str | None = None


class EnvWorker:
    """One process with one env at a time.

    Args:
        make_env: Makes the env of a task; picklable.
        prepare: What is done to observations before they are sent; picklable. None for nothing.
    """

    def __init__(self, make_env: MakeEnv, prepare: Prepare | None = None) -> None:
        self._arguments = (make_env, prepare)
        self._connection: Connection
        self._process: Any
        self._start()

    @property
    def connection(self) -> Connection:
        """What can be waited for."""
        return self._connection

    def reset(self, task: str, seed: int, options: dict[str, Any] | None) -> None:
        """Tell the env of a task to begin an episode; a new process if the last one ended."""
        if not self._process.is_alive():
            self.close()
            self._start()
        self._send(("reset", task, seed, options))

    def step(self, action: np.ndarray) -> None:
        """Tell the env to step."""
        self._send(("step", action))

    def receive(self) -> Stepped:
        """Return what the env says, once there is something."""
        try:
            return Stepped(*self._connection.recv())
        except (EOFError, OSError):
            self._process.join(_JOIN_S)
            return Stepped(
                error=f"ProcessEnded: the env's process ended with {self._process.exitcode}"
            )

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._connection.send(("close",))
        self._process.join(_JOIN_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_JOIN_S)
        self._connection.close()

    def terminate(self) -> None:
        """End the process at once."""
        self._process.terminate()
        self._process.join(_JOIN_S)
        self._connection.close()

    def _start(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        # Not a fork: GL contexts and the threads of torch do not survive one.
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in methods else "spawn"
        )
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def _send(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # `receive` tells of an ended process
            self._connection.send(message)


def wait_for(workers: Iterable[EnvWorker], timeout_s: float | None) -> list[EnvWorker]:
    """Return the workers that have something to say, after waiting for the first one."""
    by_connection = {worker.connection: worker for worker in workers}
    return [by_connection[ready] for ready in wait(list(by_connection), timeout_s)]  # pyright: ignore


def _work(connection: Connection, make_env: MakeEnv, prepare: Prepare | None) -> None:
    """Do what is told until told to close or the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that tells
    desk = _Desk(make_env, prepare)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt), contextlib.closing(desk):
        while True:
            message, *arguments = connection.recv()
            if message == "close":
                return
            connection.send(tuple(desk.answer(message, arguments)))


class _Desk:
    """The env of the current task, and answers."""

    def __init__(self, make_env: MakeEnv, prepare: Prepare | None) -> None:
        self._make_env = make_env
        self._prepare = prepare or (lambda observation: observation)
        self._env: gym.Env[Any, Any] | None = None
        self._task: str | None = None

    def answer(self, message: str, arguments: list[Any]) -> Stepped:
        try:
            return self._reset(*arguments) if message == "reset" else self._step(*arguments)
        except Exception as error:  # whatever it was, it is this episode's
            return Stepped(error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = self._task = None

    def _reset(self, task: str, seed: int, options: dict[str, Any] | None) -> Stepped:
        if task != self._task or self._env is None:
            self.close()
            self._env, self._task = self._make_env(task), task
        observation, info = self._env.reset(seed=seed, options=options)
        return Stepped(self._prepare(observation), 0.0, False, _keep_plain(info))

    def _step(self, action: np.ndarray) -> Stepped:
        assert self._env is not None
        observation, reward, terminated, truncated, info = self._env.step(action)
        is_over = bool(terminated or truncated)
        prepared = None if is_over else self._prepare(observation)
        return Stepped(prepared, float(reward), is_over, _keep_plain(info))


def _keep_plain(info: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in info.items()
        if value is None or isinstance(value, str | bool | int | float | np.bool_ | np.number)
    }
