import json
from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.checkpoints import read_newest_checkpoint
from libero_reward_envs.data.frames import RewardDataset, split_trajectories
from libero_reward_envs.reward_models.base import load_reward_model
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_run import ClassifierRun
from tests.reward_models.classifier_makers import SIZE, fit, read_all, write_folders

# Few frames are held out, for speed.
pytestmark = pytest.mark.filterwarnings("ignore:.*held-out frames without success are too few")


@pytest.fixture(scope="module")
def fitted(sides, weights_path):
    return fit(sides, weights_path)


def test_frozen_features_tell_a_bright_square(fitted, sides):
    quality = fitted.training["quality"]
    assert quality["average_precision"] > 0.95
    assert quality["recall"] > 0.9
    # What is stored is what the model does with the images themselves.
    images, labels = read_all(sides[1])
    above = fitted.compute_probability(images) > fitted.threshold
    assert above[~labels].mean() == pytest.approx(quality["false_positive_rate"])
    assert above[labels].mean() == pytest.approx(quality["recall"])
    assert quality["false_positive_rate"] <= 0.01


def test_a_trunk_from_the_start_learns_it_too(sides):
    before = []
    model = fit(sides, n_epochs=2, on_best=lambda best: before.append(best.report["epoch"]))
    assert model.training["quality"]["average_precision"] > 0.95
    assert model.training["encoder_hash"] != model.training["initial_encoder_hash"]
    assert before[-1] == model.training["best_epoch"]


def test_a_frozen_trunk_stays_as_it_was(fitted):
    assert fitted.training["encoder_hash"] == fitted.training["initial_encoder_hash"]


@pytest.mark.filterwarnings("ignore:No frame of success scores above")
def test_the_best_epoch_is_that_of_held_out_precision_and_not_of_training_accuracy(
    sides, weights_path
):
    """The labels to learn from are wrong, so what it learns better it does worse."""
    train, holdout = sides
    wrong = train.subset(range(len(train.sources)))
    wrong.sources = [_Relabelled(source) for source in wrong.sources]
    wrong.labels = np.concatenate([source.labels for source in wrong.sources])
    # So slowly that there is something left to lose after the first epoch.
    model = fit((wrong, holdout), weights_path, learning_rate=3e-4, n_epochs=10)
    history = model.training["history"]
    precisions = [report["holdout_average_precision"] for report in history]
    accuracies = [report["train_acc"] for report in history]
    assert model.training["best_epoch"] == 1 + int(np.argmax(precisions))
    assert int(np.argmax(precisions)) != int(np.argmax(accuracies))
    # The weights are those of that epoch, not of the last.
    found = model.training["quality"]["average_precision"]
    assert found == pytest.approx(max(precisions), abs=1e-6)
    assert found != pytest.approx(precisions[-1], abs=1e-6)


class _Relabelled:
    def __init__(self, source):
        self._source, self.labels = source, 1 - source.labels

    def __getattr__(self, name):
        return getattr(self._source, name)


def test_of_equal_precisions_the_lower_loss_is_best_and_then_the_first():
    run = ClassifierRun.__new__(ClassifierRun)
    rows = [(0.9, 0.1), (1.0, 0.5), (1.0, 0.3), (1.0, 0.3), (1.0, 0.4)]
    run.history = [
        {"epoch": i, "holdout_average_precision": precision, "holdout_loss": loss}
        for i, (precision, loss) in enumerate(rows)
    ]
    assert run.best["epoch"] == 2


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(
    fitted, sides, weights_path
):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = fit(sides, weights_path)
    assert torch.equal(torch.rand(3), expected)
    other = fit(sides, weights_path, seed=1, n_epochs=1)
    weights, same = fitted.get_weights(), again.get_weights()
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
    assert again.threshold == fitted.threshold
    assert again.training == fitted.training
    assert not np.array_equal(
        weights["classifier.0.weight"], other.get_weights()["classifier.0.weight"]
    )


def test_without_memory_for_features_the_frames_are_read_anew(sides, weights_path):
    model = fit(sides, weights_path, n_epochs=2, max_cache_bytes=0)
    kept = fit(sides, weights_path, n_epochs=2)
    assert model.training["quality"]["average_precision"] > 0.9
    assert kept.training["history"] != model.training["history"]  # another order


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    fitted, sides, weights_path, tmp_path
):
    fit(sides, weights_path, n_epochs=3, checkpoint_folder=tmp_path)
    reports, frames = [], []
    model = fit(
        sides,
        weights_path,
        checkpoint_folder=tmp_path,
        on_progress=reports.append,
        on_batch=frames.append,
    )
    assert reports == model.training["history"]
    assert sum(frames) == 5 * len(sides[0])
    weights, expected = model.get_weights(), fitted.get_weights()
    assert all(np.array_equal(weights[name], expected[name]) for name in weights)
    assert model.training["history"] == fitted.training["history"]
    newest = read_newest_checkpoint(tmp_path)
    assert newest is not None
    # Nothing that training does not change.
    assert not [name for name in newest.arrays if ".resnet_backbone." in name]
    with pytest.raises(ValueError, match="differs in learning_rate"):
        fit(sides, weights_path, checkpoint_folder=tmp_path, learning_rate=1e-2)
    with pytest.raises(ValueError, match="is longer"):
        fit(sides, weights_path, checkpoint_folder=tmp_path, n_epochs=2)


