import json

import pytest

from libero_reward_envs.evaluation.protocols import choose_tasks, find_protocol


def test_the_published_protocol_is_as_published() -> None:
    protocol = find_protocol("openvla")
    limits = {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}
    assert dict(protocol.step_limits) == {f"libero_{key}": limits[key] for key in limits}
    assert (protocol.trials, protocol.settle_steps, protocol.image_size) == (50, 10, 256)
    assert (protocol.orientation, protocol.jpeg, protocol.crop_area) == ("vla180", True, 0.9)
    assert (protocol.errors, protocol.model_seed, protocol.repeats) == ("failure", 7, 3)
    assert [protocol.seed(0, trial) for trial in (0, 1, 49)] == [0, 1, 49]
    assert json.loads(json.dumps(protocol.as_json()))["step_limits"]["libero_10"] == 520


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'openvla'"):
        find_protocol("openvl")
    with pytest.raises(ValueError, match="Did you mean 'libero_object'"):
        choose_tasks("libero_objects")
    with pytest.raises(ValueError, match="Did you mean 'libero_goal'"):
        find_protocol("openvla").step_limit("libero_goals")
    with pytest.raises(ValueError, match=r"must be in 0\.\.9"):
        choose_tasks("libero_goal", ("10",))
    with pytest.raises(ValueError, match="different tasks"):
        choose_tasks("libero_goal", ("1", "1"))


def test_tasks_are_named_or_numbered() -> None:
    assert len(choose_tasks("libero_90")) == 90
    (numbered,) = choose_tasks("libero_goal", ("7",))
    assert choose_tasks("libero_goal", (numbered.name,)) == [numbered]
