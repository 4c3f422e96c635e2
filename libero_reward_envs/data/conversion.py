"""Episodes from one format into another, with their conventions checked and turned."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.conversion_progress import ConversionProgress
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.formats import ON_ERROR, FormatWriter
from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance, read_provenance

# What can be made another: the rest of a provenance is only told.
_TURNABLE = ("orientation", "gripper_closed_at")
_PICTURE_SIDE = 16  # from which on the last two axes of an array may be those of a picture


class Converter:
    """Brings episodes to one convention, and refuses those it cannot bring there.

    Without `wanted`, all episodes must be of the convention of the ones before. What an episode
    does not say is unknown, and unknown is not the same as another: it passes, unless it is to be
    changed. With `orientation` wanted, every array of the pictures' height and width is turned.

    Args:
        wanted: `orientation` and `gripper_closed_at` that all episodes are to have.
        assumed: Provenance of episodes that do not say it themselves, by name.

    Raises:
        ValueError: If a name or value is not one of a provenance, or cannot be changed.
    """

    def __init__(
        self, wanted: Mapping[str, Any] | None = None, assumed: Mapping[str, Any] | None = None
    ) -> None:
        self._wanted = dict(wanted or {})
        self._assumed = dict(assumed or {})
        names = [part.name for part in dataclasses.fields(Provenance)]
        for argument, values, known in (
            ("wanted", self._wanted, _TURNABLE),
            ("assumed", self._assumed, names),
        ):
            if unknown := sorted(values.keys() - set(known)):
                raise ValueError(
                    f"`{argument}` cannot have {', '.join(unknown)}. Known are: {', '.join(known)}."
                )
        Provenance(**{"source_format": "", **self._assumed, **self._wanted})  # which checks values
        self._before: Provenance | None = None  # what the episodes so far say, taken together

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        return {"wanted": self._wanted, "assumed": self._assumed}

    def remember(self, provenance: Provenance, name: str = "An episode") -> None:
        """Take an episode for one that was converted before, as a second run finds it.

        Raises:
            ValueError: If it is of another convention than the ones before.
        """
        self._check_same(provenance, name)

    def convert(self, episode: Episode, name: str) -> Episode:
        """Return the episode as it is wanted, with its provenance in the metadata.

        Args:
            episode: The episode.
            name: What errors call it.

        Raises:
            ValueError: If it differs from the ones before in what is not changed, or what is to be
                changed is unknown, or an array may be of pictures but is of another size.
        """
        found = read_provenance(episode.metadata) or Provenance("unknown")
        assumed = {k: v for k, v in self._assumed.items() if getattr(found, k) is None}
        provenance = dataclasses.replace(found, **assumed)
        for key, wanted in self._wanted.items():
            if getattr(provenance, key) is None:
                raise ValueError(
                    f"{name} does not say its {key}, which is to be {wanted!r}. Say it: `assumed`, "
                    f"on the command line --assume {key}=..."
                )
        turned = dataclasses.replace(provenance, **self._wanted)
        self._check_same(turned, name)
        try:
            episode = _turn(episode, provenance, turned)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        metadata = _update_metadata(episode.metadata, provenance, turned)
        return dataclasses.replace(episode, metadata=metadata)

    def _check_same(self, provenance: Provenance, name: str) -> None:
        before = self._before or provenance
        differing = before.find_differences(provenance)
        if not differing:
            names = [part.name for part in dataclasses.fields(Provenance)]
            learned = {k: getattr(provenance, k) for k in names if getattr(before, k) is None}
            self._before = dataclasses.replace(before, **learned)
            return
        told = "; ".join(f"{k} {a!r} before, {b!r} here" for k, (a, b) in differing.items())
        hint = "Convert them apart."
        if set(differing) <= set(_TURNABLE):
            flags = ", ".join("--" + key.replace("_", "-") for key in differing)
            hint = f"Say which is wanted: {flags} on the command line."
        raise ValueError(f"{name} is of another convention than the ones before: {told}. {hint}")


def convert_episodes(
    dataset: EpisodeDataset,
    writer: FormatWriter,
    converter: Converter | None = None,
    *,
    path: str | Path,
    observation_keys: tuple[str, ...] | None = None,
    on_error: str = "raise",
    on_episode: Callable[[int], object] | None = None,
    on_skipped: Callable[[str], object] | None = None,
) -> int:
    """Write episodes to a writer, after those it already has from a run that was stopped.

    What is done is kept in `<path>.progress.jsonl`, see `ConversionProgress`.

    Args:
        dataset: The episodes.
        writer: Where to; `len` of it says how many are there.
        converter: Brings them to one convention; by default none is changed and all must be alike.
        path: What the writer writes.
        observation_keys: The observations to keep; None for all.
        on_error: "raise", or "skip" to leave out episodes that turn out to be damaged when read.
        on_episode: Called after each episode with the number of those of the dataset that are done.
        on_skipped: Called with the reason for each that is left out, in former runs too.

    Returns:
        The number of episodes that were written by this call.

    Raises:
        ValueError: If the writer has other episodes than the first ones of the dataset, or was
            begun with other settings, or one cannot be converted, or none can be read.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}, got {on_error!r}.")
    converter = converter or Converter()
    progress = _open_progress(dataset, writer, converter, path, observation_keys)
    tell = on_skipped or (lambda _: None)
    for reason in progress.skipped.values():
        tell(reason)
    lacks_line, n_before = progress.lacks_line, len(writer)
    for index in range(progress.next_index, len(dataset)):
        try:
            episode = dataset.read(index, observation_keys)
        except ValueError as error:
            if on_error == "raise":
                raise
            progress.skip(index, f"episode {index}: {error}")
            tell(progress.skipped[index])
        else:
            converted = converter.convert(episode, f"Episode {index}")
            if not lacks_line:  # else a kill lost only its line
                writer.append(converted)
            lacks_line = False
            progress.add(index, episode.summary(), converted.metadata[PROVENANCE_KEY])
        if on_episode is not None:
            on_episode(index + 1)
    if lacks_line:
        raise ValueError(f"The last episode of {str(path)!r} is none of the source. Remove it.")
    if progress.skipped and not len(writer):
        raise ValueError(f"No episode can be read. Of the last: {[*progress.skipped.values()][-1]}")
    return len(writer) - n_before


