import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier_pt import (
    CHECKPOINT_KEYS,
    read_checkpoint_pt,
    write_checkpoint_pt,
)

VALUES = {"epoch": 4, "train_loss": 0.25, "train_acc": 0.9}


def make_classifier(keys=("wrist", "front"), size=(3, 64, 64), **changes):
    arguments = {"weights_follow": True, "hidden_dim": 32, "num_spatial_blocks": 2, **changes}
    classifier = BinaryRewardClassifier(keys, size, **arguments)
    classifier.load_state_dict(classifier.state_dict())
    return classifier.eval()


def make_images(classifier):
    rng = np.random.default_rng(0)
    shape = (2, *classifier.image_size)
    return {
        key: torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        for key in classifier.image_keys
    }


def write_foreign(path, classifier, change=lambda content: None):
    """A checkpoint as another program writes it: no metadata of ours."""
    state = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    content = {**VALUES, "model_state_dict": state, "optimizer_state_dict": {}}
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("use_pretrain", [True, False])
def test_a_checkpoint_of_ours_comes_back_whole_without_a_word(use_pretrain, tmp_path):
    classifier = make_classifier(
        size=(3, 70, 50), use_pretrain=use_pretrain, padding="same", layer_norm_eps=1e-6
    )
    optimizer = torch.optim.Adam(classifier.classifier.parameters(), lr=3e-4)
    classifier.classifier(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    path = tmp_path / "new" / "folder" / "reward_model.pt"
    write_checkpoint_pt(path, classifier, optimizer_state_dict=optimizer.state_dict(), **VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_checkpoint_pt(path)
    assert (found.epoch, found.train_loss, found.train_acc) == (4, 0.25, 0.9)
    assert found.classifier.arguments == classifier.arguments
    images = make_images(classifier)
    with torch.inference_mode():
        assert torch.equal(found.classifier(images), classifier(images))
    optimizer.load_state_dict(found.optimizer_state_dict)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_reader_that_knows_nothing_of_us_finds_the_five_keys_and_loads_strictly(tmp_path):
    classifier = make_classifier()
    write_checkpoint_pt(tmp_path / "c.pt", classifier, **VALUES)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert tuple(content) == CHECKPOINT_KEYS
    assert isinstance(content["epoch"], int)
    assert all(isinstance(v, torch.Tensor) for v in content["model_state_dict"].values())
    make_classifier(seed=1).load_state_dict(content["model_state_dict"], strict=True)


def test_a_foreign_checkpoint_is_read_by_its_shapes_with_a_warning_of_what_is_guessed(tmp_path):
    classifier = make_classifier(normalization="unit")
    path = write_foreign(tmp_path / "c.pt", classifier)
    with pytest.warns(UserWarning, match=r"normalization=unit, padding=symmetric, image_size="):
        found = read_checkpoint_pt(path).classifier
    assert found.arguments == classifier.arguments
    assert found.image_keys == ("wrist", "front")  # in the order in which the head joins them
    with torch.inference_mode():
        images = make_images(classifier)
        assert torch.equal(found(images), classifier(images))


def test_arguments_replace_the_guesses(tmp_path):
    classifier = make_classifier(size=(3, 50, 64), padding="same")
    path = write_foreign(tmp_path / "c.pt", classifier)
    arguments = {"image_size": [3, 50, 64], "normalization": "imagenet", "padding": "same"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_checkpoint_pt(path, image_keys=["wrist", "front"], **arguments)
    assert found.classifier.arguments == classifier.arguments


def test_averaged_features_are_told_from_the_kernel_and_need_the_image_size(tmp_path):
    classifier = make_classifier(use_pretrain=False)
    path = write_foreign(tmp_path / "c.pt", classifier)
    with pytest.raises(ValueError, match="Pass `image_size`"):
        read_checkpoint_pt(path)
    with pytest.warns(UserWarning, match="normalization=unit"):
        found = read_checkpoint_pt(path, image_size=[3, 64, 64])
    assert found.classifier.use_pretrain is False


def test_the_last_layer_that_nothing_reads_is_left_out(tmp_path):
    def add_last_layer(content):
        prefix = "encoders.front.resnet_backbone.fc."
        content["model_state_dict"][prefix + "weight"] = torch.zeros(1000, 512)
        content["model_state_dict"][prefix + "bias"] = torch.zeros(1000)

    path = write_foreign(tmp_path / "c.pt", make_classifier(), add_last_layer)
    with pytest.warns(UserWarning, match="normalization"):
        assert read_checkpoint_pt(path).classifier.image_keys == ("wrist", "front")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_keys": ["front"]}, r"Expected `image_keys` \['wrist', 'front'\], with which"),
        ({"image_keys": ["front", "wrist"]}, "Expected `image_keys`"),
        ({"image_size": [3, 128, 128]}, r"Expected `image_size` \[3, 64, 64\], .* \[3, 128, 128\]"),
        ({"normalization": "unit"}, "Expected `normalization` 'imagenet'"),
        ({"padding": "same"}, "Expected `padding` 'symmetric'"),
    ],
)
def test_arguments_that_contradict_the_file_are_refused(arguments, message, tmp_path):
    write_checkpoint_pt(tmp_path / "c.pt", make_classifier(), **VALUES)
    with pytest.raises(ValueError, match=message):
        read_checkpoint_pt(tmp_path / "c.pt", **arguments)


def test_another_image_size_than_the_kernels_is_refused_in_a_foreign_file_too(tmp_path):
    path = write_foreign(tmp_path / "c.pt", make_classifier())
    with (
        pytest.warns(UserWarning, match="normalization"),
        pytest.raises(ValueError, match=r"of 2 x 2 blocks of 32 pixels, .* got \[3, 128, 128\]"),
    ):
        read_checkpoint_pt(path, image_size=[3, 128, 128])


def drop(name):
    return lambda content: content["model_state_dict"].pop(name)


def put(name, value):
    return lambda content: content["model_state_dict"].update({name: value})


@pytest.mark.filterwarnings("ignore:.*does not say how")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("classifier.2.bias"), r"missing \['classifier.2.bias'\]"),
        (drop("classifier.0.weight"), "Expected 'encoders.<image key>"),
        (put("extra", torch.zeros(1)), r"unexpected \['extra'\]"),
        (put("classifier.4.bias", torch.tensor([torch.inf])), "'classifier.4.bias' .* infinity"),
        (put("classifier.4.bias", torch.zeros(2)), r"of shape \(1,\), got \(2,\)"),
        (put("classifier.4.bias", "text"), "got <class 'str'> under 'classifier.4.bias'"),
        (
            put("classifier.0.weight", torch.zeros(1).expand(10**6, 2 * 10**6)),
            "'classifier.0.weight' .* stored in full",
        ),
        (put("classifier.0.weight", torch.zeros(10**6, 1)), "Expected 'encoders.<image key>"),
        (
            put("encoders.front.pooling_layer.kernel", torch.zeros(512, 3, 3, 2)),
            "Expected 'encoders.<image key>",
        ),
        (lambda content: content.pop("model_state_dict"), "Expected a checkpoint with the keys"),
        (lambda content: content.update(model_state_dict=3), "Expected tensors by name"),
        (lambda content: content.update(epoch="four"), r"Expected numbers under \['epoch'\]"),
        (lambda content: content.update(optimizer_state_dict=[1]), "optimizer_state_dict"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_by_name(change, message, tmp_path):
    path = write_foreign(tmp_path / "c.pt", make_classifier(), change)
    with pytest.raises(ValueError, match=message):
        read_checkpoint_pt(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"hidden_dim": 10**6},
        {"image_size": [3, 10**6, 10**6]},
        {"image_size": "large"},
        {"weights_follow": False},
        {"pretrained_encoder_path": "somewhere"},
        {"dropout": "much"},
        {"layers": 3},
        {3: 4},
    ],
)
def test_metadata_that_lie_are_refused(metadata, tmp_path):
    write_checkpoint_pt(tmp_path / "c.pt", make_classifier(), **VALUES)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    content["model_state_dict"]._metadata["libero_reward_envs"].update(metadata)
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt"):
        read_checkpoint_pt(tmp_path / "c.pt")


@pytest.mark.filterwarnings("ignore:.*does not say how")
def test_keys_that_nothing_reads_are_named(tmp_path):
    path = write_foreign(tmp_path / "c.pt", make_classifier(), lambda c: c.update(global_step=9))
    with pytest.warns(UserWarning, match=r"not read: \['global_step'\]"):
        read_checkpoint_pt(path)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("place", ["optimizer_state_dict", "model_state_dict", "epoch"])
def test_a_checkpoint_with_an_object_is_refused_and_runs_nothing(place, tmp_path, capsys):
    path = write_foreign(tmp_path / "c.pt", make_classifier(), lambda c: c.update({place: Evil()}))
    with pytest.raises(ValueError, match="could run code"):
        read_checkpoint_pt(path)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="could run code"):
        read_checkpoint_pt(tmp_path / "bare.pt")
    assert "code ran" not in capsys.readouterr().out


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    write_checkpoint_pt(path, make_classifier(["front"]), **VALUES)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint_pt(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "not a checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint_pt(path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint_pt(tmp_path / "none.pt")


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    write_checkpoint_pt(path, make_classifier(), **VALUES)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint_pt(path, make_classifier(seed=1), **VALUES)
    assert path.read_bytes() == before
