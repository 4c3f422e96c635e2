"""What a kill, or a full disk, leaves of a set that is being written."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libero_reward_envs.data.rlds import RldsSource, RldsWriter, is_rlds
from libero_reward_envs.data.rlds.tfrecord import index_shard
from tests.data.rlds_episodes import assert_same, make_episode, write

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


@needs_fork
def test_a_torn_end_is_cut_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    fork_and_kill(lambda _: write_and_die(killed), after=1000)
    part = killed / ".1.0.0.partial/00000.part"
    whole = part.read_bytes()
    ends = [*(index_shard(part).offsets - 12).tolist(), len(whole)]
    for size in {*ends, ends[2] + 1, ends[2] + 12, ends[2] + 40, ends[3] - 3}:
        for tail in (b"", b"\0" * 5):  # some file systems leave zeros
            folder = tmp_path / f"set_{size}_{len(tail)}"
            shutil.copytree(killed, folder)
            copy = folder / ".1.0.0.partial/00000.part"
            copy.write_bytes(whole[:size] + tail)
            n_whole = sum(end <= size for end in ends) - 1
            assert is_rlds(folder)
            waiting = RldsSource(folder, on_error="skip")
            assert len(waiting) == n_whole
            for seed in range(n_whole):
                assert_same(waiting.read(seed), make_episode(seed))
            with RldsWriter(folder, image_format="png") as writer:
                assert len(writer) == n_whole
                writer.append(make_episode(7))
            source = RldsSource(folder)
            for index, seed in enumerate([*range(n_whole), 7]):
                assert_same(source.read(index), make_episode(seed))


@needs_fork
def test_a_kill_between_any_two_changes_of_files_loses_nothing(tmp_path: Path) -> None:
    def go_on(folder: Path, report: Callable[[int], None]) -> None:
        with RldsWriter(folder, image_format="png", shard_bytes=1) as writer:
            for seed in range(len(writer), 4):
                writer.append(make_episode(seed))
                report(seed + 1)

    write(tmp_path / "before", make_episode(0), make_episode(1))
    n_kills, finished = 0, False
    while not finished:
        folder = tmp_path / f"set_{n_kills}"
        shutil.copytree(tmp_path / "before", folder)
        n_reported, finished = fork_and_kill(lambda r: go_on(folder, r), n_kills)  # noqa: B023
        if (folder / "1.0.0").exists():
            n_there = len(RldsSource(folder).summaries())
            assert n_there in (2, 4)
        else:  # the moment between two renames
            assert (folder / ".1.0.0.old").exists()
            assert len(RldsSource(folder).summaries()) == 4
        with RldsWriter(folder, image_format="png") as writer:
            assert len(writer) >= max(2, n_reported)
        go_on(folder, lambda _: None)
        source = RldsSource(folder)
        assert len(source) == 4
        for seed in range(4):
            assert_same(source.read(seed), make_episode(seed))
        n_kills += 1
    assert n_kills > 10


def write_and_die(folder: Path) -> None:
    with RldsWriter(folder, image_format="png") as writer:
        for seed in range(3):
            writer.append(make_episode(seed))
        os._exit(9)


def fork_and_kill(work: Callable[[Any], None], after: int) -> tuple[int, bool]:
    """Run in a forked process that dies before its n-th change of names; what it reported last."""
    reader, sender = os.pipe()
    if (child := os.fork()) == 0:
        n_left = [after]

        def count(event: str, _: tuple[Any, ...]) -> None:
            if event in (
                "os.rename",
                "os.link",
                "os.mkdir",
                "os.remove",
                "os.rmdir",
                "os.truncate",
            ):
                if n_left[0] == 0:
                    os._exit(9)
                n_left[0] -= 1

        sys.addaudithook(count)
        try:
            work(lambda number: os.write(sender, bytes([number])))
        except BaseException:
            os._exit(3)
        os._exit(0)
    os.close(sender)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader, "rb") as file:
        reported = file.read()
    assert status in (0, 9)
    return reported[-1] if reported else 0, status == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    with RldsWriter(tmp_path / "set", image_format="png", shard_bytes=1) as writer:
        writer.append(make_episode(0))
        part = tmp_path / "set/.1.0.0.partial/00001.part"
        part.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            writer.append(make_episode(1))
        part.unlink()
        assert len(writer) == 1
        writer.append(make_episode(2))
    source = RldsSource(tmp_path / "set")
    assert len(source) == 2
    for index, seed in enumerate((0, 2)):
        assert_same(source.read(index), make_episode(seed))
