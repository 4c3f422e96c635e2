"""What a set of episodes holds: lengths, outcomes, tasks, arrays, provenance and damage."""

import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data.episodes import Episode, EpisodeDataset, EpisodeSummary
from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.data.provenance import Provenance, read_provenance

NO_OP_NORM = 1e-4  # of an action's first six numbers, below which OpenVLA's authors call it no-op
_LABEL_HEIGHT = 14
_MARGIN = 2
_BACKGROUND = (24, 24, 24)


def describe_episodes(dataset: EpisodeDataset, *, n_read: int = 8) -> list[tuple[str, str]]:
    """Return what a dataset holds as rows of a table: name and text.

    Args:
        dataset: The episodes.
        n_read: Episodes, spread over the set, whose arrays are read; the rest is judged by its
            summaries.
    """
    summaries = dataset.summaries()
    rows = [("episodes", str(len(summaries)))]
    skipped = dataset.skipped
    if skipped:
        rows += [("skipped", str(len(skipped))), *(("", reason) for reason in skipped[:5])]
    if not summaries:
        return rows
    lengths = np.array([len(summary) for summary in summaries])
    returns = np.array([summary.episode_return for summary in summaries])
    n_success = sum(summary.success for summary in summaries)
    n_terminated = sum(summary.terminated for summary in summaries)
    rows += [
        ("steps", f"{lengths.sum()}, a episode {_spread(lengths)}"),
        ("successes", f"{n_success} of {len(summaries)}; {n_terminated} terminated"),
        ("returns", _spread(returns)),
        *_count("tasks", [summary.task or "(none)" for summary in summaries]),
        *_count("instructions", [summary.instruction or "(none)" for summary in summaries]),
        *_describe_provenance(summaries),
    ]
    read, damaged = _read_some(dataset, n_read)
    rows += [("cannot be read", reason) for reason in damaged]
    return rows + _describe_arrays([episode for _, episode in read])


def draw_contact_sheet(
    dataset: EpisodeDataset,
    *,
    image_key: str | None = None,
    n_episodes: int = 8,
    n_frames: int = 8,
    size: int = 96,
) -> Image.Image:
    """Return a picture with a row of frames for each of some episodes, spread over the set.

    Pictures are turned upright where the provenance tells how they lie.

    Args:
        dataset: The episodes.
        image_key: Which images; None for the first ones that an episode has.
        n_episodes: Rows.
        n_frames: Frames of an episode, from the first to the last.
        size: Height of a frame, in pixels.

    Raises:
        ValueError: If there are no episodes that can be read, or no such images.
    """
    read, _ = _read_some(dataset, n_episodes)
    if not read:
        raise ValueError("Expected at least one episode to draw, got none.")
    rows = [
        _draw_row(episode, f"episode {index}", image_key, n_frames, size) for index, episode in read
    ]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), _BACKGROUND)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return rows of name and text as lines."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in rows)


def _read_some(dataset: EpisodeDataset, n_read: int) -> tuple[list[tuple[int, Episode]], list[str]]:
    """Read episodes spread over the set; return those with their numbers, and what was damaged."""
    read: list[tuple[int, Episode]] = []
    damaged: list[str] = []
    if not len(dataset):
        return read, damaged
    for index in np.unique(np.linspace(0, len(dataset) - 1, n_read).round().astype(int)):
        try:
            read.append((int(index), dataset[int(index)]))
        except ValueError as error:
            damaged.append(f"episode {index}: {error}")
    return read, damaged


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{low:g} to {high:g}, median {middle:g}"


def _count(name: str, words: Sequence[str]) -> list[tuple[str, str]]:
    counts = Counter(words).most_common()
    rows = [(name, str(len(counts)))]
    rows += [("", f"{number} x {word}") for word, number in counts[:10]]
    return rows + ([("", f"and {len(counts) - 10} more")] if len(counts) > 10 else [])


