import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from libero_reward_envs.agents import attempts, collection
from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.data import EpisodeDataset, load_episodes
from libero_reward_envs.data.safe_hdf5 import get_child, read_attribute
from libero_reward_envs.envs.tasks import STEP_LIMITS

MILK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"


def collect(path: Path, n_episodes: int, **keywords) -> EpisodeDataset:
    keywords = {"assets": "builtin", "progress": False, **keywords}
    return collect_episodes(MILK, n_episodes, path, **keywords)


def command(path: Path, n_episodes: int) -> list[str]:
    code = (
        "from libero_reward_envs.agents.collection import collect_episodes\n"
        f"collect_episodes({MILK!r}, {n_episodes}, {str(path)!r}, assets='builtin', progress=False)"
    )
    return [sys.executable, "-c", code]


def assert_same_episodes(left: EpisodeDataset, right: EpisodeDataset) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.metadata == other.metadata
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.observations["state"], other.observations["state"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, builtin_assets) -> EpisodeDataset:
    """Four episodes that one run made."""
    return collect(tmp_path_factory.mktemp("collected") / "episodes.h5", 4)


def test_half_of_the_episodes_succeed_and_say_how_they_were_made(whole):
    assert [episode.success for episode in whole] == [True, False, True, False]
    assert [episode.terminated for episode in whole] == [True, False, True, False]
    policies = [episode.metadata["policy"] for episode in whole]
    assert policies == ["expert", "noise", "expert", "wrong_object"]
    assert [episode.metadata["episode"] for episode in whole] == [0, 1, 2, 3]
    assert whole[0].task == MILK
    assert whole[0].metadata["collection"]["seed"] == 0


def test_a_success_ends_when_the_task_is_solved_and_a_failure_with_the_time(whole):
    assert len(whole[0]) < 200
    assert whole[0].rewards[-1] == 1.0
    assert whole[0].rewards[:-1].max() == 0.0
    assert len(whole[1]) == STEP_LIMITS["libero_object"]
    assert whole[1].rewards.max() == 0.0


def test_success_goes_on_for_some_steps_with_its_own_labels(whole, tmp_path):
    """What lasts and what does not, each frame says for itself."""
    path = tmp_path / "episodes.h5"
    (episode,) = collect(path, 1, steps_after_success=12)
    first = int(episode.rewards.argmax())
    assert first == len(whole[0]) - 1  # as before, up to there
    np.testing.assert_array_equal(episode.actions[: first + 1], whole[0].actions)
    assert len(episode) == first + 1 + 12
    assert episode.rewards[first:].all()
    assert episode.success
    assert not episode.terminated
    assert episode.metadata["collection"]["steps_after_success"] == 12
    with pytest.raises(ValueError, match=r"`steps_after_success` to be 12 .*got 0"):
        collect(path, 2)


def test_the_time_limit_comes_before_the_steps_after_success(whole, tmp_path):
    limit = len(whole[0]) + 3
    keywords = {"steps_after_success": 12, "max_episode_steps": limit}
    (episode,) = collect(tmp_path / "episodes.h5", 1, **keywords)
    assert len(episode) == limit
    assert episode.rewards.sum() == 4
    assert episode.success


def test_a_file_without_the_newer_settings_is_continued(whole, tmp_path, monkeypatch):
    path = tmp_path / "episodes.h5"
    collect(path, 1)
    with h5py.File(path, "r+") as file:
        demo = get_child(file, "data/demo_0", h5py.Group)
        attributes = demo.attrs
        metadata = json.loads(read_attribute(demo, "metadata", str))
        for name in ("steps_after_success", "expert_noise"):
            del metadata["collection"][name]
        del attributes["metadata"]
        content = json.dumps(metadata).encode()
        kind = h5py.string_dtype("utf-8", len(content))
        attributes.create("metadata", content, dtype=kind)
    assert len(collect(path, 1)) == 1
    monkeypatch.setattr(collection, "start_env", None)  # refused before the simulator is started
    with pytest.raises(ValueError, match=r"`expert_noise` to be 0\.0 .*got 0\.1"):
        collect(path, 2, expert_noise=0.1)


def test_noise_makes_other_successes_of_one_initial_state(whole, tmp_path):
    (noisy,) = collect(tmp_path / "episodes.h5", 1, expert_noise=0.1)
    state = noisy.observations["state"][0]
    np.testing.assert_array_equal(state, whole[0].observations["state"][0])
    assert noisy.success
    difference = np.abs(noisy.actions[:20] - whole[0].actions[:20])
    assert difference[:, :6].max() > 0.05
    assert difference[:, 6].max() == 0
    assert np.abs(noisy.actions).max() <= 1


def test_a_run_that_is_continued_makes_the_same_episodes(whole, tmp_path):
    path = tmp_path / "episodes.h5"
    assert len(collect(path, 1)) == 1
    assert_same_episodes(collect(path, 3), whole[:3])


