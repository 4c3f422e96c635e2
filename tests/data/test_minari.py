import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.minari import MinariSource, MinariWriter, is_minari
from libero_reward_envs.data.minari.spaces import describe_space, parse_space
from libero_reward_envs.data.provenance import Provenance, read_provenance

SETS = Path(__file__).parent / "minari" / "sets.zip"  # made by Minari, see the script beside it


@pytest.fixture
def sets(tmp_path):
    with zipfile.ZipFile(SETS) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def change_metadata(folder, **changes):
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["box-v0", "jpeg-v0", "raw-v0", "silent-v0"])
def test_sets_of_minari_are_read_exactly(sets, name):
    expected = np.load(sets / "expected.npz")
    numbers = {key.split("/")[1] for key in expected if key.startswith(f"{name}/")}
    assert is_minari(sets / name)
    source = MinariSource(sets / name, assume_success=False)
    assert len(source) == len(numbers)
    for number in range(len(source)):
        episode = source.read(number)
        prefix = f"{name}/{number}/observations"
        keys = [key for key in expected if key.startswith(prefix)]
        names = {key: key.removeprefix(prefix).lstrip("/") or "state" for key in keys}
        assert set(names.values()) == set(episode.observations)
        for key, observation in names.items():
            value = episode.observations[observation]
            assert value.dtype == expected[key].dtype
            np.testing.assert_array_equal(value, expected[key])
        rewards = expected[f"{name}/{number}/rewards"].astype(np.float32)
        np.testing.assert_array_equal(episode.rewards, rewards)
        assert episode.terminated == expected[f"{name}/{number}/terminations"][-1]
        assert episode.terminated == bool(number % 2)
        assert episode.success == (bool(number % 2) and name != "silent-v0")
        actions = expected[f"{name}/{number}/actions"]
        if name == "box-v0":  # of bounds -2 to 2 and 0 to 5
            actions = np.stack([actions[:, 0] / 2, actions[:, 1] / 2.5 - 1], axis=1)
        np.testing.assert_allclose(episode.actions, actions, atol=1e-6)
        assert episode.summary() == source.summaries()[number]


def test_what_minari_says_is_kept(sets):
    episode = MinariSource(sets / "box-v0").read(1)
    assert (episode.task, episode.instruction) == ("box-v0", "")
    assert {**episode.metadata, "provenance": None} == {
        "dataset_id": "box-v0",
        "episode": "episode_1",
        "seed": 1,
        "provenance": None,
    }
    assert read_provenance(episode.metadata) == Provenance(
        "minari", action_range=(-2, 5), reward_source="env", success_source="env"
    )
    told = read_provenance(MinariSource(sets / "jpeg-v0").read(0).metadata)
    assert told is not None
    assert (told.image_size, told.action_range) == ((32, 40), (-1, 1))


def test_arguments_say_what_the_set_does_not(sets):
    source = MinariSource(
        sets / "jpeg-v0" / "data",
        task="reach",
        instruction="reach it",
        key_map={"image": "agentview_image"},
        action_range=(-2, 2),
    )
    episode = source.read(1)
    assert (episode.task, episode.instruction) == ("reach", "reach it")
    assert set(episode.observations) == {"agentview_image", "grey", "robot/pos"}
    whole = MinariSource(sets / "jpeg-v0").read(1)
    np.testing.assert_allclose(episode.actions, whole.actions / 2, atol=1e-7)
    with pytest.raises(ValueError, match="two observations of /episode_1 are called 'grey'"):
        MinariSource(sets / "jpeg-v0", key_map={"image": "grey"}).read(1)


def test_success_is_not_guessed(sets):
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"infos/success.*in /episode_0.*assume_success"):
            MinariSource(sets / "silent-v0", on_error=on_error).summaries()
    told = read_provenance(MinariSource(sets / "silent-v0", assume_success=True).read(0).metadata)
    assert told is not None
    assert told.success_source == "demonstration"


def test_other_actions_and_formats_are_refused_by_name(sets):
    with pytest.raises(ValueError, match=r"metadata\.json.*Box space.*Discrete"):
        len(MinariSource(sets / "discrete-v0"))
    change_metadata(sets / "box-v0", data_format="arrow")
    assert is_minari(sets / "box-v0")
    with pytest.raises(ValueError, match="'arrow' is not supported"):
        len(MinariSource(sets / "box-v0"))
    (sets / "raw-v0" / "data" / "metadata.json").unlink()
    assert is_minari(sets / "raw-v0")
    with pytest.raises(ValueError, match=r"before 0\.5"):
        len(MinariSource(sets / "raw-v0"))
    with pytest.raises(FileNotFoundError, match="absent-v0"):
        MinariSource(sets / "absent-v0")
    assert not is_minari(sets)
    assert not is_minari(sets / "absent-v0")
    assert not is_minari(sets / "expected.npz")


