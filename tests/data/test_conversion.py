import dataclasses

import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.data.conversion import Converter, convert_episodes, parse_assumptions
from libero_reward_envs.data.formats import open_writer
from libero_reward_envs.data.provenance import Provenance, read_provenance
from tests.data.episode_makers import make_episode


def test_what_is_wanted_is_made_and_said():
    episode = make_episode(orientation="raw", gripper_closed_at=1.0)
    converter = Converter({"orientation": "vla180", "gripper_closed_at": -1.0})
    converted = converter.convert(episode, "Episode 0")
    images = episode.observations["agentview_image"]
    np.testing.assert_array_equal(converted.observations["agentview_image"], images[:, ::-1, ::-1])
    np.testing.assert_array_equal(converted.observations["state"], episode.observations["state"])
    np.testing.assert_array_equal(converted.actions[:, :6], episode.actions[:, :6])
    np.testing.assert_array_equal(converted.actions[:, 6], -episode.actions[:, 6])
    provenance = read_provenance(converted.metadata)
    assert provenance == Provenance("test", orientation="vla180", gripper_closed_at=-1.0)
    np.testing.assert_array_equal(episode.observations["agentview_image"], images)


def test_episodes_of_two_conventions_are_refused_until_one_is_named():
    raw, upright = make_episode(orientation="raw"), make_episode(1, orientation="upright")
    converter = Converter()
    converter.convert(raw, "Episode 0")
    with pytest.raises(
        ValueError, match=r"Episode 1 .*orientation 'raw' before, 'upright' here.*--orientation"
    ):
        converter.convert(upright, "Episode 1")
    converter = Converter({"orientation": "upright"})
    for episode in (raw, upright):
        converted = read_provenance(converter.convert(episode, "an episode").metadata)
        assert converted is not None
        assert converted.orientation == "upright"
    slow = Converter()
    slow.convert(make_episode(control_freq_hz=20.0), "Episode 0")
    with pytest.raises(ValueError, match=r"control_freq_hz 20.0 before, 10.0 here. Convert them"):
        slow.convert(make_episode(control_freq_hz=10.0), "Episode 1")


def test_what_is_unknown_cannot_be_changed_unless_it_is_said():
    episode = make_episode()
    with pytest.raises(ValueError, match=r"Episode 0 does not say its orientation.*--assume"):
        Converter({"orientation": "upright"}).convert(episode, "Episode 0")
    converter = Converter({"orientation": "upright"}, parse_assumptions(("orientation=raw",)))
    converted = converter.convert(episode, "Episode 0")
    np.testing.assert_array_equal(
        converted.observations["agentview_image"], episode.observations["agentview_image"][:, ::-1]
    )
    said = make_episode(orientation="upright")
    unturned = converter.convert(said, "Episode 1")
    np.testing.assert_array_equal(
        unturned.observations["agentview_image"], said.observations["agentview_image"]
    )


