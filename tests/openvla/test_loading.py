import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from libero_reward_envs.openvla import memory
from libero_reward_envs.openvla.checkpoint_files import INDEX_FILE
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.loading import find_device, find_dtype, find_quantization_bits
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction


def _change_config(folder, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_shards_give_the_same_model_as_one_file(small_folder, small_model, tmp_path) -> None:
    small_model.save_pretrained(tmp_path)
    assert not (tmp_path / INDEX_FILE).exists()
    one = OpenVLAForActionPrediction.from_pretrained(tmp_path).state_dict()
    shards = OpenVLAForActionPrediction.from_pretrained(small_folder).state_dict()
    assert all(torch.equal(one[name], value) for name, value in shards.items())


def test_no_code_of_a_checkpoint_is_run(copied_folder, tmp_path) -> None:
    trap = "raise SystemExit('code of the checkpoint was run')"
    for name in ("configuration_prismatic.py", "modeling_prismatic.py"):
        (copied_folder / name).write_text(trap)
    _change_config(
        copied_folder,
        auto_map={
            "AutoConfig": "configuration_prismatic.OpenVLAConfig",
            "AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction",
        },
    )
    model = OpenVLAForActionPrediction.from_pretrained(copied_folder, trust_remote_code=True)
    assert isinstance(model, OpenVLAForActionPrediction)


def test_pickled_weights_are_not_read(copied_folder) -> None:
    weights = {}
    for path in copied_folder.glob("*.safetensors"):
        weights.update(load_file(path))
        path.unlink()
    (copied_folder / INDEX_FILE).unlink()
    torch.save(weights, copied_folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="Pickled weights can run code"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)
    with pytest.raises(FileNotFoundError, match="Pickled weights can run code"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder, use_safetensors=False)


def test_tensors_are_checked_before_loading(copied_folder) -> None:
    path = next(iter(copied_folder.glob("*-00002-of-*.safetensors")))
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.ndim == 2)
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, path)
    with pytest.raises(ValueError, match=rf"Expected tensor '{name}' of shape"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder, ignore_mismatched_sizes=True)


def test_unknown_backbones_and_other_models_are_refused(copied_folder) -> None:
    _change_config(copied_folder, vision_backbone_id="resnet")
    with pytest.raises(ValueError, match="Unknown vision backbone 'resnet'"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)
    _change_config(copied_folder, model_type="llava")
    with pytest.raises(ValueError, match=r"Expected `model_type` 'openvla' .* got 'llava'"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)
    (copied_folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)
    (copied_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"No config\.json"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)


class _Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_the_configuration_names_is_not_unpickled(copied_folder, tmp_path) -> None:
    torch.save({"state_dict": _Trap(tmp_path / "trapped")}, tmp_path / "evil.pth")
    towers = [{"depth": 3, "embed_dim": 16, "num_heads": 2}] * 2
    evil = {"checkpoint_path": str(tmp_path / "evil.pth")}
    _change_config(copied_folder, timm_model_kwargs=[towers[0], {**towers[1], **evil}])
    for load in (OpenVLAForActionPrediction.from_pretrained, OpenVLAConfig.from_pretrained):
        with pytest.raises(ValueError, match="only numbers of the architecture"):
            load(copied_folder)
    assert not (tmp_path / "trapped").exists()


def test_a_configuration_that_is_none_is_named_with_its_file(copied_folder) -> None:
    _change_config(copied_folder, timm_model_ids=["resnet50", "vit_so400m_patch14_siglip_224"])
    with pytest.raises(
        ValueError, match=r"config\.json' does not describe .* got 'resnet50'.*Mend"
    ):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)
    _change_config(copied_folder, timm_model_ids=None)
    with pytest.raises(ValueError, match=r"config\.json' does not describe"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)


def test_an_adapter_beside_the_weights_is_refused(copied_folder) -> None:
    (copied_folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="LoRA adapter beside it"):
        OpenVLAForActionPrediction.from_pretrained(copied_folder)


