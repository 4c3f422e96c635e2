import dataclasses
import json
from typing import Any

import h5py
import pytest

from libero_reward_envs.data import EpisodeWriter
from libero_reward_envs.data.hdf5_frames import EpisodeFrames
from libero_reward_envs.data.provenance import Provenance, read_provenance
from tests.data.episode_makers import make_episode


def test_it_survives_json() -> None:
    provenance = Provenance(
        "rlds",
        image_size=(256, 256),
        orientation="vla180",
        action_range=(-0.9375, 0.9375),
        no_ops_filtered=True,
    )
    metadata = json.loads(json.dumps({"provenance": provenance.as_json()}))
    assert read_provenance(metadata) == provenance
    assert read_provenance({}) is None


def test_what_both_know_and_say_otherwise_is_found() -> None:
    first = Provenance("libero", orientation="raw", gripper_closed_at=1.0)
    second = Provenance("rlds", orientation="vla180", image_size=(256, 256))
    assert first.find_differences(second) == {"orientation": ("raw", "vla180")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"orientation": "left"}, "`orientation` must be one of None, 'upright'"),
        ({"action_convention": "velocity"}, "got 'velocity'"),
        ({"final_observation": "guessed"}, "'recorded', 'repeated', got 'guessed'"),
        ({"image_size": (1, 2, 3)}, "`image_size` must be two numbers"),
        ({"image_size": 5}, "`image_size` must be two numbers of pixels, got 5"),
        ({"image_size": (0, 4)}, "`image_size` must be two numbers of pixels"),
        ({"control_freq_hz": "abc"}, "`control_freq_hz` must be a rate above 0, got 'abc'"),
        ({"action_range": ("a", "b")}, "`action_range` must be two numbers"),
        ({"action_range": (1, -1)}, "the lower one first"),
        ({"gripper_closed_at": "x"}, "`gripper_closed_at` must be a number, got 'x'"),
        ({"gripper_closed_at": float("nan")}, "`gripper_closed_at` must be a number"),
        ({"no_ops_filtered": "no"}, "`no_ops_filtered` must be True or False"),
        ({"reward_source": 1}, "`reward_source` must be a string"),
        ({"success_source": []}, "`success_source` must be a string"),
    ],
)
def test_values_that_are_none_of_the_known_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        Provenance("rlds", **values)


@pytest.mark.parametrize("values", ["rlds", {"source_format": "rlds", "colour": 1}, {}])
def test_metadata_that_is_no_provenance_is_refused(values) -> None:
    with pytest.raises(ValueError, match="under 'provenance'"):
        read_provenance({"provenance": values})


@pytest.mark.parametrize(
    ("metadata", "orientation"),
    [
        ({"orientation": "raw"}, "raw"),
        ({"orientation": "raw", "provenance": {"source_format": "x"}}, None),
        (
            {"orientation": "raw", "provenance": {"source_format": "x", "orientation": "upright"}},
            "upright",
        ),
        ({"orientation": "raw", "provenance": {"colour": 1}}, None),
    ],
)
def test_frames_lie_as_the_provenance_says(tmp_path, metadata, orientation) -> None:
    path = tmp_path / "episodes.h5"
    with EpisodeWriter(path) as writer:
        writer.append(dataclasses.replace(make_episode(), metadata=metadata))
    with h5py.File(path) as file:
        demo: Any = file["data/demo_0"]
        assert EpisodeFrames(path, "demo_0", ["agentview_image"], demo).orientation == orientation
