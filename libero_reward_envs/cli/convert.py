"""Convert episodes from any format into another: `libero-reward convert SOURCE OUT --to FORMAT`.

Episodes of different conventions, or of one that cannot be told where it matters, are refused
unless it is said what to do. The same command goes on where a stopped run was, of which
`<out>.progress.jsonl` tells.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ConvertArgs:
    """Convert episodes from one format into another."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """File or folder of episodes of any known format."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """File or folder to write."""
    to: Literal["hdf5", "rlds", "lerobot", "minari", "npy"] = "hdf5"
    """Format to write."""
    source_format: str | None = None
    """Format of the source; by default recognised."""
    observation_keys: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]", help_behavior_hint="(default: all)")
    ] = ()
    """Observations to keep."""
    orientation: Literal["upright", "raw", "vla180"] | None = None
    """Turn all pictures to this orientation."""
    gripper_closed_at: Literal["1", "-1"] | None = None
    """Let the last number of an action close the gripper at this value."""
    assume: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Provenance of episodes that do not say it, such as orientation=raw control_freq_hz=20."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Arguments of the reader of the source, such as assume_success=true."""
    writer_option: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")
    ] = ()
    """Arguments of the writer, such as version=v2.1 for lerobot."""
    on_error: Literal["raise", "skip"] = "raise"
    """Whether damaged episodes are left out, and named."""


def main(args: ConvertArgs) -> None:
    """Convert with a progress bar, and say what was written."""
    from tqdm import tqdm

    from libero_reward_envs.data.conversion import Converter, convert_episodes, parse_assumptions
    from libero_reward_envs.data.formats import load_episodes, open_writer

    check_apart(args.source, args.out)
    dataset = load_episodes(
        args.source,
        format=args.source_format,
        on_error=args.on_error,
        **parse_options(args.option),
    )
    wanted: dict[str, Any] = {}
    if args.orientation is not None:
        wanted["orientation"] = args.orientation
    if args.gripper_closed_at is not None:
        wanted["gripper_closed_at"] = float(args.gripper_closed_at)
    unread: list[str] = []
    converter = Converter(wanted, parse_assumptions(args.assume))
    with (
        open_writer(args.out, args.to, **parse_options(args.writer_option)) as writer,
        tqdm(total=len(dataset), desc="convert", unit="episode") as bar,
    ):
        n_written = convert_episodes(
            dataset,
            writer,
            converter,
            path=args.out,
            observation_keys=args.observation_keys or None,
            on_error=args.on_error,
            on_episode=lambda n_done: bar.update(n_done - bar.n),
            on_skipped=unread.append,
        )
        n_there = len(writer)
    for reason in [*dataset.skipped, *unread]:
        print(f"Left out: {reason}")
    print(f"{args.out}: {n_there} episodes as {args.to}, {n_written} of them written now.")


def check_apart(source: Path, out: Path) -> None:
    """Raise ValueError if a result lies in its source, of which it would be a part when run again.

    Args:
        source: File or folder to read.
        out: File or folder to write.
    """
    if source.resolve() == out.resolve():
        raise ValueError(f"Source and result are both {str(source)!r}. Give two.")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"The result {str(out)!r} would lie in the source {str(source)!r}. Choose a place "
            "outside of it."
        )


def parse_options(words: tuple[str, ...]) -> dict[str, Any]:
    """Return `name=value` words as keyword arguments, their values read as YAML.

    Raises:
        ValueError: If a word is none of these.

    Example:
        >>> parse_options(("version=v2.1", "video=false"))
        {'version': 'v2.1', 'video': False}
    """
    import yaml

    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"Expected <name>=<value>, got {word!r}.")
        options[name] = yaml.safe_load(text)
    return options