def test_a_gripper_that_is_no_sign_is_not_turned():
    converter = Converter({"gripper_closed_at": 1.0})
    with pytest.raises(ValueError, match=r"close at 1 or -1, got 0\.0 here"):
        converter.convert(make_episode(gripper_closed_at=0.0), "Episode 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wanted": {"control_freq_hz": 10}}, "`wanted` cannot have control_freq_hz"),
        ({"assumed": {"colour": 1}}, "`assumed` cannot have colour"),
        ({"wanted": {"orientation": "left"}}, "`orientation` must be one of"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Converter(**arguments)


def test_a_second_run_goes_on_where_the_first_one_stopped(tmp_path):
    dataset = EpisodeDataset([make_episode(seed, orientation="raw") for seed in range(5)])
    path = tmp_path / "out.h5"

    with pytest.raises(StopError), EpisodeWriter(path) as writer:
        convert_episodes(dataset, writer, path=path, on_episode=stop_after(2))
    assert len(load_episodes(path)) == 2
    with EpisodeWriter(path) as writer:
        assert convert_episodes(dataset, writer, path=path) == 3
    for before, after in zip(dataset, load_episodes(path), strict=True):
        np.testing.assert_array_equal(before.actions, after.actions)
        for key, value in before.observations.items():
            np.testing.assert_array_equal(value, after.observations[key])
        assert (before.instruction, before.success) == (after.instruction, after.success)
    with EpisodeWriter(path) as writer:
        assert convert_episodes(dataset, writer, path=path) == 0
        with pytest.raises(ValueError, match="5 episodes are there, more than the 2"):
            convert_episodes(dataset[:2], writer, path=path)
        with pytest.raises(ValueError, match=r"Episode 0 of .* is not that of the source"):
            convert_episodes(dataset[1:] + dataset, writer, path=path)


class StopError(Exception):
    pass


def convert(episodes, path, converter=None, format="hdf5", **arguments):
    with open_writer(path, format) as writer:
        dataset = episodes if isinstance(episodes, EpisodeDataset) else EpisodeDataset(episodes)
        return convert_episodes(dataset, writer, converter, path=path, **arguments)


def stop_after(n_wanted):
    def stop(n_there):
        if n_there == n_wanted:
            raise StopError

    return stop


@pytest.mark.parametrize(
    ("format", "name"),
    [("hdf5", "a.h5"), ("minari", "a-v0"), ("npy", "a"), ("rlds", "a"), ("lerobot", "a")],
)
def test_every_format_is_gone_on_with_after_a_kill(tmp_path, format, name):
    rates = {"control_freq_hz": 20.0, "orientation": "raw"}
    dataset = EpisodeDataset([make_episode(seed, **rates) for seed in range(4)])
    failed = dataclasses.replace(dataset[1], success=False, rewards=np.zeros(3))
    dataset = EpisodeDataset([dataset[0], failed, *dataset[2:]])
    path = tmp_path / name
    with pytest.raises(StopError):
        convert(dataset, path, format=format, on_episode=stop_after(2))
    progress = tmp_path / f"{name}.progress.jsonl"
    lines = progress.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    progress.write_text(lines[0] + lines[1] + lines[2][:9])  # killed while it wrote a line
    assert convert(dataset, path, format=format) == 2
    assert len(load_episodes(path, format=format)) == 4
    assert convert(dataset, path, format=format) == 0
    assert len(progress.read_text().splitlines()) == 5


def test_a_refused_conversion_is_refused_again(tmp_path):
    mixed = [make_episode(0, orientation="raw"), make_episode(1, orientation="upright")]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Episode 1 .*orientation 'raw' before"):
            convert(mixed, tmp_path / "out.h5")
    assert len(load_episodes(tmp_path / "out.h5")) == 1


def test_other_settings_do_not_go_on_with_a_result(tmp_path):
    path = tmp_path / "out.h5"
    episodes = [make_episode(seed, orientation="raw") for seed in range(2)]
    convert(episodes[:1], path, Converter({"orientation": "upright"}))
    with pytest.raises(ValueError, match=r"other settings: wanted {'orientation': 'upright'}, not"):
        convert(episodes, path, Converter({"orientation": "vla180"}))
    with pytest.raises(ValueError, match=r"other settings: observation_keys None, not \['state'\]"):
        convert(episodes, path, Converter({"orientation": "upright"}), observation_keys=("state",))
    assert convert(episodes, path, Converter({"orientation": "upright"})) == 1
    (tmp_path / "out.h5.progress.jsonl").unlink()
    with pytest.raises(ValueError, match="which tells of which source"):
        convert(episodes, path, Converter({"orientation": "upright"}))
    path.unlink()
    assert convert(episodes, path) == 2


def test_what_the_first_episode_does_not_say_is_taken_from_the_next():
    converter = Converter()
    converter.convert(make_episode(0, control_freq_hz=20.0), "Episode 0")
    converter.convert(make_episode(1, orientation="raw"), "Episode 1")
    with pytest.raises(ValueError, match=r"Episode 2 .*orientation 'raw' before, 'upright' here"):
        converter.convert(make_episode(2, orientation="upright"), "Episode 2")
    with pytest.raises(ValueError, match=r"control_freq_hz 20.0 before"):
        converter.convert(make_episode(3, control_freq_hz=10.0), "Episode 3")


class DamagedSource:
    """Episodes of which some turn out to be damaged when they are read."""

    def __init__(self, episodes, damaged):
        self.episodes, self.damaged = EpisodeDataset(episodes), damaged

    def __len__(self):
        return len(self.episodes)

    def read(self, index, observation_keys=None):
        if index in self.damaged:
            raise ValueError(f"chunk of {index} is damaged")
        return self.episodes.read(index, observation_keys)

    def summaries(self):
        return self.episodes.summaries()


def test_damage_that_only_reading_shows_is_skipped_and_named(tmp_path):
    path = tmp_path / "out.h5"
    episodes = [make_episode(seed, 3 + seed) for seed in range(5)]
    source = EpisodeDataset(DamagedSource(episodes, {0, 2}))
    with pytest.raises(ValueError, match="chunk of 0"):
        convert(source, path)
    reasons = []
    skip = {"on_error": "skip", "on_skipped": reasons.append}
    with pytest.raises(StopError):
        convert(source, path, on_episode=stop_after(4), **skip)
    assert reasons == ["episode 0: chunk of 0 is damaged", "episode 2: chunk of 2 is damaged"]
    progress = tmp_path / "out.h5.progress.jsonl"
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:3]))  # the lines of episodes 2, skipped, and 3 are lost
    reasons.clear()
    assert convert(source, path, **skip) == 1
    assert [len(episode) for episode in load_episodes(path)] == [4, 6, 7]
    assert len(reasons) == 2
    with pytest.raises(ValueError, match="No episode can be read"):
        convert(EpisodeDataset(DamagedSource(episodes, set(range(5)))), tmp_path / "b.h5", **skip)


