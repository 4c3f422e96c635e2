"""A robot is driven at its rate, and stopped by limits, deadlines, errors and people."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.agents.action_limits import ActionLimits, ActionRefused
from libero_reward_envs.agents.robot_config import (
    LimitSettings,
    TaskConfig,
    load_robot_config,
    load_task_config,
    make_robot_env,
)
from libero_reward_envs.agents.robot_log import RobotOutcome
from libero_reward_envs.agents.robot_loop import RobotLoop
from libero_reward_envs.agents.robot_session import drive_robot
from libero_reward_envs.data import Episode, load_episodes
from libero_reward_envs.data.provenance import read_provenance
from tests.agents.two_arm_robot import (
    CAMERAS,
    ArmsWithoutHold,
    ScriptedPolicy,
    TwoArmRobot,
    make_config,
)

EXAMPLE = Path(__file__).parents[2] / "examples/openvla_policy/agilex_aloha.yaml"
TASK = TaskConfig("cube", "lift the cube", max_steps=8)


def wave(n: int) -> np.ndarray:
    return np.full(14, 0.1 * (-1) ** n)


def run(
    env: TwoArmRobot, policy: ScriptedPolicy, task: TaskConfig = TASK, **changes: Any
) -> tuple[RobotOutcome, Episode | None]:
    loop = RobotLoop(env, policy, make_config(**changes), task)
    try:
        loop.warm_up()
        policy.is_warm = True
        return loop.run_episode(seed=0)
    finally:
        loop.close()


def test_the_rate_is_kept_while_the_policy_thinks() -> None:
    env, policy = TwoArmRobot(), ScriptedPolicy(wave, dict.fromkeys(range(8), 0.04))
    outcome, episode = run(env, policy)
    assert (outcome.reason, outcome.steps, outcome.missed_deadlines) == ("max_steps", 8, 0)
    spans = np.diff(env.sent_at[:8])
    assert abs(np.median(spans) - 0.1) < 0.02
    assert outcome.rate_hz == pytest.approx(10, rel=0.2)
    assert outcome.answer_ms_median is not None
    assert 40 <= outcome.answer_ms_median < 90
    assert policy.asked[-1][1] == "lift the cube"
    assert episode is not None
    np.testing.assert_allclose(episode.actions, np.stack(env.sent[:8]), atol=1e-6)
    # At the end it is held where it is, which is no step of the episode.
    assert outcome.held
    assert len(env.sent) == 9
    np.testing.assert_array_equal(env.sent[8], env.sent[7])


def test_the_policy_sees_the_observation_after_its_last_action() -> None:
    env, policy = TwoArmRobot(), ScriptedPolicy(wave)
    _, episode = run(env, policy)
    assert episode is not None
    seen = [observation["proprio"] for observation, _ in policy.asked[2:]]
    np.testing.assert_array_equal(seen, episode.observations["proprio"][:-1])
    np.testing.assert_allclose(episode.observations["proprio"][1:], episode.actions, atol=1e-6)
    assert {*episode.observations} == {"proprio", *(f"{name}_image" for name in CAMERAS)}
    assert episode.observations["cam_left_wrist_image"].max() == 10


def test_a_missed_deadline_holds_the_robot_and_its_action_is_dropped() -> None:
    env = TwoArmRobot()
    policy = ScriptedPolicy(lambda n: np.full(14, 0.1 * (n + 1)), {2: 0.16})
    outcome, _ = run(env, policy, max_missed_deadlines=2)
    assert outcome.reason == "max_steps"
    assert 1 <= outcome.missed_deadlines <= 2
    first = [round(float(action[0]), 3) for action in env.sent]
    assert first[:3] == [0.1, 0.2, 0.2]  # held
    assert 0.3 not in first  # the late one
    assert 0.4 in first


def test_missed_deadlines_in_a_row_stop_the_robot_even_if_the_policy_never_answers() -> None:
    env, policy = TwoArmRobot(), ScriptedPolicy(wave, {1: 3.0})
    began = time.monotonic()
    outcome, episode = run(env, policy, max_missed_deadlines=2)
    assert time.monotonic() - began < 2
    assert (outcome.reason, outcome.steps, outcome.missed_deadlines) == ("deadlines", 3, 3)
    assert outcome.held
    assert episode is not None
    np.testing.assert_array_equal(env.sent[1], env.sent[0])


def test_a_robot_that_cannot_be_held_stops_at_the_first_missed_deadline() -> None:
    env, policy = ArmsWithoutHold(), ScriptedPolicy(wave, {1: 1.0})
    outcome, _ = run(env, policy)
    assert (outcome.reason, outcome.steps, outcome.held) == ("deadlines", 1, False)
    with pytest.raises(ValueError, match=r"no `hold\(\)`"):
        run(env, policy, max_missed_deadlines=1)


def test_a_robot_that_is_too_slow_for_its_rate_stops() -> None:
    env = TwoArmRobot(slow_steps=range(2, 9), slow_s=0.16)
    outcome, _ = run(env, ScriptedPolicy(wave), max_missed_deadlines=2)
    assert outcome.reason == "deadlines"
    assert outcome.late_steps == 3


@pytest.mark.parametrize(
    ("action", "changes", "message"),
    [
        (1.2, {}, "number 3 is 1.2, allowed are -1 to 1"),
        (np.nan, {}, "not finite"),
        (0.5, {"max_change": (0.25,) * 14}, "number 3 is 0.5, allowed are -0.15 to 0.35"),
    ],
)
def test_an_action_beyond_the_limits_stops_the_robot(
    action: float, changes: Any, message: str
) -> None:
    def act(n: int) -> np.ndarray:
        return np.where(np.arange(14) == 3, action if n == 2 else 0.1, 0.0)

    env = TwoArmRobot()
    outcome, episode = run(env, ScriptedPolicy(act), limits=changes)
    assert (outcome.reason, outcome.steps, outcome.held) == ("limits", 2, True)
    assert message in (outcome.detail or "")
    assert np.stack(env.sent).max() == pytest.approx(0.1)
    assert episode is not None
    assert len(episode) == 2


def test_actions_are_clipped_where_that_is_asked_for() -> None:
    limits = {"max_change": (0.25,) * 14, "on_violation": "clip", "high": (0.6,) * 14}
    env = TwoArmRobot()
    outcome, _ = run(env, ScriptedPolicy(lambda n: np.ones(14)), limits=limits)
    sent = [float(action[0]) for action in env.sent[:8]]
    np.testing.assert_allclose(sent, [0.25, 0.5, *[0.6] * 6], atol=1e-6)
    assert (outcome.reason, outcome.clipped) == ("max_steps", 8)


def test_limits_are_in_the_robots_units() -> None:
    low, high = np.array([0.0, -2.0]), np.array([0.1, 2.0])
    limits = ActionLimits(LimitSettings((0.0, -1.0), (0.1, 1.0)), low, high)
    limits.begin(None)
    sent = limits.check(limits.to_robot(np.array([1.0, 0.5])))
    np.testing.assert_allclose(sent, [0.1, 1.0])
    np.testing.assert_allclose(limits.to_policy(sent), [1.0, 0.5])
    with pytest.raises(ActionRefused, match=r"number 1 is 1\.2"):
        limits.check(limits.to_robot(np.array([1.0, 0.6])))
    with pytest.raises(ValueError, match="Expected `limits` within"):
        ActionLimits(LimitSettings((0.0, -1.0), (0.2, 1.0)), low, high)
    changing = ActionLimits(LimitSettings((0.0,), (1.0,), max_change=(0.1,)))
    with pytest.raises(ValueError, match="not where the robot begins"):
        changing.begin(None)
    with pytest.raises(ValueError, match="begin within"):
        changing.begin(np.array([-0.5]))


def test_errors_of_policy_and_robot_end_the_episode_and_keep_its_log() -> None:
    outcome, episode = run(TwoArmRobot(), ScriptedPolicy(lambda n: wave(n) if n < 3 else 1 / 0))
    assert (outcome.reason, outcome.steps, outcome.held) == ("policy_error", 3, True)
    assert "ZeroDivisionError" in (outcome.detail or "")
    assert episode is not None
    outcome, episode = run(TwoArmRobot(broken_step=2), ScriptedPolicy(wave))
    assert (outcome.reason, outcome.steps, outcome.held) == ("robot_error", 2, False)
    assert "an arm does not answer; and it could not be held" in (outcome.detail or "")
    assert episode is not None
    with pytest.raises(ValueError, match=r"Expected 14 numbers .* \(7,\)"):
        run(TwoArmRobot(), ScriptedPolicy(lambda n: np.zeros(7)))


def test_ctrl_c_holds_the_robot_and_keeps_the_log() -> None:
    env = TwoArmRobot()
    task = TaskConfig("cube", "lift", max_steps=100)
    timer = threading.Timer(0.4, signal.raise_signal, [signal.SIGINT])
    timer.start()
    outcome, episode = run(env, ScriptedPolicy(wave), task)
    assert (outcome.reason, outcome.held) == ("interrupted", True)
    assert episode is not None
    assert len(episode) == outcome.steps < 20


def test_a_session_writes_episodes_and_a_summary(tmp_path: Path) -> None:
    env, policy = TwoArmRobot(success_step=3), ScriptedPolicy(wave)
    lines: list[str] = []
    config = make_config(action_low=(-2.0,) * 14, action_high=(2.0,) * 14)
    summary = drive_robot(env, policy, config, TASK, tmp_path, n_episodes=2, tell=lines.append)
    assert env.is_closed
    assert (summary["episodes"], summary["successes"], summary["faults"]) == (2, 2, 0)
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert len(lines) == 2
    assert "terminated after 4 steps, success" in lines[0]
    episodes = load_episodes(tmp_path / "episodes.h5")
    assert len(episodes) == 2
    assert episodes[0].terminated
    assert (episodes[0].task, episodes[0].instruction) == ("cube", "lift the cube")
    np.testing.assert_allclose(episodes[0].actions, [wave(n) for n in range(4)], atol=1e-6)
    np.testing.assert_allclose(env.sent[0], np.full(14, 0.2), atol=1e-6)
    told = read_provenance(episodes[0].metadata)
    assert told is not None
    assert (told.control_freq_hz, told.image_size, told.action_range) == (10, (32, 32), (-2, 2))
    with pytest.raises(FileExistsError, match="earlier session"):
        drive_robot(env, policy, config, TASK, tmp_path)


def test_a_fault_ends_the_session(tmp_path: Path) -> None:
    env, policy = TwoArmRobot(), ScriptedPolicy(lambda n: np.full(14, 2.0 * (n == 1)))
    summary = drive_robot(env, policy, make_config(), TASK, tmp_path, n_episodes=3)
    assert (summary["episodes"], summary["faults"], len(summary["outcomes"])) == (0, 1, 1)
    assert summary["success_interval"] is None
    assert len(load_episodes(tmp_path / "episodes.h5")) == 1


def test_what_does_not_fit_is_refused_before_the_robot_moves() -> None:
    env, policy = TwoArmRobot(), ScriptedPolicy(wave)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n_actions": 7}, "Box of 7 numbers"),
        ({"cameras": {"a_image": "cam_top"}}, "cam_top missing"),
        ({"deadline_s": 0.2}, "at most 0.1,"),
        ({"control_freq_hz": 0.0}, "control_freq_hz"),
        ({"limits": {"low": (-3.0,) * 14}}, "Expected `limits` within"),
        ({"limits": {"high": (1.0,)}}, "Expected 14 finite numbers for `limits.high`"),
        ({"orientation": "sideways"}, "`orientation` must be one of"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(env, policy, **changes)
    with pytest.raises(ValueError, match="GiB"):
        run(env, policy, TaskConfig(max_steps=10**6))
    assert env.sent == []


def test_the_example_of_a_robot_is_read(tmp_path: Path) -> None:
    config = load_robot_config(EXAMPLE)
    assert len(config.limits.low) == 14
    assert len(config.cameras) == 3
    low, high = np.array(config.action_low), np.array(config.action_high)
    assert ActionLimits(config.limits, low, high).n_actions == 14
    with pytest.raises(ImportError, match="PYTHONPATH"):
        make_robot_env(config)
    text = EXAMPLE.read_text()
    path = tmp_path / "robot.yaml"
    path.write_text(text.replace("deadline_s", "deadlines_s"))
    with pytest.raises(ValueError, match="Did you mean 'deadline_s'"):
        load_robot_config(path)
    path.write_text("instruction: fold the towel\nmax_steps: 9\n")
    assert load_task_config(path, max_steps=5) == TaskConfig("", "fold the towel", 5)
    path.write_text("max_steps: 0\n")
    with pytest.raises(ValueError, match=r"task|robot.yaml.*max_steps"):
        load_task_config(path)