def test_a_complete_file_is_left_as_it_is(whole, tmp_path, monkeypatch):
    path = tmp_path / "episodes.h5"
    collect(path, 2)
    before = path.stat()
    monkeypatch.setattr(collection, "start_env", None)  # the simulator is not even started
    assert len(collect(path, 2)) == 2
    assert len(collect(path, 1)) == 2
    assert path.stat() == before


def test_another_seed_gives_other_episodes(whole, tmp_path):
    other = collect(tmp_path / "episodes.h5", 1, seed=1)
    assert not np.array_equal(other[0].observations["state"][0], whole[0].observations["state"][0])


def test_other_settings_or_another_task_do_not_continue_a_file(tmp_path):
    path = tmp_path / "episodes.h5"
    collect(path, 1)
    with pytest.raises(ValueError, match=r"`seed` to be 0 as in .*episodes\.h5.*got 1\. Choose"):
        collect(path, 2, seed=1)
    with pytest.raises(ValueError, match=r"`success_fraction` to be 0\.5"):
        collect(path, 2, success_fraction=0.25)
    with pytest.raises(ValueError, match=r"`image_size` to be None .*got 64"):
        collect(path, 2, image_size=64)
    with pytest.raises(ValueError, match=r"`task` to be '.*milk.*got '.*butter"):
        collect_episodes(MILK.replace("milk", "butter"), 2, path, assets="builtin")
    assert len(load_episodes(path)) == 1


@pytest.mark.official_assets
def test_other_object_models_do_not_continue_a_file(tmp_path, official_assets):
    path = tmp_path / "episodes.h5"
    collect(path, 1)
    with pytest.raises(ValueError, match=r"`assets` to be 'builtin' .*got 'folder'"):
        collect(path, 2, assets=official_assets.path)
    assert len(load_episodes(path)) == 1


def test_a_file_from_elsewhere_is_not_continued(whole, tmp_path):
    from libero_reward_envs.data import EpisodeWriter

    path = tmp_path / "episodes.h5"
    with EpisodeWriter(path) as writer:
        writer.append(whole[1])  # its number is 1, not 0
    with pytest.raises(ValueError, match="its episode 0 is from elsewhere"):
        collect(path, 2)


def test_outcomes_have_the_wanted_share_in_any_first_part():
    for share in (0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0):
        wanted = [attempts.is_success_wanted(index, share) for index in range(100)]
        for n in range(1, 101):
            assert abs(sum(wanted[:n]) - n * share) <= 0.5 + 1e-6
        assert sum(wanted) == round(100 * share)


def test_what_cannot_be_had_is_given_up_with_an_error(tmp_path, monkeypatch):
    path = tmp_path / "episodes.h5"
    collect(path, 1)
    # An expert that never gets there: the episodes before stay, and nothing waits for ever.
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 2)
    monkeypatch.setitem(STEP_LIMITS, "libero_object", 5)
    with pytest.raises(RuntimeError, match=r"Expected successes on .*milk.* none in 2 attempts"):
        collect(path, 3)
    assert len(load_episodes(path)) == 2


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n_episodes": 0}, "`n_episodes` must be at least 1, got 0"),
        ({"success_fraction": 1.5}, r"`success_fraction` must be in \[0, 1\], got 1.5"),
        ({"obs_type": "pixels"}, "because the experts read the state, got 'pixels'"),
        ({"failures": ["sloth"]}, r"one or more of noise, .* got \['sloth'\]"),
        ({"failures": []}, r"got \[\]"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, keywords, message):
    with pytest.raises(ValueError, match=message):
        collect(tmp_path / "episodes.h5", **{"n_episodes": 1, **keywords})
    assert not list(tmp_path.iterdir())


def test_what_was_collected_survives_a_kill_and_is_continued(whole, tmp_path):
    path = tmp_path / "episodes.h5"
    process = subprocess.Popen(command(path, 100), start_new_session=True)
    pending = tmp_path / "episodes.h5.pending"
    deadline = time.monotonic() + 120
    while len(list(pending.glob("*.hdf5"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(load_episodes(path)) < 100
    if len(load_episodes(path)) <= 4:
        assert_same_episodes(collect(path, 4), whole)


def test_a_stop_by_hand_leaves_a_merged_file(tmp_path):
    path = tmp_path / "episodes.h5"
    process = subprocess.Popen(command(path, 100), start_new_session=True, stderr=subprocess.PIPE)
    pending = tmp_path / "episodes.h5.pending"
    deadline = time.monotonic() + 120
    while not list(pending.glob("*.hdf5")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode != 0
    assert path.exists()
    assert not pending.exists()
    assert len(load_episodes(path)) >= 1


def test_a_full_disk_is_one_error_and_keeps_what_was_written(whole, tmp_path):
    path = tmp_path / "episodes.h5"
    # Files of 100 kB at most: a success fits, a failure of full length does not.
    code = command(path, 4)[-1]
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n" + code
    )
    collect(path, 1)  # also writes the built-in models, which need longer files
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError")
    assert "Could not write an episode" in last
    assert "The 1 episodes before it are safe" in last
    assert_same_episodes(load_episodes(path), whole[:1])
    assert_same_episodes(collect(path, 2), whole[:2])