def _describe_provenance(summaries: Sequence[EpisodeSummary]) -> list[tuple[str, str]]:
    found = [read_provenance(summary.metadata) for summary in summaries]
    known = [provenance for provenance in found if provenance is not None]
    n_silent = len(found) - len(known)
    rows = [("provenance", f"not said by {n_silent} of {len(found)} episodes" if n_silent else "")]
    for name in (part.name for part in dataclasses.fields(Provenance)):
        values = Counter(str(getattr(provenance, name)) for provenance in known)
        told = ", ".join(
            f"{value} ({number})" if len(values) > 1 else value for value, number in values.items()
        )
        if known:
            rows.append((f"  {name}", told.replace("None", "not known")))
    return rows


def _describe_arrays(episodes: Sequence[Episode]) -> list[tuple[str, str]]:
    rows = [("arrays", f"of {len(episodes)} episodes that were read")]
    keys = {key: None for episode in episodes for key in episode.observations}
    for key in keys:
        arrays = [e.observations[key] for e in episodes if key in e.observations]
        rows.append((f"  {key}", _describe_array(arrays, len(episodes))))
    rows.append(("  actions", _describe_array([e.actions for e in episodes], len(episodes))))
    actions = [episode.actions for episode in episodes if episode.actions.shape[1] >= 7]
    if actions:
        joined = np.concatenate(actions)
        share = float((np.linalg.norm(joined[:, :6], axis=1) < NO_OP_NORM).mean())
        gripper = sorted({float(value) for value in np.round(joined[:, -1], 3)})
        shown = ", ".join(f"{value:g}" for value in gripper[:4]) + (", ..." * (len(gripper) > 4))
        rows += [("  steps without movement", f"{share:.1%}"), ("  gripper values", shown)]
    return rows


def _describe_array(arrays: Sequence[np.ndarray], n_episodes: int) -> str:
    shapes = ", ".join(sorted({str(array.shape[1:]) for array in arrays}))
    kinds = ", ".join(sorted({str(array.dtype) for array in arrays}))
    filled = [array for array in arrays if array.size]
    span = ""
    if filled:
        low = min(float(array.min()) for array in filled)
        high = max(float(array.max()) for array in filled)
        span = f", {low:g} to {high:g}"
    missing = "" if len(arrays) == n_episodes else f", missing in {n_episodes - len(arrays)}"
    return f"{shapes} {kinds}{span}{missing}"


def _draw_row(
    episode: Episode, name: str, image_key: str | None, n_frames: int, size: int
) -> Image.Image:
    images = _find_images(episode.observations, image_key)
    provenance = read_provenance(episode.metadata)
    positions = np.linspace(0, len(images) - 1, n_frames).round().astype(int)
    frames = images[positions]
    if provenance is not None and provenance.orientation is not None:
        frames = turn_images(frames, provenance.orientation, "upright")
    width = round(size * frames.shape[2] / frames.shape[1])
    row = Image.new("RGB", (n_frames * (width + _MARGIN), size + _LABEL_HEIGHT), _BACKGROUND)
    outcome = "success" if episode.success else "failure"
    label = f"{name}, {len(episode)} steps, {outcome}: {episode.instruction or episode.task}"
    ImageDraw.Draw(row).text((_MARGIN, 1), label, fill=(235, 235, 235))
    for column, frame in enumerate(frames):
        pixels = frame[..., 0] if frame.shape[-1] == 1 else frame
        picture = Image.fromarray(pixels).convert("RGB").resize((width, size))
        row.paste(picture, (column * (width + _MARGIN), _LABEL_HEIGHT))
    return row


def _find_images(observations: Mapping[str, Any], image_key: str | None) -> np.ndarray:
    found = {
        key: value
        for key, value in observations.items()
        if value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] in (1, 3)
    }
    if not found or (image_key is not None and image_key not in found):
        raise ValueError(
            f"Expected images {image_key or 'of some key'}, (T + 1, H, W, C) uint8, got: "
            f"{', '.join(found) or 'none'}."
        )
    return found[image_key or next(iter(found))]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [buffer.getvalue()])
