"""Play recorded actions again with other pictures: `libero-reward regenerate SOURCE OUT`.

As the modified RLDS sets of LIBERO were made: idle steps left out, episodes that fail now left out.
Writes an HDF5 file and beside it a report, `<out>.report.jsonl`, of which episodes still succeed.
The same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class RegenerateArgs:
    """Play recorded actions again in the simulator, and record what is seen now."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """File or folder of episodes of any known format that hold their initial states."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The HDF5 file to write."""
    image_size: int = 256
    """Height and width of the pictures, in pixels."""
    orientation: Literal["upright", "raw", "vla180"] = "raw"
    """Of the pictures."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = (
        "agentview",
        "robot0_eye_in_hand",
    )
    """Cameras of the pictures."""
    keep_no_ops: bool = False
    """Play idle steps too."""
    keep_failures: bool = False
    """Write episodes that fail now too."""
    settle_steps: int = 10
    """Still steps after each reset."""
    assets: str = "auto"
    """Object models: "auto", "official", "builtin", or a folder."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Arguments of the reader of the source."""


def main(args: RegenerateArgs) -> None:
    """Play with a progress bar, and say what still succeeds."""
    from tqdm import tqdm

    from libero_reward_envs.agents.regeneration import regenerate_episodes
    from libero_reward_envs.agents.regeneration_report import describe_report
    from libero_reward_envs.cli.convert import check_apart, parse_options
    from libero_reward_envs.data.episode_writer import EpisodeWriter
    from libero_reward_envs.data.formats import load_episodes
    from libero_reward_envs.envs.libero_env import LiberoEnv

    check_apart(args.source, args.out)
    dataset = load_episodes(args.source, **parse_options(args.option))

    def make_env(task: str, init_states: str) -> Any:
        suite, _, name = task.rpartition("/")
        return LiberoEnv(
            suite or None,
            name,
            obs_type="pixels_state",
            cameras=args.cameras,
            image_size=args.image_size,
            orientation=args.orientation,
            init_states=init_states,
            settle_steps=args.settle_steps,
            terminate_on_success=False,
            assets=args.assets,
        )

    report = args.out.with_name(args.out.name + ".report.jsonl")
    with (
        EpisodeWriter(args.out) as writer,
        tqdm(total=len(dataset), desc="regenerate", unit="episode") as bar,
    ):
        rows = regenerate_episodes(
            dataset,
            writer,
            make_env,
            path=args.out,
            report_path=report,
            drop_no_ops=not args.keep_no_ops,
            keep_failures=args.keep_failures,
            on_episode=lambda row: bar.update(row.index + 1 - bar.n),
        )
    print(f"{describe_report(rows)}\nEpisodes: {args.out}\nReport: {report}")