def test_what_is_stored_survives_saving(fitted, sides, tmp_path):
    fitted.save_pretrained(tmp_path)
    model = load_reward_model(tmp_path)
    assert isinstance(model, ClassifierRewardModel)
    assert model.arguments == fitted.arguments
    assert model.training == json.loads(json.dumps(fitted.training))
    train = sides[0]
    assert model.training["class_prior"] == pytest.approx(train.labels.mean())
    assert model.training["train"]["frames"] == len(train)
    names = model.training["train_trajectories"] + model.training["holdout_trajectories"]
    assert len(set(names)) == 18
    assert "positive/000000" in names
    assert len(model.training["history"]) == 8
    assert str(tmp_path.parent.parent) not in (tmp_path / "config.json").read_text()


@pytest.mark.filterwarnings("ignore:No frame of success scores above")
def test_both_labels_weigh_the_same_only_when_balanced(sides, weights_path):
    """Before anything is learnt, frames of the two labels are as likely as their share."""
    plain = fit(sides, weights_path, balance=False, n_epochs=1, learning_rate=1e-9)
    even = fit(sides, weights_path, n_epochs=1, learning_rate=1e-9)
    share = sides[0].labels.mean()
    difference = plain.get_weights()["classifier.4.bias"] - even.get_weights()["classifier.4.bias"]
    assert difference == pytest.approx(np.log((1 - share) / share), abs=1e-5)
    # The loss of even logits is log 2 either way only when labels weigh the same.
    assert even.training["history"][0]["train_loss"] == pytest.approx(np.log(2), abs=0.2)


def test_balanced_training_keeps_the_share_of_success(fitted, sides):
    """Its probabilities are those of the data, not of half successes."""
    images, labels = read_all(sides[1])
    assert fitted.compute_probability(images).mean() == pytest.approx(labels.mean(), abs=0.05)


def test_batches_are_told_of(sides, weights_path):
    frames = []
    fit(sides, weights_path, n_epochs=2, on_batch=frames.append)
    assert sum(frames) == 2 * len(sides[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_epochs": 0}, "`n_epochs` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"lr_schedule": "linear"}, "Unknown `lr_schedule` 'linear'"),
        ({"frames_per_epoch": 0}, "`frames_per_epoch` must be at least 1"),
        ({"max_shift_px": -1}, "`max_shift_px` must be at least 0"),
        ({"max_shift_px": SIZE}, "`max_shift_px` must be at least 0 and less than the image"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive"),
        ({"weight_decay": -1.0}, "`weight_decay` must not be negative"),
        ({"target_false_positive_rate": 1.0}, "`target_false_positive_rate` must be in"),
        ({"image_keys": ["wrist"]}, r"Expected images \['wrist'\]"),
        ({"image_size": [3, 64, 64]}, r"\[3, 64, 64\] in `train`, got"),
        ({"use_pretrain": True}, "Expected a `pretrained_encoder_path`"),
        ({"freeze_encoder": True}, "Expected a trained encoder"),
        ({"backbone": "vgg"}, "Unknown `backbone` 'vgg'"),
    ],
)
def test_bad_arguments_are_refused(sides, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(sides, **changes)


@pytest.mark.filterwarnings("default")
def test_too_few_frames_for_the_rate_are_told_of(sides):
    message = "72 held-out frames without success are too few"
    with pytest.warns(UserWarning, match=message), pytest.raises(FileNotFoundError):
        fit(sides, Path("nowhere.pt"))


def test_trajectories_on_both_sides_are_refused(sides):
    with pytest.raises(ValueError, match="that are in both"):
        fit((sides[0], sides[0]))


def test_one_label_is_refused(sides):
    one_sided = sides[1].subset(range(len(sides[1].sources)))
    one_sided.labels = np.zeros_like(one_sided.labels)
    with pytest.raises(ValueError, match="Expected frames of both labels in `holdout`, got 0"):
        fit((sides[0], one_sided))


def test_a_loss_that_grows_without_end_is_an_error(sides, weights_path):
    with pytest.raises(RuntimeError, match="Lower the learning rate"):
        fit(sides, weights_path, learning_rate=1e30)


def test_a_damaged_trajectory_is_left_out(tmp_path, weights_path, caplog):
    folder = write_folders(tmp_path, 4, 4)
    dataset = RewardDataset(folder / "positive", folder / "negative", image_keys="camera")
    sides = split_trajectories(dataset, 0.5)
    path = sides[0].sources[0].path
    path.write_bytes(path.read_bytes()[:3000])
    model = fit(sides, weights_path, n_epochs=1)
    assert str(path) in caplog.text
    assert len(model.training["history"]) == 1
