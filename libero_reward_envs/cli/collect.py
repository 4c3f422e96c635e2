"""Collect episodes of a scripted expert: `libero-reward collect --task TASK --out FILE`.

Writes one HDF5 file in LIBERO's layout, with successes of the expert and failures of many kinds,
and says what is in it. The same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libero_reward_envs.data.episodes import EpisodeDataset


@dataclasses.dataclass(frozen=True)
class CollectArgs:
    """Collect successes and failures of a task into a file."""

    task: str
    """Name of a task that has an expert, `suite/name`, or its index in `--suite`."""
    out: Path
    """The HDF5 file; episodes that a stopped run left in it are kept."""
    suite: str | None = None
    """Suite of the task, e.g. libero_object; not needed where `--task` says it."""
    episodes: int = 100
    """Episodes that the file is to hold in the end."""
    success_fraction: float = 0.5
    """Share of them that are successes, in 0..1."""
    seed: int = 0
    """Decides every episode: same seed, same episodes."""
    obs_type: str = "state"
    """Observations: "state", or "pixels_state" for images as well."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    orientation: str = "upright"
    """Of the images: "upright", "raw" as in LIBERO's files, or "vla180" as for OpenVLA."""
    assets: str = "auto"
    """Object models: "auto", "official", "builtin", or a folder."""
    init_states: str = "benchmark"
    """Where episodes begin: LIBERO's 50 stored states ("benchmark"), or new ones ("sampled")."""


def main(args: CollectArgs) -> None:
    """Collect, and print what the file holds."""
    from libero_reward_envs.agents.collection import collect_episodes
    from libero_reward_envs.envs.tasks import find_task

    images = {}
    if args.obs_type != "state":
        images = {"image_size": args.image_size, "orientation": args.orientation}
    dataset = collect_episodes(
        find_task(args.suite, int(args.task) if args.task.isdigit() else args.task),
        args.episodes,
        args.out,
        success_fraction=args.success_fraction,
        seed=args.seed,
        obs_type=args.obs_type,
        assets=args.assets,
        init_states=args.init_states,
        **images,
    )
    print(describe(args.out, dataset))


def describe(path: Path, dataset: "EpisodeDataset") -> str:
    """Return a line on what the file holds."""
    summaries = dataset.summaries()
    n_successes = sum(summary.success for summary in summaries)
    n_steps = sum(summary.length for summary in summaries)
    policies = sorted({str(summary.metadata.get("policy")) for summary in summaries})
    return (
        f"{path}: {len(summaries)} episodes, {n_successes} successes and "
        f"{len(summaries) - n_successes} failures, {n_steps} steps, made by {', '.join(policies)}."
    )