def _open_progress(
    dataset: EpisodeDataset,
    writer: FormatWriter,
    converter: Converter,
    path: str | Path,
    observation_keys: tuple[str, ...] | None,
) -> ConversionProgress:
    """Return what is done, after a check that it is of this source and these settings."""
    if len(writer) > len(dataset):
        raise ValueError(
            f"{len(writer)} episodes are there, more than the {len(dataset)} to convert."
        )
    keys = None if observation_keys is None else sorted(observation_keys)
    settings = {"writer": type(writer).__name__, **converter.settings, "observation_keys": keys}
    progress = ConversionProgress(path, settings, len(writer))
    if progress.next_index:
        progress.check_source(dataset.summaries())
    for provenance in progress.iterate_provenance():
        converter.remember(provenance)
    return progress


def parse_assumptions(words: tuple[str, ...]) -> dict[str, Any]:
    """Return `name=value` words as values of a `Provenance`.

    Raises:
        ValueError: If a word is none of these.

    Example:
        >>> parse_assumptions(("orientation=raw", "control_freq_hz=20", "no_ops_filtered=true"))
        {'orientation': 'raw', 'control_freq_hz': 20.0, 'no_ops_filtered': True}
    """
    kinds = {part.name: str(part.type) for part in dataclasses.fields(Provenance)}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in kinds:
            raise ValueError(f"Expected <name>=<value> of a provenance, got {word!r}.")
        try:
            values[name] = _parse(kinds[name], text)
        except ValueError:
            raise ValueError(f"Expected {kinds[name]} for {name}, got {text!r}.") from None
    return values


def _parse(kind: str, text: str) -> Any:
    if kind.startswith("tuple"):
        numbers = tuple(float(part) for part in text.split(","))
        return tuple(int(n) for n in numbers) if "int" in kind else numbers
    if kind.startswith("float"):
        return float(text)
    if kind.startswith("bool"):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return text


def _turn(episode: Episode, here: Provenance, there: Provenance) -> Episode:
    observations, actions = dict(episode.observations), episode.actions
    if here.orientation != there.orientation:
        assert here.orientation is not None
        assert there.orientation is not None
        observations = _turn_pictures(observations, here.orientation, there.orientation)
    if here.gripper_closed_at != there.gripper_closed_at and actions.shape[1]:
        if abs(here.gripper_closed_at or 0) != 1 or abs(there.gripper_closed_at or 0) != 1:
            raise ValueError(
                "Expected the gripper to close at 1 or -1, got "
                f"{here.gripper_closed_at} here and {there.gripper_closed_at} wanted."
            )
        actions = actions.copy()
        actions[:, -1] *= -1
    return dataclasses.replace(episode, observations=observations, actions=actions)


def _turn_pictures(
    observations: Mapping[str, np.ndarray], here: str, there: str
) -> dict[str, np.ndarray]:
    """Turn every array of the pictures' height and width: depths and masks are pictures too."""
    sizes = {
        _find_size(value)
        for value in observations.values()
        if value.dtype == np.uint8 and value.ndim == 4
    }
    turned = dict(observations)
    for key, value in observations.items():
        if value.ndim >= 4 and value.shape[-3:-1] in sizes:
            turned[key] = turn_images(value, here, there)
        elif value.ndim >= 3 and value.shape[-2:] in sizes:  # no channels, or before the rows
            turned[key] = turn_images(value[..., None], here, there)[..., 0]
        elif value.ndim >= 3 and sum(size >= _PICTURE_SIDE for size in value.shape[1:]) >= 2:
            shown = ", ".join(map(str, sorted(sizes))) or "none"
            raise ValueError(
                f"Cannot tell whether {key!r} of shape {value.shape} is to be turned: images have "
                f"(H, W) = {shown}. Leave it out: name the others as observation keys."
            )
    return turned


def _find_size(images: np.ndarray) -> tuple[int, int]:
    """Return (H, W) of images, channels last as in an `Episode`, or first."""
    channels_first = images.shape[1] in (1, 3, 4) and images.shape[-1] not in (1, 3, 4)
    return images.shape[-2:] if channels_first else images.shape[-3:-1]


def _update_metadata(
    metadata: Mapping[str, Any], here: Provenance, there: Provenance
) -> dict[str, Any]:
    """Return metadata with the provenance, and without what recordings say besides and is over."""
    updated = {**metadata, PROVENANCE_KEY: there.as_json()}
    if "orientation" in updated and there.orientation is not None:
        updated["orientation"] = there.orientation
    if here.gripper_closed_at != there.gripper_closed_at:
        updated.pop("action_convention", None)  # a text that names the gripper's sign
    return updated
