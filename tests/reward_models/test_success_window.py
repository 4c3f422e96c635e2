import numpy as np
import pytest

from libero_reward_envs.reward_models.success_window import SuccessWindow


def run(window, *steps):
    return [window.add(np.array(step, bool)).tolist() for step in steps]


def test_an_event_is_k_of_the_last_n():
    assert run(SuccessWindow(1, 2, 3), [1], [0], [0], [1], [1]) == [[0], [0], [0], [0], [1]]


def test_an_event_comes_once_an_episode():
    window = SuccessWindow(1, 1, 1)
    assert run(window, [1], [0], [1]) == [[1], [0], [0]]
    assert window.fired.tolist() == [True]


def test_envs_are_debounced_apart():
    window = SuccessWindow(2, 2, 2)
    assert run(window, [1, 1], [1, 0], [0, 1], [0, 1]) == [[0, 0], [1, 0], [0, 0], [0, 1]]


def test_a_new_episode_knows_nothing_of_the_one_before():
    window = SuccessWindow(2, 2, 3)
    run(window, [1, 1])
    window.forget(np.array([True, False]))
    assert run(window, [1, 1]) == [[0, 1]]
    assert window.fired.tolist() == [False, True]
    window.forget()
    assert run(window, [1, 1]) == [[0, 0]]


@pytest.mark.parametrize("window", [(0, 3), (4, 3), (1.0, 2), (1, 0)])
def test_a_window_that_cannot_be_is_refused(window):
    with pytest.raises(ValueError, match="1 <= k <= n"):
        SuccessWindow(1, *window)
