import threading
import time

import pytest

from libero_reward_envs.encoders.prefetch import prefetch


def test_results_come_in_order_whatever_takes_longest():
    def wait(number):
        time.sleep(0.02 * (number % 3 == 0))
        return number

    assert list(prefetch(range(20), wait, depth=3, n_threads=4)) == list(range(20))
    assert list(prefetch([], wait)) == []


def test_work_goes_on_while_results_are_used():
    begun = threading.Event()

    def prepare(number):
        if number == 1:
            begun.set()
        return number

    results = prefetch(range(3), prepare, n_threads=1)
    assert next(results) == 0
    assert begun.wait(10)  # nobody has asked for it
    assert list(results) == [1, 2]


def test_only_a_few_results_wait():
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    results = prefetch(numbers(), lambda number: number, depth=2)
    next(results)
    time.sleep(0.3)
    assert len(made) <= 5
    results.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
    assert threading.active_count() < 50


def test_an_error_is_raised_in_its_turn():
    def prepare(number):
        if number == 2:
            raise ValueError("two")
        return number

    results = prefetch(range(5), prepare)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)

    def numbers():
        yield 0
        raise OSError("no such file")

    results = prefetch(numbers(), prepare)
    assert next(results) == 0
    with pytest.raises(OSError, match="no such file"):
        next(results)


def test_threads_end_when_the_results_are_not_used_up():
    before = threading.active_count()
    results = prefetch(range(1000), lambda number: number, depth=1)
    next(results)
    assert threading.active_count() > before
    results.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator
    assert threading.active_count() == before
