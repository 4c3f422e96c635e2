"""When single judgements of success become an event: k of the last n of them."""

import numpy as np


class SuccessWindow:
    """Debounces judgements of success: an event is k of the last n steps of an episode.

    A classifier that is wrong once in a hundred frames is wrong in most episodes of two hundred.
    With k > 1 a single wrong frame is no event, and a true one is seen k - 1 steps later.

    Args:
        n_envs: Number of envs, whose episodes run side by side.
        k: Judgements that make an event.
        n: Steps among which they are; steps before the episode count as none.

    Raises:
        ValueError: If a number is not positive, or k is above n.

    Example:
        >>> window = SuccessWindow(1, k=2, n=3)
        >>> [bool(window.add(np.array([is_success]))[0]) for is_success in (1, 0, 1, 1)]
        [False, False, True, False]
    """

    def __init__(self, n_envs: int, k: int = 2, n: int = 3) -> None:
        if n_envs < 1:
            raise ValueError(f"`n_envs` must be at least 1, got {n_envs}.")
        check_window(k, n)
        self._k = k
        self._recent = np.zeros((n_envs, n), bool)
        self._fired = np.zeros(n_envs, bool)

    @property
    def fired(self) -> np.ndarray:
        """Whether there was an event in the running episode, shape (n_envs,), bool."""
        return self._fired.copy()

    def add(self, is_success: np.ndarray) -> np.ndarray:
        """Take one judgement of each env, shape (n_envs,); return where the first event is now."""
        self._recent = np.roll(self._recent, 1, axis=1)
        self._recent[:, 0] = is_success
        is_event = (self._recent.sum(1) >= self._k) & ~self._fired
        self._fired |= is_event
        return is_event

    def forget(self, rows: np.ndarray | None = None) -> None:
        """Begin new episodes, in the envs where `rows` (n_envs,) is True; None for all."""
        chosen = slice(None) if rows is None else rows
        self._recent[chosen] = False
        self._fired[chosen] = False


def check_window(k: int, n: int) -> None:
    """Raise ValueError unless 1 <= k <= n, both integers."""
    if not (isinstance(k, int) and isinstance(n, int) and 1 <= k <= n):
        raise ValueError(f"Expected a window (k, n) of integers with 1 <= k <= n, got ({k}, {n}).")
