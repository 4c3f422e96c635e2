"""Collect episodes of a scripted expert: `libero-reward collect --task TASK --out FILE`.

Writes one HDF5 file in LIBERO's layout, with successes of the expert and failures of many kinds,
and says what is in it. The same command goes on where a stopped run was. With `--positive-dir` and
`--negative-dir` instead of `--out` it adds to the two folders of a success classifier's data.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from libero_reward_envs.data.episodes import EpisodeDataset
    from libero_reward_envs.data.trajectory_store import CollectionCounts
    from libero_reward_envs.envs.tasks import Task

_FRAMES_OF_SUCCESS = 10  # steps after success, in folders for a classifier
_FOLDERS_ONLY = ("storage", "max_positive_trajectories", "max_negative_trajectories")


@dataclasses.dataclass(frozen=True)
class CollectArgs:
    """Collect successes and failures of a task into a file, or into two folders."""

    task: Annotated[
        str | None, tyro.conf.arg(metavar="TASK", help_behavior_hint="(this or --preset)")
    ] = None
    """Name of a task that has an expert, `suite/name`, or its index in `--suite`."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or two folders)")
    ] = None
    """The HDF5 file; episodes that a stopped run left in it are kept."""
    positive_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or --out)")
    ] = None
    """Folder that gets the successes, as images with a label each; what lies there is kept."""
    negative_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or --out)")
    ] = None
    """Folder that gets the failures."""
    suite: str | None = None
    """Suite of the task, e.g. libero_object; not needed where `--task` says it."""
    episodes: int = 100
    """Episodes that the file is to hold in the end, or that are added to the folders."""
    success_fraction: float = 0.5
    """Share of them that are successes, in 0..1."""
    seed: int = 0
    """Decides every episode: same seed, same episodes."""
    steps_after_success: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT", help_behavior_hint=f"(default: 0, in folders {_FRAMES_OF_SUCCESS})"
        ),
    ] = None
    """Steps for which an episode goes on after success. Without any, a success has one frame."""
    expert_noise: float = 0.0
    """Standard deviation of the noise on the expert's movements, which are in -1..1. Without it, an
    initial state always leads to the same success."""
    max_episode_steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the suite's)")
    ] = None
    """Time limit of an episode."""
    obs_type: str = "state"
    """Observations in the file: "state", or "pixels_state" for images as well."""
    image_key: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            metavar="KEY [KEY ...]",
            help_behavior_hint="(default: both cameras, in folders agentview_image)",
        ),
    ] = None
    """The images, a camera's name and "_image" each."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    orientation: str = "upright"
    """Of the images: "upright", "raw" as in LIBERO's files, or "vla180" as for OpenVLA."""
    storage: Literal["auto", "npy", "hdf5"] = "auto"
    """In folders: a .npy file each, or one HDF5 file a run, a sixteenth of the size; "auto" is npy
    if both limits are set and add up to at most 1000."""
    max_positive_trajectories: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: no limit)")
    ] = None
    """Successes that this run puts into the folder at most."""
    max_negative_trajectories: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: no limit)")
    ] = None
    """Failures that this run puts into the folder at most."""
    assets: str = "auto"
    """Object models: "auto", "official", "builtin", or a folder."""
    init_states: str = "benchmark"
    """Where episodes begin: LIBERO's 50 stored states ("benchmark"), or new ones ("sampled")."""
    preset: Annotated[
        Literal["starter"] | None,
        tyro.conf.arg(metavar="starter", help_behavior_hint="(this or --task)"),
    ] = None
    """"starter": two successes and two failures of each task of `--suite`, a file each in the
    folder `--out`, so that every example runs without a download."""


