"""The tables of the demonstration's report, as rows of texts."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

POLICIES = {
    "untrained": "SAC before training",
    "sac": "SAC after training",
    "expert": "Scripted expert (reference)",
}


def summarize_policies(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of a table: policy, successes, interval, steps, env return, learned reward."""
    rows = []
    for name, label in POLICIES.items():
        summary = evaluation[name]["summary"]
        rows.append(
            [
                label,
                f"{summary['successes']}/{summary['episodes']}",
                format_interval(summary),
                format_number(summary["mean_steps"], 0),
                format_number(summary["mean_env_return"], 2),
                format_number(_learned_reward_per_step(evaluation[name]["episodes"]), 4),
                str(summary["errors"]),
            ]
        )
    return rows


def summarize_reward(measures: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of a table: measure, learned reward, clock, constant."""
    rows = (
        ("AUROC, equal lengths", "matched_auroc", "clock_matched_auroc", "constant_auroc"),
        ("AUROC, mean reward per step", "mean_auroc", None, "constant_auroc"),
        ("AUROC, whole return", "return_auroc", "clock_auroc", "constant_auroc"),
        (
            "Average precision, whole return",
            "return_average_precision",
            "clock_average_precision",
            "constant_average_precision",
        ),
        ("Spearman with the true return", "return_spearman", "clock_spearman", "constant_spearman"),
        (
            "Pairs in order, equal lengths",
            "matched_pairwise_accuracy",
            "clock_matched_pairwise_accuracy",
            None,
        ),
        ("Share of variance within episodes", "within_episode_share", None, None),
    )
    return [
        [label, *("-" if key is None else format_number(measures[key], 3) for key in keys)]
        for label, *keys in rows
    ]


def format_number(value: float | None, digits: int) -> str:
    """Return a number as text; a value that is not defined says so."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def format_interval(summary: Mapping[str, Any]) -> str:
    """Return the interval of a `SuccessRate` in percent."""
    if summary["low"] is None:
        return "undefined"
    return f"{100 * summary['low']:.0f} to {100 * summary['high']:.0f} %"


def reproduce_command(arguments: Mapping[str, Any]) -> str:
    """Return the command that makes this run again."""
    words = ["libero-reward", "demo", "--out", "runs/demo"]
    for name, value in arguments.items():
        option = name.replace("_", "-")
        words += (
            [f"--{option}" if value else f"--no-{option}"]
            if isinstance(value, bool)
            else [f"--{option}", str(value)]
        )
    return shlex.join(words)


def _learned_reward_per_step(episodes: Sequence[Mapping[str, Any]]) -> float | None:
    returns = [(e["model_return"], e["steps"]) for e in episodes if e["model_return"] is not None]
    steps = sum(n for _, n in returns)
    return sum(value for value, _ in returns) / steps if steps else None
