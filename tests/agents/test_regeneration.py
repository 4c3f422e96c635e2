import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.agents import collect_episodes
from libero_reward_envs.agents.regeneration import (
    find_moving_steps,
    regenerate_episodes,
    replay_actions,
)
from libero_reward_envs.agents.regeneration_report import describe_report, read_report
from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.provenance import Provenance, read_provenance
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.recorded_reset import reset_as_recorded

TASK = "libero_90/KITCHEN_SCENE5_close_the_top_drawer_of_the_cabinet"


def test_idle_steps_are_those_that_openvla_leaves_out():
    actions = np.zeros((7, 7), np.float32)
    actions[:, -1] = [-1, -1, -1, 1, 1, 1, -1]
    actions[1, 0] = 0.5  # the first one that moves; the gripper of an idle start changes nothing
    actions[4, 2] = 9e-5  # too little
    actions[5, 5] = 1e-4  # just enough
    assert find_moving_steps(actions).tolist() == [0, 1, 0, 1, 0, 1, 1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "episodes.h5"
    arguments = {"seed": 0, "assets": "builtin", "progress": False}
    return collect_episodes(TASK, 4, path, max_episode_steps=60, **arguments)


def make_env(task, **arguments):
    suite, _, name = task.rpartition("/")
    arguments = {"obs_type": "pixels_state", "image_size": 24, **arguments}
    return LiberoEnv(
        suite, name, terminate_on_success=False, assets="builtin", cameras=["agentview"],
        orientation="raw", **arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def env(recorded):
    env = make_env(recorded[0].task)
    yield env
    env.close()


def test_a_replay_gives_the_same_states_and_new_pictures(recorded, env):
    for episode in recorded:
        replayed = replay_actions(episode, env, drop_no_ops=False)
        assert len(replayed) == len(episode)
        np.testing.assert_array_equal(replayed.observations["state"], episode.observations["state"])
        assert replayed.observations["agentview_image"].shape[1:] == (24, 24, 3)
        assert replayed.success == episode.success
        assert replayed.rewards.tolist() == [0.0] * (len(episode) - 1) + [float(episode.success)]
        provenance = read_provenance(replayed.metadata)
        assert provenance is not None
        assert (provenance.image_size, provenance.orientation) == ((24, 24), "raw")
        assert provenance.no_ops_filtered is False
        told = [replayed.metadata[name] for name in ("orientation", "image_size", "obs_type")]
        assert told == ["raw", 24, "pixels_state"]


def with_idle_steps(episode):
    """The episode with a still step after every third one."""
    positions = np.arange(len(episode))[::3]
    still = episode.actions[positions].copy()
    still[:, :6] = 0
    actions = np.insert(episode.actions, positions + 1, still, axis=0)
    observations = np.zeros((len(actions) + 1, 1), np.float32)
    rewards = np.zeros(len(actions), np.float32)
    return Episode(
        {"state": observations},
        actions,
        rewards,
        terminated=False,
        success=True,
        task=episode.task,
        metadata=episode.metadata,
    )


def make_state_env(task, init_states):
    return make_env(task, obs_type="state")


def regenerate(dataset, path, make=make_state_env, **arguments):
    with EpisodeWriter(path) as writer:
        return regenerate_episodes(
            EpisodeDataset(dataset),
            writer,
            make,
            path=path,
            report_path=Path(f"{path}.report.jsonl"),
            **arguments,
        )


def test_successes_are_kept_without_idle_steps_and_reported(recorded, tmp_path):
    source = [with_idle_steps(recorded[0]), recorded[1], *recorded[2:]]
    outcomes = [episode.success for episode in recorded]
    assert outcomes.count(True) == 2
    rows = regenerate(source, tmp_path / "out.h5")
    assert [row.success_after for row in rows] == outcomes
    written = load_episodes(tmp_path / "out.h5")
    assert [episode.metadata["source_episode"] for episode in written] == [
        index for index, success in enumerate(outcomes) if success
    ]
    assert rows[0].n_kept < rows[0].n_steps
    text = describe_report(rows)
    assert text.startswith("4 episodes played again")
    assert "2 succeed now" in text


def test_a_run_that_was_killed_goes_on_without_doubles(recorded, tmp_path, monkeypatch):
    whole = regenerate(recorded, tmp_path / "whole.h5", keep_failures=True)

    class KillError(Exception):
        pass

    def kill(row):
        if row.index == 1:
            raise KillError

    path = tmp_path / "killed.h5"
    with pytest.raises(KillError):
        regenerate(recorded, path, keep_failures=True, on_episode=kill)
    report = Path(f"{path}.report.jsonl")
    lines = report.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    report.write_text(lines[0] + lines[1][:10])  # killed while it wrote the line of an episode
    rows = regenerate(recorded, path, keep_failures=True)
    assert rows == whole
    found, expected = load_episodes(path), load_episodes(tmp_path / "whole.h5")
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.observations["state"], other.observations["state"])
    assert regenerate(recorded, path, keep_failures=True) == whole
    path.unlink()
    with pytest.raises(ValueError, match="of which 4 were written, but there are 0"):
        regenerate(recorded, path, keep_failures=True)


def test_episodes_that_are_there_without_a_report_are_told_from_others(recorded, tmp_path):
    path = tmp_path / "out.h5"
    source = [recorded[3], *recorded[:3]]
    whole = regenerate(source, path)
    report = Path(f"{path}.report.jsonl")
    lines = report.read_text().splitlines(keepends=True)
    indices = [row.index for row in whole if row.kept]
    report.write_text("".join(lines[: indices[0]]))  # the first success is there without its line
    assert regenerate(source, path) == whole
    assert [e.metadata["source_episode"] for e in load_episodes(path)] == indices
    foreign = tmp_path / "foreign.h5"
    with EpisodeWriter(foreign) as writer:
        for index in indices:
            writer.append(source[index])
    with pytest.raises(ValueError, match="each say which of the source"):
        regenerate(source, foreign)
    with EpisodeWriter(foreign.with_name("moved.h5")) as writer:
        for episode in load_episodes(path):
            index = (episode.metadata["source_episode"] + 1) % 4
            metadata = {**episode.metadata, "source_episode": index}
            writer.append(dataclasses.replace(episode, metadata=metadata))
    with pytest.raises(ValueError, match=r"is there already, and is another than the one played"):
        regenerate(source, foreign.with_name("moved.h5"))


def test_a_result_of_other_settings_is_not_gone_on_with(recorded, tmp_path):
    successes = [episode for episode in recorded if episode.success]
    path = tmp_path / "out.h5"

    def make_with_pictures(task, _):
        return make_env(task)

    regenerate(successes[:1], path)
    Path(f"{path}.report.jsonl").unlink()
    with pytest.raises(ValueError, match="other settings"):
        regenerate(successes, path, make_with_pictures)
    regenerate(successes[:1], path)
    with pytest.raises(ValueError, match=r"tells of 1 episodes.* and episode 0 is another"):
        regenerate([with_idle_steps(successes[0])], path)


def test_an_error_of_the_settings_is_none_of_the_episodes(recorded, tmp_path):
    def fail(task, init_states):
        raise ValueError("no such assets")

    path = tmp_path / "out.h5"
    with pytest.raises(ValueError, match="no such assets"):
        regenerate(recorded[:1], path, fail)
    assert not Path(f"{path}.report.jsonl").exists()

    class UnreadyEnv(LiberoEnv):
        def reset(self, **arguments):
            raise ValueError("object models are missing")

    def make_unready(task, init_states):
        return UnreadyEnv("libero_90", task.rpartition("/")[2], assets="builtin")

    rows = regenerate(recorded[:1], path, make_unready)
    assert "object models are missing" in rows[0].error
    rows = regenerate(recorded[:1], path)
    assert (rows[0].error, rows[0].success_after) == ("", recorded[0].success)


def test_actions_of_another_convention_are_not_played(recorded, env, tmp_path):
    def describe(**values):
        provenance = Provenance("test", **values).as_json()
        metadata = {**recorded[0].metadata, "provenance": provenance}
        return dataclasses.replace(recorded[0], metadata=metadata)

    for values, message in (
        ({"action_convention": "absolute"}, "Episode 1 has absolute actions"),
        ({"gripper_closed_at": -1.0}, "Episode 1 closes the gripper at -1, LIBERO at 1"),
    ):
        with pytest.raises(ValueError, match=message):
            regenerate([recorded[0], describe(**values)], tmp_path / "out.h5")
        with pytest.raises(ValueError, match="The episode "):
            replay_actions(describe(**values), env)
    filtered = replay_actions(describe(no_ops_filtered=True), env, drop_no_ops=False)
    provenance = read_provenance(filtered.metadata)
    assert provenance is not None
    assert provenance.no_ops_filtered is True


def test_a_reset_to_a_recorded_state_is_the_same_twice(recorded, env):
    env.reset(seed=5)
    state = env.simulator.state.tolist()
    pictures = []
    for metadata in ({}, {}, {"seed": 0}, {"seed": 3}):
        observation, _ = reset_as_recorded(env, {**metadata, "init_state": state})
        pictures.append(observation["agentview_image"])
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[3]).any()


def test_an_episode_that_cannot_be_played_is_reported(recorded, tmp_path):
    arrays = {"state": np.zeros((3, 1), np.float32)}, np.zeros((2, 7)), np.zeros(2)
    idle = Episode(*arrays, False, False, task=TASK, metadata={"seed": 0})
    moving = Episode(arrays[0], np.ones((2, 7)), arrays[2], False, False, task=TASK)
    rows = regenerate([idle, moving], tmp_path / "out.h5")
    assert "Every step is idle" in rows[0].error
    assert "Expected 'init_state', or 'seed' or 'init_state_id'" in rows[1].error
    assert "Episode 1 could not be played" in describe_report(rows)
    report = (tmp_path / "out.h5.report.jsonl").read_text().splitlines()
    assert [json.loads(line)["kept"] for line in report] == [False, False]


def test_a_report_that_is_none_is_refused(tmp_path):
    path = tmp_path / "report.jsonl"
    path.write_text('{"index": 0}\n')
    with pytest.raises(ValueError, match="Cannot read line 1 of"):
        read_report(path)