def main(args: CollectArgs) -> None:
    """Collect, and print what there is."""
    from libero_reward_envs.envs.tasks import find_task

    _check_places(args)
    if args.preset is not None:
        print(describe(_place(args), _collect_starter_set(args)))
        return
    if args.task is None:
        raise ValueError("Expected --task, or --preset starter for all tasks of a suite.")
    task = find_task(args.suite, int(args.task) if args.task.isdigit() else args.task)
    common: dict[str, Any] = {
        "success_fraction": args.success_fraction,
        "seed": args.seed,
        "assets": args.assets,
        "expert_noise": args.expert_noise,
        "init_states": args.init_states,
    }
    if args.max_episode_steps is not None:
        common["max_episode_steps"] = args.max_episode_steps
    if args.out is not None:
        print(describe(args.out, _collect_file(args, task, args.out, common)))
    else:
        print(_describe_counts(args, _collect_folders(args, task, common)))


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


def _check_places(args: CollectArgs) -> None:
    folders = (args.positive_dir, args.negative_dir)
    given = [folder is not None for folder in folders]
    if (args.out is not None) == any(given) or any(given) != all(given):
        raise ValueError(
            "Expected either --out, for one file, or both --positive-dir and --negative-dir, got "
            f"--out {args.out}, --positive-dir {args.positive_dir}, --negative-dir "
            f"{args.negative_dir}."
        )
    defaults = {field.name: field.default for field in dataclasses.fields(CollectArgs)}
    unused = [name for name in _FOLDERS_ONLY if getattr(args, name) != defaults[name]]
    if args.out is not None and unused:
        raise ValueError(
            f"--{unused[0].replace('_', '-')} is for --positive-dir and --negative-dir, --out "
            "does not know it. Leave it out."
        )


def _place(args: CollectArgs) -> Path:
    if args.out is None or args.suite is None or args.task is not None:
        raise ValueError(
            "Expected --suite and --out, and no --task, with --preset starter, got --suite "
            f"{args.suite}, --out {args.out}, --task {args.task}."
        )
    return args.out


def _collect_starter_set(args: CollectArgs) -> "EpisodeDataset":
    from libero_reward_envs.agents.starter_set import collect_starter_set

    folder = _place(args)
    arguments: dict[str, Any] = {"seed": args.seed, "assets": args.assets}
    if args.obs_type != "state":
        arguments |= {"image_size": args.image_size, "orientation": args.orientation}
    if args.max_episode_steps is not None:
        arguments["max_episode_steps"] = args.max_episode_steps
    return collect_starter_set(
        str(args.suite), folder, obs_type=args.obs_type, on_task=print, **arguments
    )


def _collect_file(
    args: CollectArgs, task: "Task", out: Path, common: dict[str, Any]
) -> "EpisodeDataset":
    from libero_reward_envs.agents.collection import collect_episodes
    from libero_reward_envs.agents.collection_folders import find_cameras

    if args.obs_type != "state":
        common |= {"image_size": args.image_size, "orientation": args.orientation}
        if args.image_key is not None:
            common["cameras"] = find_cameras(args.image_key)
    return collect_episodes(
        task,
        args.episodes,
        out,
        obs_type=args.obs_type,
        steps_after_success=args.steps_after_success or 0,
        **common,
    )


def _collect_folders(args: CollectArgs, task: "Task", common: dict[str, Any]) -> "CollectionCounts":
    from libero_reward_envs.agents.collection_folders import collect_trajectories

    assert args.positive_dir is not None
    assert args.negative_dir is not None
    n_steps = args.steps_after_success
    keys: Sequence[str] = args.image_key or ("agentview_image",)
    return collect_trajectories(
        task,
        args.episodes,
        args.positive_dir,
        args.negative_dir,
        keys,
        steps_after_success=_FRAMES_OF_SUCCESS if n_steps is None else n_steps,
        max_positive_trajectories=args.max_positive_trajectories,
        max_negative_trajectories=args.max_negative_trajectories,
        storage=args.storage,
        image_size=args.image_size,
        orientation=args.orientation,
        **common,
    )


def _describe_counts(args: CollectArgs, counts: "CollectionCounts") -> str:
    return (
        f"Added {counts.positive_saved} trajectories to {args.positive_dir} and "
        f"{counts.negative_saved} to {args.negative_dir}."
    )