def test_actions_without_bounds_must_be_in_range_or_rescaled(sets):
    space = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-np.inf] * 2}
    change_metadata(sets / "box-v0", action_space=json.dumps({**space, "high": [np.inf] * 2}))
    with pytest.raises(ValueError, match=r"/episode_\d: expected actions in .*action_range="):
        list(EpisodeDataset(MinariSource(sets / "box-v0")))
    source = MinariSource(sets / "box-v0", action_range=([-2, 0], [2, 5]))
    assert np.abs(source.read(0).actions).max() <= 1


def test_set_without_spaces_is_read(sets):
    path = sets / "raw-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    told = read_provenance(MinariSource(sets / "raw-v0").read(0).metadata)
    assert told is not None
    assert (told.action_range, told.image_size) == (None, (32, 40))


def test_only_the_observations_named_are_read(sets, monkeypatch):
    def fail(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("libero_reward_envs.data.minari.episode.read_jpeg_rows", fail)
    source = MinariSource(sets / "jpeg-v0")
    episode = EpisodeDataset(source).read(0, ["robot/pos"])
    assert list(episode.observations) == ["robot/pos"]
    source.summaries()
    with pytest.raises(ValueError, match=r"no observation .*'depth'.* in /episode_0, it has: grey"):
        EpisodeDataset(source).read(0, ["depth"])


def test_damaged_jpeg_is_named(sets):
    path = sets / "jpeg-v0" / "data" / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8\xff")  # a JPEG file begins so
    content[start : start + 40] = b"\0" * 40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"image \d of /episode_\d/observations/\w+ is damaged"):
        list(EpisodeDataset(MinariSource(sets / "jpeg-v0")))


def test_wrong_counts_and_broken_metadata_are_errors(sets):
    change_metadata(sets / "box-v0", total_episodes=10**12)
    with pytest.raises(ValueError, match="tells of 1000000000000 episodes, 3 are there"):
        len(MinariSource(sets / "box-v0"))
    source = MinariSource(sets / "box-v0", on_error="skip")
    assert (len(source), len(source.skipped)) == (3, 1)
    no_space = '{"data_format": "hdf5", "action_space": 3}'
    for broken in ('{"data_format": ', "[" * 100_000, "[]", no_space):
        (sets / "box-v0" / "data" / "metadata.json").write_text(broken)
        with pytest.raises(ValueError, match=r"metadata\.json"):
            len(MinariSource(sets / "box-v0"))


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "f4", "shape": [10**9], "low": [0], "high": [1]},
        {"type": "Box", "dtype": "f4", "shape": [2], "low": [[0], [0, 1]], "high": [1, 1]},
        {"type": "Box", "shape": [-1], "low": [], "high": []},
        {"type": "Box"},
        {"type": "Dict", "subspaces": {"a": 3}},
        [1],
    ],
)
def test_broken_spaces_are_errors(space):
    with pytest.raises(ValueError, match="space"):
        parse_space(json.dumps(space))


def test_truncated_set_is_an_error(sets):
    path = sets / "raw-v0" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"raw-v0.*main_data\.hdf5"):
        len(MinariSource(sets / "raw-v0"))
    source = MinariSource(sets / "raw-v0", on_error="skip")
    assert (len(source), source.summaries(), len(source.skipped)) == (0, [], 1)


def test_source_survives_pickling(sets):
    source = MinariSource(sets / "jpeg-v0")
    for _ in range(2):
        copied = pickle.loads(pickle.dumps(source))
        assert copied.summaries() == source.summaries()
    assert len(pickle.dumps(source)) < 3000


def test_spaces_are_written_as_minari_writes_them(sets):
    for name in ("box-v0", "raw-v0"):
        text = json.loads((sets / name / "data" / "metadata.json").read_text())["observation_space"]
        with h5py.File(sets / name / "data" / "main_data.hdf5") as file:
            stored: Any = file["episode_0/observations"]
            if isinstance(stored, h5py.Dataset):
                layout = {"state": (stored.shape[1:], stored.dtype)}
            else:
                names = ("grey", "image", "robot/pos")
                layout = {name: (stored[name].shape[1:], stored[name].dtype) for name in names}
        assert json.loads(describe_space(layout)) == json.loads(text)
    with pytest.raises(ValueError, match="'a/b' cannot be written beside"):
        describe_space({"a": ((), np.dtype("f4")), "a/b": ((), np.dtype("f4"))})
    with pytest.raises(ValueError, match="'a' cannot be written beside"):
        describe_space({"a/b": ((), np.dtype("f4")), "a": ((), np.dtype("f4"))})


def test_sets_of_minari_are_not_written_into(sets):
    before = (sets / "box-v0" / "data" / "main_data.hdf5").read_bytes()
    with pytest.raises(ValueError, match="not written by this package"):
        MinariWriter(sets / "box-v0")
    assert (sets / "box-v0" / "data" / "main_data.hdf5").read_bytes() == before