def test_masks_and_depths_are_turned_with_the_pictures():
    episode = make_episode(orientation="raw")
    rng = np.random.default_rng(0)
    parts = {
        "mask": rng.integers(0, 9, (4, 4, 6), np.uint8),
        "depth": rng.random((4, 4, 6, 1), np.float32),
        "first": rng.random((4, 3, 4, 6), np.float32),
        "pose": rng.random((4, 4, 4), np.float32),
    }
    episode = dataclasses.replace(episode, observations={**episode.observations, **parts})
    turned = Converter({"orientation": "upright"}).convert(episode, "Episode 0").observations
    np.testing.assert_array_equal(turned["mask"], parts["mask"][:, ::-1])
    np.testing.assert_array_equal(turned["depth"], parts["depth"][:, ::-1])
    np.testing.assert_array_equal(turned["first"], parts["first"][:, :, ::-1])
    np.testing.assert_array_equal(turned["pose"], parts["pose"])
    other = {**episode.observations, "large_depth": np.zeros((4, 32, 32), np.float32)}
    episode = dataclasses.replace(episode, observations=other)
    with pytest.raises(ValueError, match=r"Episode 0: Cannot tell whether 'large_depth'"):
        Converter({"orientation": "upright"}).convert(episode, "Episode 0")
    Converter({"orientation": "raw"}).convert(episode, "Episode 0")


def test_what_a_recording_says_beside_its_provenance_follows():
    episode = make_episode(orientation="raw", gripper_closed_at=1.0)
    told = {"orientation": "raw", "action_convention": "1 closes", "seed": 4}
    episode = dataclasses.replace(episode, metadata={**episode.metadata, **told})
    wanted = {"orientation": "upright", "gripper_closed_at": -1.0}
    metadata = Converter(wanted).convert(episode, "Episode 0").metadata
    assert (metadata["orientation"], metadata["seed"]) == ("upright", 4)
    assert "action_convention" not in metadata
    assert Converter().convert(episode, "Episode 0").metadata["action_convention"] == "1 closes"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("orientation", "<name>=<value>"),
        ("colour=red", "<name>=<value>"),
        ("control_freq_hz=fast", "Expected float"),
        ("no_ops_filtered=maybe", "Expected bool"),
    ],
)
def test_assumptions_that_are_none_are_refused(word, message):
    with pytest.raises(ValueError, match=message):
        parse_assumptions((word,))


def test_assumptions_have_the_types_of_a_provenance():
    words = ("image_size=128,128", "action_range=-1,1", "gripper_closed_at=-1")
    assert parse_assumptions(words) == {
        "image_size": (128, 128),
        "action_range": (-1.0, 1.0),
        "gripper_closed_at": -1.0,
    }
