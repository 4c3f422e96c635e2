"""The report of a demonstration run: one HTML page that holds everything it shows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from libero_reward_envs.evaluation import report_charts as charts
from libero_reward_envs.evaluation.page import (
    make_cards,
    make_charts,
    make_figure,
    make_heading,
    make_page,
    make_paragraph,
    make_table,
    make_video,
)
from libero_reward_envs.evaluation.replay import ReplayedEpisode
from libero_reward_envs.evaluation.report_claims import describe_agent, describe_reward, list_limits
from libero_reward_envs.evaluation.report_tables import (
    format_interval,
    format_number,
    reproduce_command,
    summarize_policies,
    summarize_reward,
)

_EXACT = 1e-5  # metres or radians: rounding, which no picture shows
STAGES = {
    "collect": "Collect episodes",
    "reward": "Fit and judge the reward",
    "sac": "Train SAC",
    "evaluate": "Evaluate policies",
    "pictures": "Replay and draw episodes",
}


@dataclasses.dataclass(frozen=True)
class DemoResults:
    """What a run found, as its folder holds it.

    Args:
        task: Suite and name.
        instruction: What the task is.
        assets: Name of the asset set: "official", "builtin" or "folder".
        config: `config.json`: "arguments", "versions", "commit".
        times: Wall time of each stage, in seconds.
        quality: `reward_quality.json`: "measures", "episodes", "fitted".
        fit_history: The reports of `fit_rrd`.
        evaluation: By policy: "summary", a `SuccessRate`, and "episodes".
        curves: Columns of `LogCurves`.
        replays: One success and one failure, if there are any.
        no_pictures: Why nothing could be drawn; None if it could.
    """

    task: str
    instruction: str
    assets: str
    config: Mapping[str, Any]
    times: Mapping[str, float]
    quality: Mapping[str, Any]
    fit_history: Sequence[Mapping[str, float]]
    evaluation: Mapping[str, Any]
    curves: Mapping[str, np.ndarray]
    replays: Sequence[ReplayedEpisode]
    no_pictures: str | None = None

    @property
    def measures(self) -> Mapping[str, Any]:
        """The measures of `judge_scores`."""
        return self.quality["measures"]

    def summary(self, policy: str) -> Mapping[str, Any]:
        """The `SuccessRate` of a policy."""
        return self.evaluation[policy]["summary"]


def render_report(results: DemoResults) -> str:
    """Return the report as one HTML page that loads nothing from elsewhere."""
    title = f"Learned reward: {results.instruction}"
    body = [
        f"<h1>{_escape(title)}</h1>",
        make_paragraph(f"{results.task}, {_name_assets(results.assets)}", "soft"),
        *_headline(results),
        *_reward_section(results),
        *_replay_section(results),
        *_training_section(results),
        *_run_section(results),
    ]
    return make_page(title, body)


def _headline(results: DemoResults) -> list[str]:
    measures, sac, expert = results.measures, results.summary("sac"), results.summary("expert")
    cards = [
        (
            format_number(measures["matched_auroc"], 2),
            f"AUROC of the learned reward for success at equal lengths, where a clock has 0.5 "
            f"({measures['n_successes']} successes and "
            f"{measures['n_episodes'] - measures['n_successes']} failures held out)",
        ),
        (
            f"{sac['successes']}/{sac['episodes']}",
            f"episodes that SAC solved after training (95 % interval {format_interval(sac)})",
        ),
        (
            f"{expert['successes']}/{expert['episodes']}",
            f"episodes that the scripted expert solved (95 % interval {format_interval(expert)})",
        ),
    ]
    header = [
        "Policy",
        "True success",
        "95 % interval",
        "Mean steps",
        "Env return",
        "Learned reward per step",
        "Errors",
    ]
    return [
        make_cards(cards),
        make_heading("What this run shows, and what it does not"),
        make_paragraph(describe_reward(measures)),
        make_paragraph(describe_agent(results.summary("untrained"), sac, _budget(results))),
        *[make_paragraph(text, "soft") for text in list_limits(results.assets)],
        make_heading("True success"),
        make_table(summarize_policies(results.evaluation), header=header),
        make_paragraph(
            "Each policy starts from the same stored initial states with the same seeds; its most "
            "likely action is taken. Success is what LIBERO's goal predicates say, never what the "
            "learned reward says. Intervals are Wilson's. An error is an episode that could not "
            "be finished; it counts neither way.",
            "soft",
        ),
    ]


def _reward_section(results: DemoResults) -> list[str]:
    measures = results.measures
    fitted = results.quality["fitted"]
    figures = [
        make_figure(
            charts.draw_return_by_length(results.quality["episodes"]),
            "Held-out episodes. Where the two groups do not overlap from left to right, their "
            "length alone tells them apart, and so does any reward that is negative throughout.",
        ),
        make_figure(
            charts.draw_return_by_outcome(results.quality["episodes"], measures["shortest_steps"]),
            f"The same episodes judged by their first {measures['shortest_steps']} steps only, as "
            "long as the shortest one: length says nothing here.",
        ),
    ]
    undefined = measures.get("undefined")
    return [
        make_heading("The learned reward on held-out episodes"),
        make_paragraph(
            f"Randomized return decomposition was fitted to {fitted['n_episodes']} episodes, "
            f"{fitted['n_successes']} of them successes, and judged on "
            f"{measures['n_episodes']} others. The clock is any monotone function of the number of "
            "steps, its direction chosen on these very episodes; the constant gives every episode "
            "the same return. At equal lengths, a success and a failure are compared over as many "
            "steps as the shorter one has, so whatever a reward owes to its offset or to the clock "
            "cancels."
        ),
        make_table(
            summarize_reward(measures), header=["Measure", "Learned reward", "Clock", "Constant"]
        ),
        *([make_paragraph(f"Undefined: {undefined}.", "notice")] if undefined else []),
        make_charts(figures),
    ]


def _replay_section(results: DemoResults) -> list[str]:
    if not results.replays:
        return []
    parts = [make_heading("What the reward says while an episode runs")]
    if results.no_pictures:
        parts.append(make_paragraph(f"No pictures and no video: {results.no_pictures}", "notice"))
    low, high = charts.reward_limits(results.replays)
    figures = []
    for replay in results.replays:
        video = make_video(replay.video, f"Video of a {replay.name}") if replay.video else ""
        figures.append(
            make_figure(charts.draw_replay(replay, low, high) + video, _caption_replay(replay))
        )
    parts.append(make_charts(figures))
    parts.append(
        make_paragraph(
            "Of each outcome, the held-out episode with the median of the mean reward. The thin "
            "line is the reward of each step as the agent gets it; the thick one "
            "its mean over 10 steps. Shaded: the gripper is told to close. The pictures lie under "
            "their time.",
            "soft",
        )
    )
    return parts


def _training_section(results: DemoResults) -> list[str]:
    n_episodes = len(results.curves["step"])
    return [
        make_heading("Learning curves"),
        make_charts(
            [
                make_figure(
                    charts.draw_success_curve(results.curves),
                    f"SAC, {n_episodes} training episodes with random exploration. The env's own "
                    "return is 1 for a success and 0 otherwise. Mean over up to 10 episodes.",
                ),
                make_figure(
                    charts.draw_learned_curve(results.curves),
                    "What the agent was paid. It may rise without any success, which is why "
                    "agents are not judged by it.",
                ),
                make_figure(
                    charts.draw_fit(results.fit_history),
                    "Fitting the reward. A held-out loss far above the other one is overfitting.",
                ),
            ]
        ),
    ]


def _run_section(results: DemoResults) -> list[str]:
    arguments, versions = results.config["arguments"], results.config["versions"]
    times = [
        [label, f"{results.times[key]:.0f} s"]
        for key, label in STAGES.items()
        if key in results.times
    ]
    return [
        make_heading("What was run"),
        make_table([[name.replace("_", " "), str(value)] for name, value in arguments.items()]),
        make_table([*times, ["Together", f"{sum(results.times.values()):.0f} s"]]),
        make_table(
            [
                *[[name, version] for name, version in versions.items()],
                ["commit", results.config["commit"] or "not a checkout"],
                ["asset set", _name_assets(results.assets)],
            ]
        ),
        make_heading("Run it again"),
        f"<pre>{_escape(reproduce_command(arguments))}</pre>",
    ]


def _caption_replay(replay: ReplayedEpisode) -> str:
    text = f"A {replay.name}: {len(replay.rewards)} steps."
    if replay.largest_difference is None:
        return text
    if replay.largest_difference <= _EXACT:
        return f"{text} Played again from its recorded actions, through the same states."
    return (
        f"{text} Played again from its recorded actions; what is seen is not quite what was "
        f"recorded: the states differ by up to {replay.largest_difference:.2g}."
    )


def _budget(results: DemoResults) -> int:
    return int(results.config["arguments"]["sac_steps"])


def _name_assets(assets: str) -> str:
    return {
        "official": "LIBERO's own object models",
        "builtin": "built-in object models (not LIBERO's: these are no benchmark numbers)",
    }.get(assets, "object models from a folder of the user's")


def _escape(text: str) -> str:
    from html import escape

    return escape(text)
