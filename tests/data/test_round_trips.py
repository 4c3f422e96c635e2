"""Episodes through `convert_episodes` from every writable format to every one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libero_reward_envs.data import Episode, EpisodeDataset, load_episodes
from libero_reward_envs.data.conversion import Converter, convert_episodes
from libero_reward_envs.data.formats import open_writer, writable_formats
from libero_reward_envs.data.provenance import read_provenance

CAMERA = "agentview_image"
# The format, its options, and the name of a file or folder that it can have.
EXACT: dict[str, tuple[str, dict[str, Any], str]] = {
    "hdf5": ("hdf5", {}, "set.hdf5"),
    "minari": ("minari", {}, "set-v0"),
    "rlds, png": ("rlds", {"image_format": "png"}, "set"),
    "lerobot, png": ("lerobot", {"video": False}, "set"),
}
LOSSY = {"rlds, jpeg": ("rlds", {}, "set"), "lerobot, video": ("lerobot", {}, "set")}
NPY = {"npy": ("npy", {}, "set")}
KINDS = {**EXACT, **LOSSY, **NPY}
PROPERTY = settings(
    max_examples=5,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
DTYPES = [np.dtype(name) for name in ("float32", "float64", "int64", "uint8", "bool")]


def make_pictures(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return smooth pictures, of which JPEG and videos lose little."""
    corners = rng.integers(40, 216, (n, 2, 2, 3)).astype(float)
    across = np.linspace(0, 1, 16)[None, :, None]
    left, right = corners[:, :, :1], corners[:, :, 1:]
    rows = left + (right - left) * across  # (n, 2, 16, 3)
    down = np.linspace(0, 1, 16)[None, :, None, None]
    return np.rint(rows[:, :1] + (rows[:, 1:] - rows[:, :1]) * down).astype(np.uint8)


@st.composite
def episode_lists(draw: st.DrawFn, *, is_labelled: bool = False) -> list[Episode]:
    """Episodes of ragged lengths that every format can hold, as `.npy` only if labelled."""
    shapes = {
        key: (draw(st.sampled_from(DTYPES)), draw(hnp.array_shapes(max_dims=2, max_side=3)))
        for key in draw(st.lists(st.sampled_from(["state", "robot/pose", "é"]), unique=True))
    }
    n_actions = draw(st.integers(1, 4))
    unit = st.floats(-1, 1, width=32)
    episodes = []
    for n_steps in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        pictures = make_pictures(np.random.default_rng(draw(st.integers(0, 9))), n_steps + 1)
        observations = {CAMERA: pictures}
        for key, (dtype, shape) in shapes.items():
            elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
            observations[key] = draw(hnp.arrays(dtype, (n_steps + 1, *shape), elements=elements))
        rewards = draw(hnp.arrays(np.float32, n_steps, elements=unit))
        success, terminated = draw(st.booleans()), draw(st.booleans())
        if is_labelled:
            rewards = np.zeros(n_steps, np.float32)
            rewards[draw(st.integers(0, n_steps - 1)) :] = success
            terminated = success
        episodes.append(
            Episode(
                observations,
                draw(hnp.arrays(np.float32, (n_steps, n_actions), elements=unit)),
                rewards,
                terminated=terminated,
                success=success,
                task=draw(TEXTS),
                instruction=draw(TEXTS),
                metadata=draw(st.dictionaries(TEXTS, TEXTS | st.integers(0, 9), max_size=2)),
            )
        )
    return episodes


def convert(dataset: EpisodeDataset, kind: str, folder: Path) -> EpisodeDataset:
    format, options, name = KINDS[kind]
    path = folder / name
    with open_writer(path, format, **options) as writer:
        assert convert_episodes(dataset, writer, path=path) == len(dataset)
    return load_episodes(path, format=format)


def assert_same(found: Episode, source: Episode, leaving_out: Sequence[str] = ()) -> None:
    """Compare all but the observations left out with what a conversion makes of an episode."""
    expected = Converter().convert(source, "the episode")
    assert found.observations.keys() == expected.observations.keys()
    for key, rows in expected.observations.items():
        other = found.observations[key]
        assert (other.dtype, other.shape) == (rows.dtype, rows.shape)
        if key not in leaving_out:
            np.testing.assert_array_equal(other, rows)
    np.testing.assert_array_equal(found.actions, expected.actions)
    np.testing.assert_array_equal(found.rewards, expected.rewards)
    for name in ("terminated", "success", "task", "instruction", "metadata"):
        assert getattr(found, name) == getattr(expected, name)


