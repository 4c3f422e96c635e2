import json

import pytest

from libero_reward_envs.data.provenance import Provenance, read_provenance


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
    ],
)
def test_values_that_are_none_of_the_known_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        Provenance("rlds", **values)


@pytest.mark.parametrize("values", ["rlds", {"source_format": "rlds", "colour": 1}, {}])
def test_metadata_that_is_no_provenance_is_refused(values) -> None:
    with pytest.raises(ValueError, match="under 'provenance'"):
        read_provenance({"provenance": values})
