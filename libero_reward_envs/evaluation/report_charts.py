"""The charts of the demonstration's report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.evaluation.figures import Axis, Series, draw_chart, make_axis, smooth
from libero_reward_envs.evaluation.replay import ReplayedEpisode

_SMOOTHING_STEPS = 10
_SMOOTHING_EPISODES = 10
_OUTCOMES = ((True, "Success", 1), (False, "Failure", 2))


def draw_return_by_length(episodes: Sequence[Mapping[str, Any]]) -> str:
    """Return the predicted return of held-out episodes against their length."""
    series = [
        Series(
            label,
            [episode["steps"] for episode in episodes if episode["success"] == success],
            [episode["predicted_return"] for episode in episodes if episode["success"] == success],
            "points",
            colour,
        )
        for success, label, colour in _OUTCOMES
    ]
    return draw_chart(
        "Predicted return and length",
        series,
        make_axis("steps", [episode["steps"] for episode in episodes], margin=0.06),
        make_axis(
            "predicted return",
            [episode["predicted_return"] for episode in episodes],
            margin=0.06,
        ),
    )


def draw_return_by_outcome(episodes: Sequence[Mapping[str, Any]], n_steps: int) -> str:
    """Return the predicted return of the first `n_steps` steps against the true outcome."""
    series = []
    for position, (success, label, colour) in enumerate(_OUTCOMES):
        values = [e["return_at_equal_length"] for e in episodes if e["success"] == success]
        # Spread sideways in a fixed pattern, so that equal values stay apart.
        places = position + 0.5 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
        series.append(Series(label, places, values, "points", colour))
    ticks = tuple((float(i), label.lower()) for i, (_, label, _) in enumerate(_OUTCOMES))
    return draw_chart(
        "Predicted return at equal length",
        series,
        Axis("true outcome", -0.6, 1.6, ticks),
        make_axis(
            f"predicted return, {n_steps} steps",
            [episode["return_at_equal_length"] for episode in episodes],
            margin=0.06,
        ),
    )


def reward_limits(replays: Sequence[ReplayedEpisode]) -> tuple[float, float]:
    """Return the lowest and highest reward of all, so that charts share their scale."""
    rewards = np.concatenate([replay.rewards for replay in replays])
    return float(rewards.min()), float(rewards.max())


def draw_replay(replay: ReplayedEpisode, low: float, high: float) -> str:
    """Return the reward of an episode against time, with its pictures below."""
    steps = np.arange(1, len(replay.rewards) + 1)
    colour = 1 if replay.name == "success" else 2
    axis = make_axis("step", [0, len(steps)])
    return draw_chart(
        f"Predicted reward, a {replay.name}",
        [
            Series("", steps, replay.rewards, "faint", colour),
            Series("", steps, smooth(replay.rewards, _SMOOTHING_STEPS), "line", colour),
        ],
        axis,
        make_axis("reward of a step", [low, high], margin=0.04),
        bands=_intervals(np.asarray(replay.gripper_closes, bool)),
        strip=replay.pictures,
    )


def draw_success_curve(curves: Mapping[str, np.ndarray]) -> str:
    """Return success and env return of training episodes against steps."""
    share = smooth(curves["success"], _SMOOTHING_EPISODES)
    env_return = smooth(curves["env_return"], _SMOOTHING_EPISODES)
    ticks = tuple((k / 4, f"{k / 4:.2f}") for k in range(5))
    return draw_chart(
        "True success and env return in training",
        [
            Series("env return", curves["step"], env_return, "points", 2),
            Series("success rate", curves["step"], share, "line", 1),
        ],
        make_axis("environment steps", [0, *curves["step"]]),
        Axis("mean of 10 episodes", -0.03, 1.03, ticks),
    )


def draw_learned_curve(curves: Mapping[str, np.ndarray]) -> str:
    """Return the learned reward per step of training episodes against steps."""
    per_step = curves["learned_return"] / np.maximum(curves["length"], 1)
    return draw_chart(
        "Learned reward per step in training",
        [
            Series("episode", curves["step"], per_step, "points", 3),
            Series(
                "mean of 10 episodes",
                curves["step"],
                smooth(per_step, _SMOOTHING_EPISODES),
                "line",
                3,
            ),
        ],
        make_axis("environment steps", [0, *curves["step"]]),
        make_axis("learned return / length", per_step, margin=0.06),
    )


def draw_fit(history: Sequence[Mapping[str, float]]) -> str:
    """Return the losses of fitting against steps of the optimiser, on a logarithmic scale."""
    steps = [report["step"] for report in history]
    series = []
    for key, label, colour in (("data_loss", "fitted", 3), ("holdout_loss", "held out", 4)):
        if history and key in history[0]:
            values = np.log10(np.maximum([report[key] for report in history], 1e-12))
            series.append(Series(label, steps, values, "line", colour))
    values = np.concatenate([one.y for one in series]) if series else np.zeros(0)
    axis = make_axis("squared error", values, margin=0.03, n_ticks=4)
    decades = range(int(np.ceil(axis.low)), int(np.floor(axis.high)) + 1)
    ticks = tuple((float(k), f"1e{k}") for k in decades)
    return draw_chart(
        "Loss of the reward (log scale)",
        series,
        make_axis("optimiser steps", [0, *steps]),
        Axis(axis.label, axis.low, axis.high, ticks),
    )


def _intervals(flags: np.ndarray) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]
