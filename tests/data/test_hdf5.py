import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from libero_reward_envs.data import Episode, EpisodeWriter, load_episodes
from libero_reward_envs.data.hdf5 import make_header, pending_folder


def make_episode(n_steps=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": {
            "state": rng.normal(size=(n_steps + 1, 3)),
            "agentview": rng.integers(0, 256, (n_steps + 1, 8, 8, 3), np.uint8),
            "openvla/vision": rng.normal(size=(n_steps + 1, 5)).astype(np.float16),
        },
        "actions": rng.uniform(-1, 1, (n_steps, 7)),
        "rewards": rng.normal(size=n_steps),
        "terminated": bool(seed % 2),
        "success": bool(seed % 2),
        "task": "suite/task",
        "instruction": "put the mug in",
        "metadata": {"seed": seed, "versions": {"mujoco": "3.3.2"}},
    }
    return Episode(**{**fields, **changes})


def assert_same(first, second):
    assert first.observations.keys() == second.observations.keys()
    for key, value in first.observations.items():
        assert value.dtype == second.observations[key].dtype
        np.testing.assert_array_equal(value, second.observations[key])
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    names = ("terminated", "success", "task", "instruction", "metadata", "episode_return")
    assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "episodes.hdf5"


def write(path, *seeds):
    with EpisodeWriter(path) as writer:
        for seed in seeds:
            writer.append(make_episode(4 + seed, seed))


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_episodes_come_back_as_they_were(path, compression):
    episodes = [make_episode(1 + seed, seed) for seed in range(12)]
    with EpisodeWriter(path, compression=compression) as writer:
        for episode in episodes:
            writer.append(episode)
    dataset = load_episodes(path)
    assert len(dataset) == 12  # demo_10 does not come before demo_2
    for written, read in zip(episodes, dataset, strict=True):
        assert_same(written, read)
        assert written.summary() == read.summary()
    assert dataset.summaries() == [episode.summary() for episode in episodes]
    assert not pending_folder(path).exists()


def test_file_reads_as_a_demonstration_of_libero(path):
    with EpisodeWriter(path, env_args={"env_name": "x"}) as writer:
        writer.append(make_episode(4, 1), states=np.zeros((4, 50)))
        writer.append(make_episode(6, 2))
    with h5py.File(path) as file:
        data: Any = file["data"]
        assert (data.attrs["num_demos"], data.attrs["total"]) == (2, 10)
        assert data.attrs["env_args"] == '{"env_name": "x"}'
        demo = data["demo_0"]
        assert demo.attrs["num_samples"] == 4
        for name in ("actions", "rewards", "dones", "states", "obs/state", "obs/agentview"):
            assert len(demo[name]) == 4
        assert demo["dones"][:].tolist() == [0, 0, 0, 1]
        assert demo["obs/agentview"].compression == "gzip"


def test_episodes_are_read_while_they_are_written_and_after(path):
    write(path, 1)
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(3, 2))
        assert len(writer) == 2
        dataset = load_episodes(path)
        assert_same(dataset[1], make_episode(3, 2))
        writer.append(make_episode(3, 3))
    # Merged by now, so the episode lies elsewhere than the dataset remembers.
    assert_same(dataset[1], make_episode(3, 2))
    assert len(dataset) == len(dataset.summaries()) == 2
    assert len(load_episodes(path)) == 3


def test_files_are_opened_when_read_and_datasets_pickle(path):
    write(path, 1, 2)
    dataset = load_episodes(path)
    moved = path.with_name("moved.hdf5")
    path.rename(moved)
    with pytest.raises(FileNotFoundError):
        dataset[0]
    moved.rename(path)
    assert_same(pickle.loads(pickle.dumps(dataset))[1], dataset[1])


