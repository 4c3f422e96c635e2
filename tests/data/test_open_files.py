import pickle
import threading
from pathlib import Path

import pytest

from libero_reward_envs.data.open_files import OpenFiles

FIRST, SECOND = Path("first"), Path("second")


class Counted:
    """A file that knows how many were opened, and how many readers it has."""

    opened = 0

    def __init__(self, path):
        self.path, self.is_open, self.readers = path, True, 0
        type(self).opened += 1

    def close(self):
        self.is_open = False


@pytest.fixture(autouse=True)
def _count_from_none():
    Counted.opened = 0


def test_a_file_stays_open_for_the_next_reader():
    files = OpenFiles()
    with files.borrow(Counted, FIRST) as file:
        pass
    with files.borrow(Counted, FIRST) as again:
        assert again is file
        assert again.is_open
    with files.borrow(Counted, SECOND) as other:
        assert other.path == SECOND
    assert Counted.opened == 2


def test_the_one_that_was_not_used_for_longest_is_closed():
    files = OpenFiles(capacity=1)
    with files.borrow(Counted, FIRST) as first:
        pass
    with files.borrow(Counted, SECOND) as second:
        pass
    assert not first.is_open
    assert second.is_open


def test_after_an_error_a_file_is_opened_anew():
    files = OpenFiles()
    with pytest.raises(ValueError, match="damaged"), files.borrow(Counted, FIRST) as file:
        raise ValueError("damaged")
    assert not file.is_open
    with files.borrow(Counted, FIRST) as again:
        assert again.is_open


def test_two_threads_never_share_a_file():
    files = OpenFiles()
    shared = []

    def read():
        for _ in range(200):
            with files.borrow(Counted, FIRST) as file:
                file.readers += 1
                shared.append(file.readers != 1)
                file.readers -= 1

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shared) == 800
    assert not any(shared)


def test_a_copy_begins_with_nothing_open():
    files = OpenFiles(capacity=3)
    with files.borrow(Counted, FIRST):
        pass
    copy = pickle.loads(pickle.dumps(files))
    with copy.borrow(Counted, FIRST):
        pass
    assert Counted.opened == 2
