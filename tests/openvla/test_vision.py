import numpy as np
import pytest
import timm
import torch

from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.vision import LayerScale, VisionBackbone


def test_each_tower_matches_the_original(model, recorded, recorded_inputs) -> None:
    backbone, pixels = model.vision_backbone, recorded_inputs["pixel_values"]
    widths = [tower.embed_dim for tower in backbone.towers]
    with torch.inference_mode():
        features = model.extract_vision_features(pixels)
        projected = model.projector(features)
    first, second = features.split(widths, dim=-1)
    np.testing.assert_array_equal(first, recorded["featurizer_patches"])
    np.testing.assert_array_equal(second, recorded["fused_featurizer_patches"])
    np.testing.assert_array_equal(features, recorded["vision_features"])
    np.testing.assert_array_equal(projected, recorded["projected_patches"])


@pytest.mark.parametrize("n_views", [1, 2, 3])
def test_several_views_match_the_original(model, recorded_folder, n_views) -> None:
    inputs = np.load(recorded_folder / "oft" / "inputs.npz", allow_pickle=False)
    expected = np.load(recorded_folder / "oft" / "expected.npz", allow_pickle=False)
    pixels = torch.from_numpy(inputs["pixel_values_3views"][:, : 6 * n_views])
    with torch.inference_mode():
        features = model.extract_vision_features(pixels)
        projected = model.projector(features)
    np.testing.assert_allclose(features, expected[f"views{n_views}_vision_features"], atol=1e-5)
    np.testing.assert_allclose(projected, expected[f"views{n_views}_projected"], atol=1e-5)


def test_views_stand_behind_each_other(small_model) -> None:
    pixels = torch.randn(2, 12, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both = small_model.extract_vision_features(pixels)
        apart = [small_model.extract_vision_features(view) for view in pixels.split(6, dim=1)]
    assert both.shape == (2, 2 * 4, 40)
    torch.testing.assert_close(both, torch.cat(apart, dim=1), atol=1e-5, rtol=0)


def test_unused_parts_can_be_left_out(small_model) -> None:
    config = small_model.config
    backbone = VisionBackbone(config, used_parts_only=True).eval()
    weights = small_model.vision_backbone.state_dict()
    kept = {name: weights[name] for name in backbone.state_dict()}
    backbone.load_state_dict(kept)
    left_out = {name.split(".")[1] for name in weights.keys() - kept.keys()}
    assert left_out == {"attn_pool", "norm", "blocks"}
    pixels = torch.randn(2, 6, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(backbone(pixels), small_model.extract_vision_features(pixels))
    assert (backbone.n_patches, backbone.feature_dim) == (4, 40)


def test_one_tower_sees_three_channels() -> None:
    config = OpenVLAConfig(
        vision_backbone_id="siglip-vit-so400m",
        image_sizes=[28],
        timm_model_kwargs=[{"depth": 2, "embed_dim": 16, "num_heads": 2}],
        text_config={"vocab_size": 32064, "hidden_size": 16, "num_attention_heads": 2},
    )
    backbone = VisionBackbone(config)
    assert backbone(torch.zeros(1, 3, 28, 28)).shape == (1, 4, 16)
    assert not any(isinstance(module, LayerScale) for module in backbone.modules())


@pytest.mark.parametrize(
    "shape", [(1, 3, 28, 28), (1, 6, 224, 224), (6, 28, 28), (1, 0, 28, 28), (1, 9, 28, 28)]
)
def test_pixels_of_another_shape_are_refused(small_model, shape) -> None:
    with pytest.raises(ValueError, match=r"\(n, 6 \* views, 28, 28\), got"):
        small_model.extract_vision_features(torch.zeros(shape))


def test_images_that_were_not_normalised_are_refused(small_model) -> None:
    with pytest.raises(TypeError, match=r"floating point, got torch.uint8.*image processor"):
        small_model.extract_vision_features(torch.zeros(1, 6, 28, 28, dtype=torch.uint8))


def test_a_configuration_changed_later_is_checked_before_timm_sees_it(tmp_path) -> None:
    config = OpenVLAConfig()
    config.timm_model_kwargs = [{"checkpoint_path": str(tmp_path / "evil.pth")}, {}]
    with pytest.raises(ValueError, match="got 'checkpoint_path'"):
        VisionBackbone(config)


def test_numbers_that_make_no_tower_are_refused() -> None:
    config = OpenVLAConfig(timm_model_kwargs=[{"embed_dim": 33, "num_heads": 2}, {}])
    with pytest.raises(ValueError, match=r"cannot build 'vit_large.*'embed_dim': 33.*config.json"):
        VisionBackbone(config)


@pytest.mark.parametrize("version", ["0.9.10", "1.0.20", "1.0.25"])
def test_an_old_timm_is_refused(monkeypatch, version) -> None:
    monkeypatch.setattr(timm, "__version__", version)
    with pytest.raises(ImportError, match=rf"timm 1\.0\.26 or later, got {version}\. Upgrade"):
        VisionBackbone(OpenVLAConfig())


@pytest.mark.parametrize("version", ["1.0.26", "1.0.100.dev0", "1.1", "2.0.0"])
def test_a_newer_timm_is_taken(monkeypatch, version) -> None:
    monkeypatch.setattr(timm, "__version__", version)
    with torch.device("meta"):
        assert VisionBackbone(OpenVLAConfig()).n_patches == 256
