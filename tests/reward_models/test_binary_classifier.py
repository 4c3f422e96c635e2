import copy

import pytest
import torch

from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.encoder_weights import compute_encoder_hash
from libero_reward_envs.reward_models.resnet10 import ResNet10

KEYS = ["front", "wrist"]


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    """A file of weights; how well they see does not matter here."""
    path = tmp_path_factory.mktemp("weights") / "resnet10_pretrained.pt"
    trunk = ResNet10(generator=torch.Generator().manual_seed(11))
    torch.save(trunk.state_dict(), path)
    return path


def make_images(keys=KEYS, n=3, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 3, size, size)
    return {
        key: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for key in keys
    }


def make_plain(keys=KEYS, **changes):
    arguments = {"use_pretrain": False, "freeze_encoder": False, **changes}
    return BinaryRewardClassifier(keys, [3, 64, 64], **arguments)


def take_step(classifier):
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=0.1)
    logits = classifier(make_images(classifier.image_keys))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(len(logits)))
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize(("size", "n_expected"), [(64, 1_132_289), (128, 1_181_441)])
def test_with_a_frozen_trunk_the_rest_has_the_known_number_of_parameters(
    size, n_expected, weights_path
):
    classifier = BinaryRewardClassifier(["image"], [3, size, size], 256, 8, weights_path)
    trained = [value.numel() for value in classifier.parameters() if value.requires_grad]
    assert sum(trained) == n_expected
    assert sum(value.numel() for value in classifier.trunks[0].parameters()) == 4_905_792


def test_loading_gives_every_camera_the_weights_of_the_file(weights_path):
    classifier = BinaryRewardClassifier(KEYS, [3, 64, 64], pretrained_encoder_path=weights_path)
    expected = torch.load(weights_path, weights_only=True)
    for trunk in classifier.trunks:
        for name, value in trunk.state_dict().items():
            assert torch.equal(value, expected[name])
    random = BinaryRewardClassifier(KEYS, [3, 64, 64], weights_follow=True)
    assert classifier.encoder_hash != random.encoder_hash
    one_camera = BinaryRewardClassifier(["front"], [3, 64, 64], 256, 8, weights_path)
    trunk = ResNet10(generator=torch.Generator().manual_seed(11))
    assert one_camera.encoder_hash == compute_encoder_hash([trunk])


def test_loading_that_changes_nothing_is_an_error(weights_path):
    classifier = BinaryRewardClassifier(KEYS, [3, 64, 64], pretrained_encoder_path=weights_path)
    with pytest.raises(ValueError, match="to change by loading"):
        classifier.load_encoder(weights_path)


def test_loading_and_freezing_are_independent(weights_path):
    for freeze in (True, False):
        classifier = BinaryRewardClassifier(
            KEYS, [3, 64, 64], pretrained_encoder_path=weights_path, freeze_encoder=freeze
        )
        loaded = classifier.encoder_hash
        take_step(classifier)
        assert (classifier.encoder_hash == loaded) is freeze
    for trunk in BinaryRewardClassifier(KEYS, [3, 64, 64], weights_follow=True).trunks:
        assert not any(value.requires_grad for value in trunk.parameters())


def test_gradients_reach_all_but_a_frozen_trunk(weights_path):
    frozen = BinaryRewardClassifier(KEYS, [3, 64, 64], pretrained_encoder_path=weights_path)
    for classifier in (frozen, make_plain()):
        classifier(make_images()).sum().backward()
        for name, value in classifier.named_parameters():
            is_frozen = classifier is frozen and ".resnet_backbone." in name
            assert (value.grad is None) is is_frozen, name


def test_a_frozen_trunk_stays_frozen_when_its_parameters_are_released(weights_path):
    classifier = BinaryRewardClassifier(KEYS, [3, 64, 64], pretrained_encoder_path=weights_path)
    classifier.requires_grad_(True)
    before = classifier.encoder_hash
    take_step(classifier)
    assert classifier.encoder_hash == before