def test_summaries_open_each_file_once(path, monkeypatch):
    write(path, 1, 2)
    opened: list[Path] = []
    original = h5py.File.__init__

    def note(self, name, *arguments, **keywords):
        if "mode" not in keywords and arguments[:1] == ("r",):
            opened.append(Path(name))
        original(self, name, *arguments, **keywords)

    with EpisodeWriter(path) as writer:
        for seed in range(3, 20):
            writer.append(make_episode(4, seed))
        dataset = load_episodes(path)
        assert len(dataset) == 19
        monkeypatch.setattr(h5py.File, "__init__", note)
        assert [summary.metadata["seed"] for summary in dataset.summaries()] == [*range(1, 20)]
        assert len(opened) == len(set(opened)) == 18
        monkeypatch.undo()


def test_opening_takes_a_few_bytes_an_episode(path):
    n_episodes = 3000
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        make_header(data, {})
        for number in range(n_episodes):
            data.create_group(f"demo_{number}")
    len(load_episodes(path))
    tracemalloc.start()
    dataset = load_episodes(path)
    assert len(dataset) == n_episodes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000 + 20 * n_episodes


def test_missing_file_is_reported(path):
    with pytest.raises(FileNotFoundError, match=r"No episodes at .*episodes\.hdf5"):
        load_episodes(path)


def test_texts_may_be_empty_or_in_any_language_but_not_endless(path):
    episodes = [make_episode(task="", instruction="", metadata={}), make_episode(task="käse 乳")]
    with EpisodeWriter(path) as writer:
        for episode in episodes:
            writer.append(episode)
        with pytest.raises(ValueError, match="`metadata` of the episode takes 70009 bytes"):
            writer.append(make_episode(metadata={"x": "a" * 70_000}))
    for written, read in zip(episodes, load_episodes(path), strict=True):
        assert_same(written, read)


def replace(group, name, **kwargs):
    del group[name]
    return group.create_dataset(name, **kwargs)


def make_external(demo, outside):
    outside.write_bytes(bytes(4 * 8))
    replace(demo, "rewards", shape=(4,), dtype="f8", external=[(str(outside), 0, 32)])


def make_virtual(demo, outside):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(outside), "rewards", shape=(4,))
    del demo["rewards"]
    demo.create_virtual_dataset("rewards", layout)


def link_to(name, link):
    def change(demo, outside):
        if name in demo:
            del demo[name]
        demo[name] = link(str(outside))

    return change


