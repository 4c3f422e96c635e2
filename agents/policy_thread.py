"""A policy in a thread of its own, so that who asks it need not wait."""

import queue
import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Protocol

import numpy as np


class InstructedPolicy(Protocol):
    """What acts on an instruction, such as `OpenVLAPolicy` and `PolicyClient`."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the policy is, as JSON would hold it."""
        ...

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def predict(self, observation: Any, *, instruction: str | None) -> tuple[np.ndarray, Any]:
        """Return the action for one observation, (a,) in [-1, 1], and what nobody reads."""
        ...


class PolicyThread:
    """Asks a policy, and gives up waiting at a deadline.

    An answer that comes later is dropped: it belongs to an observation of the past.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: InstructedPolicy) -> None:
        self._policy = policy
        self._asked: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._late: Future[Any] | None = None
        # A daemon, because a policy that never answers must not keep the program from its end.
        threading.Thread(target=self._serve, name="policy", daemon=True).start()

    def ask(self, observation: Any, instruction: str | None, ends: float) -> np.ndarray | None:
        """Return the action for an observation, or None if it is not there in time.

        Args:
            observation: What the policy takes.
            instruction: What to do.
            ends: Until when to wait, on the clock `time.monotonic`.

        Raises:
            Exception: What the policy raises.
        """
        if not self._drop_late(ends):
            return None
        answer = self._submit(lambda: self._policy.predict(observation, instruction=instruction)[0])
        wait([answer], max(0.0, ends - time.monotonic()))
        if not answer.done():
            self._late = answer
            return None
        return np.asarray(answer.result())

    def reset(self, timeout_s: float) -> None:
        """Begin an episode, after what is still being computed.

        Raises:
            TimeoutError: If the policy has not answered by then.
        """
        ends = time.monotonic() + timeout_s
        if self._drop_late(ends):
            answer = self._submit(self._policy.reset)
            wait([answer], max(0.0, ends - time.monotonic()))
            if answer.done():
                answer.result()
                return
        raise TimeoutError(f"The policy has not answered for {timeout_s:g} s.")

    def close(self) -> None:
        """End the thread, as soon as the policy answers."""
        self._asked.put(None)

    def _drop_late(self, ends: float) -> bool:
        """Wait for an answer that is late; whether the policy is free."""
        if self._late is not None:
            wait([self._late], max(0.0, ends - time.monotonic()))
            if not self._late.done():
                return False
            late, self._late = self._late, None
            late.result()
        return True

    def _submit(self, call: Any) -> "Future[Any]":
        answer: Future[Any] = Future()
        self._asked.put((answer, call))
        return answer

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            answer, call = asked
            try:
                answer.set_result(call())
            except BaseException as error:  # handed to who asked
                answer.set_exception(error)
