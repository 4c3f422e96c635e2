"""How images are turned, and whether an encoder was told the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.provenance import read_provenance
from libero_reward_envs.encoders.base import Encoder


def read_orientation(metadata: Mapping[str, Any]) -> str | None:
    """Return how the images of an episode are turned, None if its metadata do not say it.

    Raises:
        ValueError: If the provenance in the metadata is damaged.
    """
    provenance = read_provenance(metadata)
    if provenance is not None and provenance.orientation is not None:
        return provenance.orientation
    found = metadata.get("orientation")
    return found if isinstance(found, str) else None


def check_orientation(encoders: Iterable[Encoder], orientation: Any, name: str) -> None:
    """Raise ValueError if an encoder was made for images that are turned otherwise.

    Args:
        encoders: The encoders; those without an attribute `orientation` take any images.
        orientation: That of the images; None, where it is not known, passes.
        name: What the images are of.
    """
    for encoder in encoders:
        expected = getattr(encoder, "orientation", None)
        if None not in (expected, orientation) and expected != orientation:
            raise ValueError(
                f"Expected images that are {expected!r} for {encoder.key!r}, got {orientation!r} "
                f"of {name}. Make the encoder with orientation={orientation!r}."
            )


def find_orientation(dataset: EpisodeDataset, flag: str = "--orientation") -> str:
    """Return how the images of all episodes are turned, by what they say themselves.

    Args:
        dataset: The episodes, of which summaries are read.
        flag: What the error tells to give where they do not say it.

    Raises:
        ValueError: If they do not say it, or not all the same.
    """
    found = {read_orientation(summary.metadata) for summary in dataset.summaries()}
    known = sorted(orientation for orientation in found if orientation is not None)
    if len(found) == 1 and known:
        return known[0]
    told = f"several: {', '.join(known)}" if len(known) > 1 else "none of them"
    if len(known) == 1:
        told = f"{known[0]!r} of some and nothing of the others"
    hint = f"Give it by {flag}."
    if len(known) > 1:
        hint = "Bring them to one by `libero-reward convert --orientation`."
    raise ValueError(f"Expected episodes that say how their images are turned, got {told}. {hint}")
