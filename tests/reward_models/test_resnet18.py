import sys

import pytest
import torch

from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_pt import read_checkpoint_pt, write_checkpoint_pt
from libero_reward_envs.reward_models.resnet10 import normalize_images
from libero_reward_envs.reward_models.resnet18 import ResNet18

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


def test_without_torchvision_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        ResNet18()


def test_features_are_those_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    network = models.resnet18(weights=None).eval()
    trunk = ResNet18().eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    trunk.load_state_dict(state)
    network.avgpool = network.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = network(normalize_images(IMAGES, "imagenet"))
        found = trunk(IMAGES)
    assert sum(value.numel() for value in trunk.parameters()) == 11_176_512
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_a_classifier_on_it_freezes_its_norms_saves_and_loads(tmp_path):
    models = pytest.importorskip("torchvision.models")
    state = models.resnet18(weights=None).state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    for name in counters:  # as files of early torchvision
        del state[name]
    torch.save(state, tmp_path / "resnet18.pth")
    classifier = BinaryRewardClassifier(
        ["image"],
        [3, 64, 64],
        pretrained_encoder_path=tmp_path / "resnet18.pth",
        backbone="resnet18",
    ).train()
    before = classifier.encoder_hash
    classifier({"image": IMAGES}).sum().backward()
    assert classifier.encoder_hash == before  # running means too
    write_checkpoint_pt(tmp_path / "c.pt", classifier, epoch=1, train_loss=0.1, train_acc=0.9)
    loaded = read_checkpoint_pt(tmp_path / "c.pt").classifier
    assert loaded.encoder_hash == before
    ClassifierRewardModel.from_classifier(classifier).save_pretrained(tmp_path / "model")
    model = ClassifierRewardModel.from_pretrained(tmp_path / "model")
    assert isinstance(model, ClassifierRewardModel)
    assert model.classifier.encoder_hash == before