DAMAGES = {
    "external storage": (make_external, "stored outside the file"),
    "virtual dataset": (make_virtual, "stored outside the file"),
    "external link": (link_to("rewards", lambda p: h5py.ExternalLink(p, "/x")), "ExternalLink"),
    "soft link": (link_to("rewards", lambda _: h5py.SoftLink("/data/x")), "SoftLink"),
    "external group": (link_to("obs/x", lambda p: h5py.ExternalLink(p, "/")), "ExternalLink"),
    "huge and empty": (
        lambda demo, _: replace(demo, "rewards", shape=(4, 10**9), dtype="f8", chunks=(4, 1000)),
        "declares shape",
    ),
    "last chunk missing": (
        lambda demo, _: replace(demo, "rewards", shape=(4,), dtype="f8", chunks=(1,)).__setitem__(
            slice(3), 1.0
        ),
        "declares shape",
    ),
    "two columns": (
        lambda demo, _: replace(demo, "rewards", data=np.zeros((4, 2))),
        "`rewards` of shape",
    ),
    "wrong rows": (lambda demo, _: replace(demo, "rewards", data=np.zeros(5)), "expected 4 rows"),
    "objects": (
        lambda demo, _: replace(demo, "rewards", data=["a"] * 4, dtype=h5py.string_dtype()),
        "not numbers",
    ),
    "nan": (lambda demo, _: replace(demo, "rewards", data=[0, 0, np.nan, 0]), "nan"),
    "missing": (lambda demo, _: demo.pop("rewards"), "no 'rewards'"),
    "no observations": (lambda demo, _: demo.pop("obs"), "no 'obs'"),
    "metadata": (
        lambda demo, _: demo.attrs.__setitem__("metadata", np.bytes_(b"{")),
        "Cannot read",
    ),
    "metadata list": (
        lambda demo, _: demo.attrs.__setitem__("metadata", np.bytes_(b"[]")),
        "a JSON object",
    ),
    "string of variable length": (
        lambda demo, _: demo.attrs.__setitem__("task", "x"),
        "expected str attribute 'task'",
    ),
    "attribute type": (lambda demo, _: demo.attrs.__setitem__("success", 2.5), "bool attribute"),
    "group in itself": (
        lambda demo, _: [demo["obs"].__setitem__(str(i), demo["obs"]) for i in range(20)],
        "more than 1000 datasets",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_hostile_file_is_refused_with_its_reason(path, tmp_path, damage):
    with EpisodeWriter(path) as writer:
        writer.append(make_episode(4, 1))
    change, message = DAMAGES[damage]
    with h5py.File(path, "r+") as file:
        change(file["data/demo_0"], tmp_path / "outside")
    with pytest.raises(ValueError, match=r"Cannot read '.*episodes\.hdf5'.*") as error:
        load_episodes(path)[0]
    assert message in str(error.value)


def test_episode_too_often_compressed_is_refused(path):
    write(path, 1)
    with h5py.File(path, "r+") as file:
        demo: Any = file["data/demo_0"]
        filters = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        filters.set_chunk((5, 10**6))
        filters.set_deflate(9)
        filters.set_deflate(9)
        del demo["obs/state"]
        space = h5py.h5s.create_simple((5, 10**6))
        dataset = h5py.h5d.create(demo["obs"].id, b"state", h5py.h5t.NATIVE_UINT8, space, filters)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((5, 10**6), np.uint8))
        assert dataset.get_storage_size() < 2000
    with pytest.raises(ValueError, match="declares shape"):
        load_episodes(path).read(0, ["state"])


def test_truncated_file_is_refused_or_reads_whole_episodes(path):
    write(path, *range(4))
    content = path.read_bytes()
    for size in [0, 100, len(content) // 3, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"Cannot read '.*episodes\.hdf5'"):
            list(load_episodes(path))
        with pytest.raises(ValueError, match="Cannot read"):
            EpisodeWriter(path)
    assert not pending_folder(path).exists()


def test_flipped_bits_in_arrays_are_noticed(path):
    episode = make_episode(4, 1)
    with EpisodeWriter(path) as writer:
        writer.append(episode)
    content = bytearray(path.read_bytes())
    position = content.index(episode.actions.tobytes())
    content[position + 5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="Cannot read"):
        load_episodes(path)[0]


def test_file_of_another_kind_is_refused(path):
    with h5py.File(path, "w") as file:
        file.create_group("data/demo_0")
    with pytest.raises(ValueError, match="attribute 'format_version'"):
        len(load_episodes(path, format="hdf5"))
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["format_version"] = 99
    with pytest.raises(ValueError, match="format version 99 is newer than 1"):
        len(load_episodes(path))


def test_a_damaged_file_and_a_damaged_episode_that_waits_are_skipped(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.h5", 1, 2)
    (tmp_path / "b.h5").write_bytes(b"\0" * 4000)
    writer = EpisodeWriter(tmp_path / "c.h5")
    writer.append(make_episode(7, 7))
    writer.append(make_episode(8, 8))
    damaged, _ = sorted(pending_folder(tmp_path / "c.h5").glob("*.hdf5"))
    damaged.write_bytes(damaged.read_bytes()[:900])
    try:
        with pytest.raises(ValueError, match=r"Cannot read .*b\.h5"):
            len(load_episodes(tmp_path))
        dataset = load_episodes(tmp_path, on_error="skip")
        assert [len(episode) for episode in dataset] == [5, 6, 5, 6, 8]
        assert ["b.h5" in reason for reason in dataset.skipped] == [True, False]
        assert damaged.name in dataset.skipped[1]
    finally:
        damaged.unlink()
        writer.close()
