import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from libero_reward_envs.openvla.checkpoint_files import (
    INDEX_FILE,
    TINY_OPENVLA,
    WEIGHTS_FILE,
    check_shapes,
    find_checkpoint,
    list_tensors,
    read_tensors,
)


class _Hub:
    """Stands in for the Hub: serves the files of a folder, and notes what was asked for."""

    def __init__(self, served: Path, cache: Path) -> None:
        self.served = served
        self.snapshot = cache / ("0123456789" * 4)
        self.asked: list[tuple[list[str], dict]] = []

    def snapshot_download(self, hub_id: str, *, allow_patterns: list[str], **options) -> str:
        self.asked.append((allow_patterns, options))
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.served.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.snapshot)
        return str(self.snapshot)

    @property
    def downloaded(self) -> set[str]:
        return {path.name for path in self.snapshot.iterdir()}


@pytest.fixture
def hub(copied_folder, tmp_path, monkeypatch) -> _Hub:
    hub = _Hub(copied_folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def _names(folder: Path, *patterns: str) -> set[str]:
    return {path.name for pattern in patterns for path in folder.glob(pattern)}


def _index(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX_FILE).read_text())["weight_map"]


def _write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def test_tensors_of_all_shards_are_listed(small_folder, small_model) -> None:
    tensors = list_tensors(small_folder)
    assert len({tensor.shard for tensor in tensors.values()}) > 1
    assert check_shapes(tensors, small_model.state_dict(), small_folder) == []
    assert {tensor.dtype for tensor in tensors.values()} == {"F32"}


def test_tensors_are_read_as_they_are_stored(small_folder, small_model) -> None:
    names = ["projector.fc1.bias", "language_model.lm_head.weight"]
    read = dict(read_tensors(list_tensors(small_folder), names))
    assert read.keys() == set(names)
    weights = small_model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in read.items())


def test_a_file_without_an_index_is_a_checkpoint_too(recorded_folder) -> None:
    tensors = list_tensors(recorded_folder)
    with safe_open(recorded_folder / "model.safetensors", framework="np") as file:
        assert tensors.keys() == set(file.keys())


def test_a_missing_shard_is_named(copied_folder) -> None:
    shard = sorted(set(_index(copied_folder).values()))[1]
    (copied_folder / shard).unlink()
    with pytest.raises(FileNotFoundError, match=rf"shards.*missing: {shard}.*Download"):
        list_tensors(copied_folder)


def test_a_missing_shard_does_not_matter_where_it_is_not_wanted(copied_folder) -> None:
    index = _index(copied_folder)
    wanted = "projector.fc1.weight"
    for shard in set(index.values()) - {index[wanted]}:
        (copied_folder / shard).unlink()
    tensors = list_tensors(copied_folder, lambda name: name == wanted)
    assert dict(read_tensors(tensors)).keys() == {wanted}


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "a.bin", 3]
)
def test_shards_elsewhere_or_of_another_kind_are_refused(copied_folder, name) -> None:
    _write_index(copied_folder, {**_index(copied_folder), "projector.fc1.weight": name})
    with pytest.raises(ValueError, match=r"name of a .safetensors file beside it, got"):
        list_tensors(copied_folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_a_damaged_index_is_refused(copied_folder, text) -> None:
    (copied_folder / INDEX_FILE).write_text(text)
    with pytest.raises(ValueError, match="Download it again"):
        list_tensors(copied_folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_shard_cut_short_is_refused(copied_folder, kept) -> None:
    path = copied_folder / _index(copied_folder)["projector.fc1.weight"]
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf"{path.name}' is damaged or cut short.*Download"):
        list_tensors(copied_folder)


def test_a_header_that_claims_too_much_is_refused(copied_folder) -> None:
    path = copied_folder / _index(copied_folder)["projector.fc1.weight"]
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="damaged or cut short"):
        list_tensors(copied_folder)


def test_an_index_of_another_checkpoint_is_refused(copied_folder) -> None:
    index = _index(copied_folder)
    _write_index(copied_folder, {**index, "projector.fc9.weight": index["projector.fc1.weight"]})
    with pytest.raises(ValueError, match=r"'projector.fc9.weight'.*different checkpoints"):
        list_tensors(copied_folder)


