"""What a run's numbers allow to be said, in words."""

from collections.abc import Mapping
from typing import Any

_CLOCK_MARGIN = 0.02  # AUROC; less than this above the clock is no advantage worth a claim


def describe_reward(measures: Mapping[str, Any]) -> str:
    """Return what the held-out episodes say about the reward."""
    matched = measures["matched_auroc"]
    if matched is None:
        return (
            "Whether the reward tells success from failure cannot be said: "
            f"{measures['undefined']}."
        )
    n_successes = measures["n_successes"]
    n_pairs = n_successes * (measures["n_episodes"] - n_successes)
    text = (
        f"Over equal numbers of steps, the learned reward puts the success above the failure in "
        f"{100 * matched:.0f} % of {n_pairs} held-out pairs; a clock or a constant would in 50 %. "
        f"{_grade(matched)}"
    )
    if measures["clock_auroc"] >= measures["return_auroc"] - _CLOCK_MARGIN:
        text += (
            f" The AUROC of the whole return, {measures['return_auroc']:.2f}, is no evidence: the "
            f"clock reaches {measures['clock_auroc']:.2f}, because failures run to the time limit."
        )
    return text


def describe_agent(
    untrained: Mapping[str, Any], trained: Mapping[str, Any], total_timesteps: int
) -> str:
    """Return what the evaluation says about training on the reward."""
    if not trained["episodes"] or not untrained["episodes"]:
        return "Nothing can be said about SAC: no evaluation episode could be finished."
    counts = f"{trained['successes']} of {trained['episodes']} episodes"
    before = f"{untrained['successes']} of {untrained['episodes']}"
    if trained["low"] > untrained["high"]:
        return (
            f"After {total_timesteps} steps SAC solved {counts}, before training {before}; the "
            "95 % intervals do not overlap. This is one seed: it shows that the reward can train "
            "an agent on this task, not how often it does."
        )
    if trained["successes"] == 0:
        return (
            f"SAC did not solve the task: {counts} after {total_timesteps} steps, {before} before "
            "training. Pick-and-place takes far more steps than this run has, so the run shows "
            "that training on the learned reward works from end to end, and neither that the "
            "reward is good enough to learn from nor that it is not."
        )
    return (
        f"After {total_timesteps} steps SAC solved {counts}, before training {before}. The 95 % "
        "intervals overlap, so this run does not show that training helped."
    )


def list_limits(assets: str) -> list[str]:
    """Return what no run of this size can show."""
    limits = [
        "One task, one seed, few episodes: the numbers vary between runs, and no comparison of "
        "methods follows from them. Held out are whole episodes, not initial states: training "
        "may have begun from the same states as evaluation.",
        "The held-out episodes are of the same scripted policies as the fitted ones. How the "
        "reward judges what an agent does that no script did is not tested by them.",
    ]
    if assets != "official":
        limits.append(
            "The objects are not LIBERO's own models, so success rates here are no LIBERO "
            "benchmark numbers and cannot be compared with any."
        )
    return limits


def _grade(matched: float) -> str:
    if matched >= 0.9:
        return "It tells them apart by what happens."
    if matched >= 0.7:
        return "It tells many of them apart by what happens, with errors."
    if matched > 0.5:
        return "That is weak: few episodes more or less could undo it."
    return "It does not tell them apart by what happens."