def test_every_writable_format_is_tested_here() -> None:
    assert {format for format, _, _ in KINDS.values()} == set(writable_formats())


@pytest.mark.parametrize("source", {**EXACT, **LOSSY})
@PROPERTY
@given(episodes=episode_lists())
def test_between_formats_only_jpeg_and_videos_lose_something(
    tmp_path_factory: pytest.TempPathFactory, source: str, episodes: list[Episode]
) -> None:
    here = convert(EpisodeDataset(episodes), source, tmp_path_factory.mktemp("source"))
    if source in EXACT:
        for read, written in zip(here, episodes, strict=True):
            assert_same(read, written)
    for target in EXACT:
        there = convert(here, target, tmp_path_factory.mktemp("exact"))
        for found, read in zip(there, here, strict=True):
            assert_same(found, read)
    for target in LOSSY:
        there = convert(here, target, tmp_path_factory.mktemp("lossy"))
        for found, read in zip(there, here, strict=True):
            assert_same(found, read, leaving_out=[CAMERA])
            pictures, others = found.observations[CAMERA], read.observations[CAMERA]
            assert np.abs(pictures.astype(int) - others).mean() < 6
            if target == "lerobot, video":  # keeps the one after the last action apart, as PNG
                np.testing.assert_array_equal(pictures[-1], others[-1])


@pytest.mark.parametrize("source", {**EXACT, **LOSSY})
@PROPERTY
@given(episodes=episode_lists(is_labelled=True))
def test_npy_keeps_pictures_after_each_step_and_labels(
    tmp_path_factory: pytest.TempPathFactory, source: str, episodes: list[Episode]
) -> None:
    here = convert(EpisodeDataset(episodes), source, tmp_path_factory.mktemp("source"))
    there = convert(here, "npy", tmp_path_factory.mktemp("target"))
    by_outcome = sorted(here, key=lambda episode: not episode.success)  # successes come first
    for found, read in zip(there, by_outcome, strict=True):
        assert list(found.observations) == [CAMERA]
        pictures = read.observations[CAMERA]
        np.testing.assert_array_equal(found.observations[CAMERA][1:], pictures[1:])
        np.testing.assert_array_equal(found.observations[CAMERA][0], pictures[1])
        np.testing.assert_array_equal(found.rewards, read.rewards)
        assert (found.success, found.terminated) == (read.success, read.terminated)
        assert found.actions.shape == (len(read), 0)
        assert (found.task, found.instruction) == ("", "")
        provenance = read_provenance(found.metadata)
        assert provenance is not None
        assert provenance.first_observation == "repeated"


@pytest.mark.parametrize("target", ["hdf5", "npy"])
@PROPERTY
@given(episodes=episode_lists(is_labelled=True))
def test_npy_becomes_what_can_do_without_actions(
    tmp_path_factory: pytest.TempPathFactory, target: str, episodes: list[Episode]
) -> None:
    here = convert(EpisodeDataset(episodes), "npy", tmp_path_factory.mktemp("source"))
    there = convert(here, target, tmp_path_factory.mktemp("target"))
    for found, read in zip(there, here, strict=True):
        if target == "npy":  # whose metadata are the file's name and what the format always is
            found = dataclasses.replace(found, metadata=read.metadata)
        assert_same(found, read)


@pytest.mark.parametrize("target", [kind for kind in {**EXACT, **LOSSY} if kind != "hdf5"])
def test_formats_that_need_actions_refuse_npy(tmp_path: Path, target: str) -> None:
    pictures = make_pictures(np.random.default_rng(0), 3)
    episode = Episode({CAMERA: pictures}, np.zeros((2, 7)), np.array([0, 1]), True, True)
    here = convert(EpisodeDataset([episode]), "npy", tmp_path / "source")
    with pytest.raises(ValueError, match=r"^Expected .*(actions|numbers)"):
        convert(here, target, tmp_path / "target")
