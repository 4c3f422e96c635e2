import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeWriter, load_episodes
from libero_reward_envs.data.hdf5 import pending_files, pending_folder


def make_episode(n_steps=4, seed=0, state_size=3):
    rng = np.random.default_rng(seed)
    return Episode(
        {"state": rng.normal(size=(n_steps + 1, state_size))},
        rng.uniform(-1, 1, (n_steps, 7)),
        rng.normal(size=n_steps),
        terminated=False,
        success=False,
        metadata={"seed": seed},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "episodes.hdf5"


def write(path, *seeds):
    with EpisodeWriter(path) as writer:
        for seed in seeds:
            writer.append(make_episode(4 + seed, seed))


def test_appending_keeps_what_was_there(path):
    write(path, 1)
    write(path)
    write(path, 2, 3)
    assert [summary.metadata["seed"] for summary in load_episodes(path).summaries()] == [1, 2, 3]


def test_two_writers_of_one_file_are_kept_apart(path):
    with (
        EpisodeWriter(path),
        pytest.raises(RuntimeError, match=r"Another writer has .*episodes\.hdf5' open"),
    ):
        EpisodeWriter(path)
    write(path, 1)
    assert len(load_episodes(path)) == 1


def test_closed_writer_refuses_episodes(path):
    writer = EpisodeWriter(path)
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match="is closed"):
        writer.append(make_episode())


def test_states_must_have_a_row_a_step(path):
    with (
        EpisodeWriter(path) as writer,
        pytest.raises(ValueError, match=r"`states` of shape \(4, D\)"),
    ):
        writer.append(make_episode(4), states=np.zeros((5, 3)))


WRITER = textwrap.dedent("""
    import sys
    import numpy as np
    from libero_reward_envs.data import Episode, EpisodeWriter

    path, start = sys.argv[1], int(sys.argv[2])
    while True:  # a new writer for every third episode, so that kills fall into merges too
        with EpisodeWriter(path) as writer:
            for _ in range(3):
                image = np.random.default_rng(start).integers(0, 256, (6, 32, 32, 3), np.uint8)
                writer.append(Episode(
                    {"image": image}, np.zeros((5, 2)), np.full(5, start / 8), False, False, "t"
                ))
                print(start, flush=True)
                start += 1
""")


def test_writer_killed_again_and_again_loses_no_complete_episode(path):
    rng = random.Random(0)
    written, dataset = 0, []
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(path), str(written)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # the first episode is in
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        reported = written + 1 + len(process.stdout.read().split())
        assert process.wait() == -signal.SIGKILL
        dataset = load_episodes(path)
        # One more than reported if the kill fell between writing and reporting.
        assert reported <= len(dataset) <= reported + 1
        written = len(dataset)
    for number, episode in enumerate(dataset):
        assert episode.rewards[0] == number / 8
        assert episode.observations["image"].shape == (6, 32, 32, 3)
    write(path, 1)
    assert len(load_episodes(path)) == written + 1
    assert not pending_folder(path).exists()


def test_kill_between_renaming_and_removing_doubles_nothing(path):
    writer = EpisodeWriter(path)
    writer.append(make_episode(3, 1))
    kept = path.with_name("kept")
    shutil.copytree(pending_folder(path), kept)
    writer.close()
    kept.rename(pending_folder(path))  # as the kill would have left it
    assert len(load_episodes(path)) == 1
    with EpisodeWriter(path) as writer:
        assert len(writer) == 1
        writer.append(make_episode(3, 2))
    assert [summary.metadata["seed"] for summary in load_episodes(path).summaries()] == [1, 2]


@pytest.fixture
def small_files():
    """Let this process write no more than 100 kB to a file, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the signal ends the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_full_disk_loses_only_the_episode_that_did_not_fit(path):
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(3, 1))
        with pytest.raises(OSError, match=r"Could not write an episode .* The 1 episodes before"):
            writer.append(make_episode(2000, 2, state_size=16))
        writer.append(make_episode(3, 3))
    assert [summary.metadata["seed"] for summary in load_episodes(path).summaries()] == [1, 3]


@pytest.mark.usefixtures("small_files")
def test_full_disk_while_merging_loses_nothing(path):
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(300, 0, state_size=16))
    writer = EpisodeWriter(path)
    writer.append(make_episode(300, 1, state_size=16))
    with pytest.raises(OSError, match=r"Could not merge new episodes .* They are safe"):
        writer.close()
    assert [summary.metadata["seed"] for summary in load_episodes(path).summaries()] == [0, 1]
    assert len(load_episodes(path)[1]) == 300
    assert not list(pending_folder(path).glob("*.tmp"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # space was made
    write(path, 2)
    assert [summary.metadata["seed"] for summary in load_episodes(path).summaries()] == [0, 1, 2]
    assert not pending_files(path)


def test_folder_is_made_and_other_files_stay(tmp_path):
    path = tmp_path / "new" / "episodes.hdf5"
    path.parent.mkdir()
    (path.parent / "notes.txt").write_text("mine")
    write(path, 1)
    assert sorted(os.listdir(path.parent)) == ["episodes.hdf5", "notes.txt"]
