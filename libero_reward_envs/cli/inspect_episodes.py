"""Say what a set of episodes holds: `libero-reward inspect DATA`.

Prints a table and writes a contact sheet, a picture with frames of some episodes, where there are
images.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from libero_reward_envs.data.episodes import EpisodeDataset


@dataclasses.dataclass(frozen=True)
class InspectArgs:
    """Print what a set of episodes holds, and draw some of it."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """File or folder of episodes of any known format."""
    format: str | None = None
    """Its format; by default recognised."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Arguments of its reader, such as assume_success=true."""
    full: bool = False
    """Read every episode to the last byte, to find damage, instead of a few."""
    picture: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PNG", help_behavior_hint="(default: DATA.contact_sheet.png)"),
    ] = None
    """Where to write the contact sheet."""
    image_key: str | None = None
    """Images of the contact sheet; by default the first."""


def main(args: InspectArgs) -> None:
    """Print the table, and write the picture."""
    from libero_reward_envs.cli.convert import parse_options
    from libero_reward_envs.data.formats import find_format, load_episodes
    from libero_reward_envs.data.inspection import (
        describe_episodes,
        draw_contact_sheet,
        format_table,
        save_picture,
    )

    data = args.data.resolve()  # "." has no name to put the picture beside
    kind = args.format or find_format(data)
    dataset = load_episodes(data, format=kind, on_error="skip", **parse_options(args.option))
    rows = [("format", kind), *describe_episodes(dataset)]
    if args.full:
        rows += _read_all(dataset)
    print(format_table(rows))
    picture = args.picture or data.with_name(data.name + ".contact_sheet.png")
    try:
        sheet = draw_contact_sheet(dataset, image_key=args.image_key)
    except ValueError as error:
        if args.picture is not None or args.image_key is not None:
            raise
        print(f"No contact sheet: {error}")
    else:
        save_picture(sheet, picture)
        print(f"Contact sheet: {picture}")


def _read_all(dataset: "EpisodeDataset") -> list[tuple[str, str]]:
    from tqdm import tqdm

    damaged = []
    for index in tqdm(range(len(dataset)), desc="read", unit="episode"):
        try:
            dataset.read(index)
        except ValueError as error:
            damaged.append(f"episode {index}: {error}")
    rows = [("damaged", f"{len(damaged)} of {len(dataset)} episodes, each read to the end")]
    return rows + [("", reason) for reason in damaged]
