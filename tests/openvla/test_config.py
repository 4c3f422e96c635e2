import json

import pytest
import torch

from libero_reward_envs.openvla.backbones import VISION_BACKBONES
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.memory import make_meta_model


def test_defaults_are_the_published_model() -> None:
    config = OpenVLAConfig()
    text = config.text_config
    assert config.timm_model_ids == [
        "vit_large_patch14_reg4_dinov2.lvd142m",
        "vit_so400m_patch14_siglip_224",
    ]
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (4096, 11008, 32)
    assert (text.rms_norm_eps, text.max_position_embeddings) == (1e-6, 2048)
    assert (text.vocab_size, config.n_text_rows) == (32064, 32000)
    assert not text.tie_word_embeddings


def test_the_default_model_has_the_published_names_and_sizes() -> None:
    model = make_meta_model(OpenVLAConfig())
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    parts = {
        "vision_backbone.featurizer.": 303_230_976,
        "vision_backbone.fused_featurizer.": 427_680_704,
        "projector.": 71_385_600,
        "language_model.": 6_738_939_904,
    }
    assert len(sizes) == 982
    assert sum(sizes.values()) == 7_541_237_184
    for prefix, size in parts.items():
        assert sum(n for name, n in sizes.items() if name.startswith(prefix)) == size
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["vision_backbone.featurizer.blocks.23.ls2.scale_factor"] == (1024,)
    assert shapes["vision_backbone.fused_featurizer.attn_pool.kv.weight"] == (2304, 1152)
    assert shapes["projector.fc1.weight"] == (8704, 2176)
    assert shapes["language_model.lm_head.weight"] == (32064, 4096)
    assert not list(model.buffers(recurse=False))


@pytest.mark.parametrize("backbone", VISION_BACKBONES)
def test_each_vision_backbone_can_be_built(backbone: str) -> None:
    text = {
        "vocab_size": 32064,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = make_meta_model(OpenVLAConfig(vision_backbone_id=backbone, text_config=text))
    assert model.projector.fc1.in_features == model.vision_backbone.feature_dim


def test_unknown_backbones_are_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"Unknown vision backbone 'vit'.*dinosiglip-vit-so-224px"):
        OpenVLAConfig(vision_backbone_id="vit")
    with pytest.raises(ValueError, match=r"Unknown language model 'gpt'.*llama2-7b-pure"):
        OpenVLAConfig(llm_backbone_id="gpt")


def test_stored_fields_win_over_what_follows_from_the_names(recorded_folder) -> None:
    config = OpenVLAConfig.from_pretrained(recorded_folder)
    assert config.image_sizes == [56, 56]
    assert config.timm_model_kwargs[0]["depth"] == 4
    assert config.text_config.rms_norm_eps == 1e-6
    assert config.dtype == torch.bfloat16


def test_saved_configuration_has_the_published_form(recorded_folder, tmp_path) -> None:
    OpenVLAConfig.from_pretrained(recorded_folder).save_pretrained(tmp_path)
    stored = json.loads((recorded_folder / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    del stored["transformers_version"], saved["transformers_version"]
    assert saved == stored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_sizes": [224]}, r"`image_sizes` with one entry for each of 2 .* got \[224\]"),
        ({"image_sizes": [224, 384]}, r"images of one size.*\[224, 384\]"),
        ({"image_resize_strategy": "stretch"}, "Unknown `image_resize_strategy` 'stretch'"),
        ({"timm_model_kwargs": [{}]}, "`timm_model_kwargs` with one entry"),
    ],
)
def test_towers_that_do_not_fit_each_other_are_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        OpenVLAConfig(**fields)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"checkpoint_path": "evil.pth"}, r"only numbers.*depth, embed_dim.*got 'checkpoint_path'"),
        ({"pretrained": True}, "only numbers of the architecture.*got 'pretrained'"),
        ({"embed_dim": "torch.nn"}, "'embed_dim' .* as int between 1 and .*, got 'torch.nn'"),
        ({"embed_dim": True}, "'embed_dim' .* as int between 1 and .*, got True"),
        ({"depth": 1}, "'depth' .* as int between 2 and 512, got 1"),
        ({"depth": 10**9}, "'depth' .* as int between 2 and 512, got 1000000000"),
        ({"mlp_ratio": float("nan")}, "'mlp_ratio' .* as float between .*, got nan"),
        ({"class_token": 1}, "'class_token' .* as true or false, got 1"),
        ("depth", "as an object of numbers, got 'depth'"),
    ],
)
def test_towers_are_told_numbers_of_their_architecture_only(option, message) -> None:
    with pytest.raises(ValueError, match=message):
        OpenVLAConfig(timm_model_kwargs=[{}, option])


@pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:someone/model", "local-dir:model", "../model", "resnet50"),
        *("vit_large_patch14_reg4_dinov2", 3, ["vit_so400m_patch14_siglip_224"]),
    ],
)
def test_towers_that_no_published_model_has_are_refused(name) -> None:
    published = OpenVLAConfig().timm_model_ids
    message = "vision tower of a published OpenVLA, got .* nearest known: .*vit_"
    with pytest.raises(ValueError, match=message):
        OpenVLAConfig(timm_model_ids=[name, published[1]])


def test_the_nearest_known_tower_is_named() -> None:
    with pytest.raises(ValueError, match=r"nearest known: vit_so400m_patch14_siglip_384"):
        OpenVLAConfig(timm_model_ids=[OpenVLAConfig().timm_model_ids[0], "vit_so400m_siglip_384"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_sizes": ["224", "224"]}, "pixels between 1 and .*, got '224'"),
        ({"image_sizes": [0, 0]}, "pixels between 1 and .*, got 0"),
        ({"timm_override_act_layers": [None, "os.system"]}, "as one of .*, got 'os.system'"),
        ({"use_fused_vision_backbone": "yes"}, "as true or false, got 'yes'"),
        ({"text_config": {"model_type": "foo"}}, "as one of llama, mistral, phi, got 'foo'"),
        ({"text_config": "llama"}, "as an object of fields, got 'llama'"),
        ({"text_config": {"hidden_size": "wide"}}, "do not fit: .*hidden_size"),
    ],
)
def test_fields_of_another_kind_are_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        OpenVLAConfig(**fields)


def test_a_field_cannot_stand_for_another() -> None:
    config = OpenVLAConfig.from_dict(
        {"attribute_map": {"harmless": "timm_model_kwargs"}, "harmless": [{"pretrained": True}, {}]}
    )
    assert not hasattr(config, "timm_model_kwargs")


def test_nothing_that_could_load_code_is_taken_from_a_file() -> None:
    config = OpenVLAConfig.from_dict(
        {
            "auto_map": {"AutoConfig": "evil.Config"},
            "attn_implementation": "someone/kernel",
            "transformers_weights": "evil.bin",
            "text_config": {"vocab_size": 32064, "attn_implementation": "someone/kernel"},
        }
    )
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "transformers_weights")
    assert config._attn_implementation is None
    assert config.text_config._attn_implementation is None
