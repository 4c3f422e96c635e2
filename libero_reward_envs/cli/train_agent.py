"""Train SAC or PPO with a learned reward: `libero-reward train-agent --config FILE [KEY=VALUE]`.

Writes one folder, `out` of the configuration: settings, versions, logs (CSV, TensorBoard), returns
by env and by reward model, a figure of them, checkpoints, the agent, and its true success. The same
command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from libero_reward_envs.agents.train_agent import AgentRun

_PATH = tyro.conf.arg(metavar="PATH", help_behavior_hint="")


@dataclasses.dataclass(frozen=True)
class TrainAgentArgs:
    """Train an agent as a YAML file says, and evaluate it by true success.

    The blocks of the file are `env` (keyword arguments of gym.make, and `id`, `n_envs`), `agent`
    (`algorithm` SAC or PPO, `total_timesteps`, and SB3's hyperparameters), `reward`, `evaluation`,
    `checkpoints`, and `out`. Any value can be given on the command line as well, as in
    `reward.use_reward_model=True agent.total_timesteps=2000`.
    """

    overrides: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="[KEY=VALUE ...]")]
    ] = ()
    """Values that win over those of the file."""
    config: Annotated[Path | None, _PATH] = None
    """The YAML file."""
    config_path: Annotated[Path | None, _PATH] = None
    """Its folder, if it is given by `--config-name`."""
    config_name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Its name, without .yaml, in `--config-path`."""
    out: Annotated[Path | None, _PATH] = None
    """Folder of the run; wins over `out` in the file."""
    overwrite: bool = False
    """Delete the results of a run with other settings in the same folder."""


def main(args: TrainAgentArgs) -> None:
    """Read the file, train, and print what was found."""
    import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
    from libero_reward_envs.agent_config import load_agent_config
    from libero_reward_envs.agents.train_agent import train_agent

    path = find_config(args)
    config = load_agent_config(path, args.overrides)
    if args.out is not None:
        config = dataclasses.replace(config, out=str(args.out))
    print_result(train_agent(config, overwrite=args.overwrite, show_progress=True, tell=print))


def find_config(args: TrainAgentArgs) -> Path:
    """Return the path of the file.

    Raises:
        ValueError: If none was given, or two.
    """
    if (args.config is None) == (args.config_name is None):
        raise ValueError(
            "Expected one configuration: --config FILE, or --config-path DIR and "
            "--config-name NAME."
        )
    if args.config is not None:
        return args.config
    folder = args.config_path or Path()
    return folder / f"{str(args.config_name).removesuffix('.yaml')}.yaml"


def print_result(result: "AgentRun") -> None:
    """Print what was collected, the rewards of the last episodes, and true success."""
    if (counts := result.counts) is not None:
        print(
            f"Collected: {counts.positive_saved} positive and {counts.negative_saved} negative "
            f"trajectories; dropped beyond the limits: {counts.positive_dropped} and "
            f"{counts.negative_dropped}; unfinished: {counts.unfinished}"
        )
    if result.rewards:
        print("Last training episodes, sums of rewards:")
        for name, value in result.rewards.items():
            print(f"  reward/{name:22} {value:.4g}")
    if (rate := result.success) is not None:
        errors = f", {rate.errors} not finished" if rate.errors else ""
        print(
            f"True success: {rate.successes}/{rate.episodes} "
            f"(95 % interval {rate.low:.2f} to {rate.high:.2f}){errors}"
        )
    print(f"Trained for {result.timesteps} steps: {result.folder}")
