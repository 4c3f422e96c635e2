"""Evaluate an agent by a published protocol: `libero-reward evaluate --agent AGENT --suite SUITE`.

Writes a folder: `config.json`, a row an episode in `episodes.jsonl`, `summary.json`, the actions of
all episodes and videos of some failures. The same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class EvaluationArgs:
    """What is evaluated, and how; of both commands."""

    suite: str = "libero_object"
    """Suite of LIBERO: libero_spatial, libero_object, libero_goal, libero_10 or libero_90."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK [TASK ...]")] = ()
    """Names or indices of its tasks; none for all."""
    trials: int | None = None
    """Episodes of each task; by default as many as the protocol has."""
    protocol: str = "openvla"
    """Name of the protocol: limits, settling, pictures, seeds, what an error counts as."""
    seed: int = 0
    """What the first trial of each task is reset with."""
    n_envs: int = 1
    """Environments, each in a process of its own; one batch serves all that need an action."""
    assets: str = "auto"
    """Object models: "auto", "official", "builtin", or a folder."""
    videos: int = 10
    """Failures to draw at the end, at most."""
    overwrite: bool = False
    """Delete the results of other settings in the same folder."""


@dataclasses.dataclass(frozen=True)
class EvaluateArgs:
    """Evaluate any agent on LIBERO by a published protocol."""

    agent: str
    """"expert", a .zip of Stable-Baselines3, a folder of train-agent, or an OpenVLA checkpoint."""
    out: Path
    """Folder of the results."""
    how: Annotated[EvaluationArgs, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=EvaluationArgs
    )


def main(args: EvaluateArgs) -> None:
    """Evaluate, and print success rates."""
    run(args.agent, args.out, args.how, {})


def run(agent_name: str, out: Path, how: EvaluationArgs, options: dict[str, Any]) -> None:
    """Evaluate an agent, and print success rates."""
    import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
    from libero_reward_envs.agents.evaluation_plan import EvaluationPlan
    from libero_reward_envs.agents.protocol_evaluation import evaluate_by_protocol
    from libero_reward_envs.evaluation.episode_rows import describe_summary
    from libero_reward_envs.evaluation.protocols import find_protocol

    plan = EvaluationPlan(
        find_protocol(how.protocol),
        how.suite,
        how.tasks or None,
        how.trials,
        how.seed,
        how.assets,
        how.n_envs,
        how.videos,
    )
    from stable_baselines3.common.utils import set_random_seed

    from libero_reward_envs.agents.evaluated_agents import load_agent

    set_random_seed(plan.protocol.model_seed)
    agent = load_agent(agent_name, plan.suite, plan.protocol, **options)
    summary = evaluate_by_protocol(
        agent, plan, out, overwrite=how.overwrite, show_progress=True, tell=print
    )
    print(f"{describe_summary(summary)}\nResults: {out}")