def test_training_mode_reaches_all_but_a_frozen_trunk(weights_path):
    frozen = BinaryRewardClassifier(KEYS, [3, 64, 64], pretrained_encoder_path=weights_path)
    assert not any(module.training for trunk in frozen.train().trunks for module in trunk.modules())
    assert frozen.classifier.training
    assert all(trunk.training for trunk in make_plain().train().trunks)
    assert not any(module.training for module in frozen.eval().modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected a `pretrained_encoder_path` with use_pretrain=True, got None. Give"),
        ({"use_pretrain": False}, "Expected a trained encoder with freeze_encoder=True, got rand"),
        ({"freeze_encoder": False}, "Expected a `pretrained_encoder_path`"),
        ({"use_pretrain": False, "pretrained_encoder_path": "x.pt"}, "would not be used with use"),
        ({"weights_follow": True, "pretrained_encoder_path": "x.pt"}, "not be used with weights_f"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
        ({"hidden_dim": 0}, "must be at least 1, got 0 and 8"),
        ({"image_size": [64, 64, 3]}, "The channels come first"),
        ({"image_size": [3, 16, 16]}, "at least 32 pixels a side"),
        ({"image_size": [3, 64]}, r"as \[C, H, W\]"),
        ({"image_keys": "image"}, "as a list of different names, got 'image'"),
        ({"image_keys": []}, "as a list of different names"),
        ({"image_keys": ["a", "a"]}, "as a list of different names"),
        ({"image_keys": ["images.front"]}, "'images.front' cannot be an image key"),
        ({"image_keys": ["values"]}, "'values' cannot be an image key"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    full = {"image_keys": ["image"], "image_size": [3, 64, 64], **arguments}
    with pytest.raises(ValueError, match=message):
        BinaryRewardClassifier(**full)


def test_until_its_weights_follow_a_classifier_gives_nothing():
    source = make_plain().eval()
    classifier = BinaryRewardClassifier(**source.arguments, weights_follow=True).eval()
    with pytest.raises(RuntimeError, match="Call `load_state_dict` first"):
        classifier(make_images())
    some = {name: v for name, v in source.state_dict().items() if "classifier" in name}
    classifier.load_state_dict(some, strict=False)
    with pytest.raises(RuntimeError, match="Call `load_state_dict` first"):
        classifier(make_images())
    classifier.load_state_dict(source.state_dict())
    with torch.inference_mode():
        assert torch.equal(classifier(make_images()), source(make_images()))


def test_every_camera_counts_and_they_are_not_the_same():
    classifier = make_plain().eval()
    with torch.inference_mode():
        logits = classifier(make_images())
        for key in KEYS:
            other = {**make_images(), key: make_images(seed=5)[key]}
            assert not torch.equal(classifier(other), logits)
        first, second = make_images().values()
        assert not torch.equal(classifier({"front": second, "wrist": first}), logits)
    assert logits.shape == (3,)


def test_features_computed_once_give_the_same_logits():
    classifier = make_plain().eval()
    with torch.inference_mode():
        features = classifier.compute_features(make_images())
        assert torch.equal(classifier.classify(features), classifier(make_images()))


def test_dropout_acts_in_training_only():
    classifier = make_plain()
    images = make_images()
    with torch.no_grad():
        assert not torch.equal(classifier.train()(images), classifier(images))
        assert torch.equal(classifier.eval()(images), classifier(images))


def test_a_seed_decides_the_initial_weights_and_torch_itself_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = (make_plain(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.4.weight"], other["classifier.4.weight"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (make_images(["front"]), "No images 'wrist'. There are: front"),
        (make_images(size=128), r"Expected images 'front' of shape \('n', 3, 64, 64\), got"),
        ({k: v.float() for k, v in make_images().items()}, "of uint8, got .* of torch.float32"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        make_plain()(images)


def test_a_small_set_of_images_is_learned(weights_path):
    classifier = BinaryRewardClassifier(["image"], [3, 64, 64], 64, 2, weights_path)
    images = {"image": torch.zeros(8, 3, 64, 64, dtype=torch.uint8)}
    images["image"][::2, :, 20:40, 20:40] = 255
    labels = torch.tensor([1.0, 0.0] * 4)
    features = copy.deepcopy(classifier).compute_features(images)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(30):
        logits = classifier.classify(features)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        assert torch.equal((classifier.eval()(images) > 0).float(), labels)