def test_statistics_beside_the_weights_replace_the_stored_ones(copied_folder, small_model) -> None:
    statistics = {"mine": small_model.norm_stats["some_data"]}
    (copied_folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    model = OpenVLAForActionPrediction.from_pretrained(copied_folder)
    assert model.norm_stats == statistics


def test_a_checkpoint_without_statistics_says_so(copied_folder) -> None:
    _change_config(copied_folder, norm_stats=None)
    with pytest.warns(UserWarning, match="has no `norm_stats`") as caught:
        model = OpenVLAForActionPrediction.from_pretrained(copied_folder)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=r"dataset_statistics\.json"):
        model.predict_action(torch.tensor([[1, 5]]), torch.zeros(1, 6, 28, 28))


def test_attention_must_be_known_and_installed(small_folder) -> None:
    with pytest.raises(ValueError, match="Unknown `attn_implementation` 'someone/kernel'"):
        OpenVLAForActionPrediction.from_pretrained(
            small_folder, attn_implementation="someone/kernel"
        )
    try:
        import flash_attn  # noqa: F401  # pyright: ignore[reportMissingImports] (optional)
    except ImportError:
        with pytest.raises(ImportError, match="needs the package flash-attn"):
            OpenVLAForActionPrediction.from_pretrained(
                small_folder, attn_implementation="flash_attention_2"
            )


def test_the_estimate_is_said_before_loading(small_folder, caplog) -> None:
    with caplog.at_level(logging.INFO, "libero_reward_envs.openvla.memory"):
        OpenVLAForActionPrediction.from_pretrained(small_folder)
    assert "estimated to take" in caplog.text
    assert "GiB" in caplog.text


def test_a_full_gpu_is_noticed_before_loading(small_folder, monkeypatch) -> None:
    monkeypatch.setattr(memory, "find_free_bytes", lambda device: 10 * 2**20)
    with pytest.raises(MemoryError, match=r"Expected room for .* on cuda:0, got 0.01 GiB.*4 bits"):
        OpenVLAForActionPrediction.from_pretrained(small_folder, device_map="cuda:0")


def test_the_device_of_a_map_is_found() -> None:
    assert find_device(None) == torch.device("cpu")
    assert find_device(1) == torch.device("cuda:1")
    assert find_device({"": "cuda:0"}) == torch.device("cuda:0")
    for several in ("auto", "balanced", {"a": 0, "b": "cpu"}):
        assert find_device(several) == torch.device("meta")


def test_a_model_is_put_where_the_map_says(small_folder, small_model) -> None:
    model = OpenVLAForActionPrediction.from_pretrained(small_folder, device_map="cpu")
    inputs = torch.tensor([[1, 5]]), torch.ones(1, 6, 28, 28)
    assert (model.predict_action(*inputs) == small_model.predict_action(*inputs)).all()


def test_precisions_are_found_by_name() -> None:
    config = OpenVLAConfig(dtype="float16")
    assert find_dtype(None, config) == torch.float16
    assert find_dtype("auto", config) == torch.float16
    assert find_dtype("bfloat16", config) == torch.bfloat16
    assert find_dtype(torch.float32, config) == torch.float32
    with pytest.raises(ValueError, match=r"Unknown `dtype` 'int8'.*bfloat16"):
        find_dtype("int8", config)


def test_quantised_bits_are_found() -> None:
    assert find_quantization_bits({"load_in_4bit": True}) == 4
    assert find_quantization_bits(OpenVLAConfig()) is None
    stored = OpenVLAConfig(quantization_config={"load_in_8bit": True})
    assert find_quantization_bits(stored) == 8


def test_loading_needs_no_more_than_the_folder(small_folder, tmp_path, monkeypatch) -> None:
    shutil.copytree(small_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert OpenVLAForActionPrediction.from_pretrained("model").norm_stats


def test_weights_can_be_quantised_and_saved(small_folder, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = OpenVLAForActionPrediction.from_pretrained(
        small_folder, dtype="bfloat16", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    layers = model.language_model.model.layers[0].self_attn.q_proj, model.projector.fc1
    assert {layer.weight.dtype for layer in layers} == {torch.int8}
    inputs = torch.tensor([[1, 5, 29871]]), None, torch.ones(1, 6, 28, 28)
    with torch.inference_mode():
        logits = model(*inputs).logits
        model.save_pretrained(tmp_path)
        assert torch.equal(
            OpenVLAForActionPrediction.from_pretrained(tmp_path)(*inputs).logits, logits
        )
