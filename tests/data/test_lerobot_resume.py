import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.lerobot import LerobotSource, LerobotWriter, is_lerobot
from libero_reward_envs.data.lerobot import commit as lerobot_commit
from libero_reward_envs.data.lerobot.staging import pending_episodes
from tests.data.lerobot_makers import VERSIONS, assert_same, make_smooth, write


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_run_goes_on(tmp_path, version):
    episodes = [make_smooth(seed, 2 + seed) for seed in range(4)]
    write(tmp_path, episodes[:1], version=version)
    write(tmp_path, [], version=version)
    dataset = write(tmp_path, episodes[1:], version=version)
    assert not (tmp_path / ".pending").exists()
    for written, read in zip(episodes, dataset, strict=True):
        assert_same(written, read, lossy=True)


KILLED = """
import os, signal, sys
import libero_reward_envs.data.lerobot.commit as commit
from libero_reward_envs.data.lerobot import LerobotWriter
from tests.data.lerobot_makers import make_smooth

folder, version, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def count(function):
    def counted(*args, **named):
        global calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)
    return counted

writer = LerobotWriter(folder, version=version)
writer.append(make_smooth(0, 2))
writer.close()
for name in ("put_file", "move_file", "append_lines"):
    setattr(commit, name, count(getattr(commit, name)))
writer = LerobotWriter(folder, version=version)
writer.append(make_smooth(1, 3))
writer.append(make_smooth(2, 4))
writer.close()
"""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("after", [0, 3, 6, 8])
def test_a_kill_while_episodes_are_put_in_loses_none(tmp_path, version, after):
    command = [sys.executable, "-c", KILLED, str(tmp_path), version, str(after)]
    root = Path(__file__).parents[2]
    killed = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # What was finished before is read as ever, the others wait.
    assert [len(episode) for episode in EpisodeDataset(LerobotSource(tmp_path))] == [2]
    assert len(pending_episodes(tmp_path)) == 2
    (tmp_path / ".pending/000000009.tmp").mkdir()  # of an episode that was being written
    with LerobotWriter(tmp_path, version=version) as writer:
        assert len(writer) == 3
        writer.append(make_smooth(3, 2))
    dataset = EpisodeDataset(LerobotSource(tmp_path))
    for seed, (n_steps, read) in enumerate(zip((2, 3, 4, 2), dataset, strict=True)):
        assert_same(make_smooth(seed, n_steps), read, lossy=True)
    if version == "v3.0":
        stats = json.loads((tmp_path / "meta/stats.json").read_text())
        assert stats["action"]["count"] == [11]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["meta/info.json", "meta/libero_reward_envs.jsonl"])
def test_a_disk_that_is_full_loses_nothing(tmp_path, version, name, monkeypatch):
    write(tmp_path, [make_smooth(0, 2)], version=version)
    writer = LerobotWriter(tmp_path, version=version)
    writer.append(make_smooth(1, 2))
    with monkeypatch.context() as patch:
        for function in ("put_file", "append_lines"):
            patch.setattr(
                lerobot_commit, function, fail_at(name, getattr(lerobot_commit, function))
            )
        with pytest.raises(OSError, match="No space"):
            writer.close()
    # The totals are written last: from then on it is in the set.
    assert len(LerobotSource(tmp_path)) == (2 if name == "meta/info.json" else 1)
    dataset = write(tmp_path, [make_smooth(2, 2)], version=version)
    for seed, read in enumerate(dataset):
        assert_same(make_smooth(seed, 2), read, lossy=True)
    assert len(dataset) == 3


def fail_at(name, function):
    def wrapped(*args):
        function(*args)
        if str(args[-2]).endswith(name):
            raise OSError(28, "No space left on device")

    return wrapped


def test_episodes_of_a_first_run_that_was_killed_wait(tmp_path):
    writer = LerobotWriter(tmp_path)
    writer.append(make_smooth(0, 2))
    os.close(writer._lock)  # pyright: ignore[reportArgumentType] - as the end of the process does
    assert is_lerobot(tmp_path)
    with pytest.raises(ValueError, match=r"1 episodes wait .* open a LerobotWriter"):
        LerobotSource(tmp_path)
    LerobotWriter(tmp_path).close()
    assert_same(make_smooth(0, 2), LerobotSource(tmp_path).read(0), lossy=True)


def test_two_writers_of_one_set_are_kept_apart(tmp_path):
    with (
        LerobotWriter(tmp_path) as writer,
        pytest.raises(RuntimeError, match="Another writer"),
    ):
        LerobotWriter(tmp_path)
    LerobotWriter(tmp_path).close()
    with pytest.raises(RuntimeError, match="is closed"):
        writer.append(make_smooth(0, 2))