def test_missing_reshaped_and_quantised_tensors_are_named(copied_folder, small_model) -> None:
    expected = small_model.state_dict()
    tensors = list_tensors(copied_folder)
    path = tensors["projector.fc1.bias"].shard
    weights = load_file(path)
    without = {name: tensor for name, tensor in tensors.items() if name != "projector.fc1.bias"}
    with pytest.raises(ValueError, match=r"missing: projector.fc1.bias\."):
        check_shapes(without, expected, copied_folder)
    save_file({**weights, "projector.fc1.bias": torch.zeros(7)}, path)
    with pytest.raises(ValueError, match=r"'projector.fc1.bias' of shape \(160,\).*got \(7,\)"):
        check_shapes(list_tensors(copied_folder), expected, copied_folder)
    save_file({**weights, "projector.fc1.bias": torch.zeros(160, dtype=torch.uint8)}, path)
    with pytest.raises(ValueError, match=r"got U8.*not quantised"):
        check_shapes(list_tensors(copied_folder), expected, copied_folder)


def test_what_is_there_instead_of_weights_is_said(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="got neither"):
        list_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin. Pickled .* not read"):
        list_tensors(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"got a LoRA adapter. Merge"):
        list_tensors(tmp_path)


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(tmp_path) -> None:
    for name in (tmp_path / "none", "none", "../none/none", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"No folder .* Give a folder, a Hub id"):
            find_checkpoint(name)
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a repository"):
        find_checkpoint("someone/something", local_files_only=True)


def test_all_files_of_a_checkpoint_are_downloaded(hub) -> None:
    folder = find_checkpoint("someone/something", revision="main", token="mine")
    assert hub.downloaded == _names(hub.served, "*.json", "*.safetensors")
    assert list_tensors(folder).keys() == list_tensors(hub.served).keys()
    ((_, options),) = hub.asked
    assert options == {"revision": "main", "token": "mine", "local_files_only": False}


def test_only_shards_with_wanted_tensors_are_downloaded(hub) -> None:
    wanted = ("projector.fc1.weight", "vision_backbone.featurizer.pos_embed")
    folder = find_checkpoint("someone/something", wanted=wanted.__contains__, revision="main")
    shards = {_index(hub.served)[name] for name in wanted}
    assert hub.downloaded == shards | _names(hub.served, "*.json")
    assert shards < _names(hub.served, "*.safetensors")
    assert list_tensors(folder, wanted.__contains__).keys() == set(wanted)
    # The shards are of the commit whose index was read, wherever the branch is by then.
    assert [options["revision"] for _, options in hub.asked] == ["main", hub.snapshot.name]


def test_a_single_file_of_weights_is_downloaded_whole(hub, recorded_folder) -> None:
    hub.served = recorded_folder
    folder = find_checkpoint("someone/something", wanted="projector.fc1.weight".__eq__)
    assert hub.downloaded == {WEIGHTS_FILE} | _names(recorded_folder, "*.json")
    assert list_tensors(folder).keys() == list_tensors(recorded_folder).keys()


def test_weights_can_be_left_out(hub) -> None:
    find_checkpoint("someone/something", weights=False)
    assert hub.downloaded == _names(hub.served, "*.json")


def test_an_index_cannot_have_other_files_downloaded(hub) -> None:
    _write_index(hub.served, {"projector.fc1.weight": "*.safetensors"})
    with pytest.raises(ValueError, match=r"name of a \.safetensors file beside it"):
        find_checkpoint("someone/something", wanted=lambda name: True)
    assert hub.downloaded == _names(hub.served, "*.json")


def test_the_feature_extractor_downloads_what_it_reads(hub, tmp_path) -> None:
    from libero_reward_envs.openvla.feature_extractor import OpenVLAFeatureExtractor
    from libero_reward_envs.openvla.memory_description import describe_memory
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

    tiny = find_checkpoint(TINY_OPENVLA)
    hub.served = tmp_path / "sharded"
    OpenVLAForActionPrediction.from_pretrained(tiny).save_pretrained(
        hub.served, max_shard_size="20KB"
    )
    for path in (tiny / "tokenizer.json", tiny / "preprocessor_config.json"):
        shutil.copy(path, hub.served)
    line = describe_memory("someone/something", features_only=True)
    assert "someone/something" in line
    assert hub.downloaded == _names(hub.served, "*.json")
    extractor = OpenVLAFeatureExtractor.from_pretrained("someone/something")
    index = _index(hub.served)
    needed = {index[name] for name in extractor.tensors_read}
    assert needed <= hub.downloaded
    without = {index["projector.fc2.weight"], index["language_model.lm_head.weight"]}
    assert not without & hub.downloaded
