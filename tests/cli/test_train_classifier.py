"""The command as it is typed: the requirement's flags, what it writes, bad input."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from libero_reward_envs.cli.main import main
from libero_reward_envs.cli.train_classifier import TrainClassifierArgs
from libero_reward_envs.data import Episode, EpisodeWriter
from libero_reward_envs.data.trajectory_files import read_trajectory, write_trajectory
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_pt import CHECKPOINT_KEYS, read_checkpoint_pt
from libero_reward_envs.reward_models.resnet10 import ResNet10

pytestmark = pytest.mark.filterwarnings("ignore:.*held-out frames without success are too few")

# The command of the requirement, as it stands there.
COMMAND = """
python -m rlinf.models.reward_model.train_reward_model \
    --positive-dir ./reward_data/positive \
    --negative-dir ./reward_data/negative \
    --output-checkpoint ./checkpoints/reward_model.pt \
    --pretrained-encoder-path ./resnet10_pretrained.pt \
    --image-key base_camera \
    --image-size 3 64 64 \
    --batch-size 128 \
    --epochs 30 \
    --hidden-dim 256 \
    --num-spatial-blocks 8
"""
N_FRAMES = 10


def write_data(folder: Path, n: int = 5, size: int = 64) -> None:
    """Noise with a square that is bright in the last three frames of a success."""
    for success, name in ((1, "positive"), (0, "negative")):
        for number in range(n):
            rng = np.random.default_rng([number, success])
            images = rng.integers(60, 140, (N_FRAMES, 3, size, size), dtype=np.uint8)
            labels = np.zeros(N_FRAMES, np.float32)
            labels[-3:] = success
            for image, label in zip(images, labels, strict=True):
                y, x = rng.integers(0, size - 24, 2)
                image[:, y : y + 24, x : x + 24] = 255 if label else 0
            write_trajectory(folder / "reward_data" / name, {"base_camera": images}, labels)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the requirement's command is typed."""
    write_data(tmp_path)
    trunk = ResNet10(generator=torch.Generator().manual_seed(11))
    torch.save(trunk.state_dict(), tmp_path / "resnet10_pretrained.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*changes: str, **values: str | None) -> None:
    """Run the requirement's command with flags replaced; None leaves a flag out."""
    words = shlex.split(COMMAND)[3:]
    for name, value in {"epochs": "2", **values}.items():
        place = words.index(f"--{name.replace('_', '-')}")
        words[place : place + 2] = [] if value is None else [words[place], value]
    main(["train-classifier", *words, *changes])


def read_curves(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_requirements_command_trains_a_classifier(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--visualize-positive", epochs="5")
    printed = capsys.readouterr().out
    assert "average_precision" in printed
    assert "frozen" in printed
    model = load_reward_model(project / "checkpoints" / "reward_model")
    assert isinstance(model, ClassifierRewardModel)
    assert model.training["quality"]["average_precision"] > 0.95
    assert model.training["settings"]["n_epochs"] == 5
    assert model.arguments["use_pretrain"] is True
    assert model.arguments["freeze_encoder"] is True
    check_rewards(model)
    curves = read_curves(project / "checkpoints" / "reward_model" / "curves.csv")
    history = model.training["history"]
    assert [{key: float(x) for key, x in row.items()} for row in curves] == history
    pictures = sorted(path.name for path in (project / "positive_samples_vis").iterdir())
    assert len(pictures) == 5 * 3
    assert pictures[0] == "positive_000000_frame007.png"


def check_rewards(model: ClassifierRewardModel) -> None:
    """The last frame of the first success is one and its first frame is not."""
    images = read_trajectory("reward_data/positive/000000.npy").images["base_camera"]
    rows = np.round(images[[0, -1]] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    frames = {"base_camera": rows}
    rewards = model.compute_reward(
        Transitions(frames, np.zeros((2, 7), np.float32), frames, np.zeros(2, bool))
    )
    assert rewards.tolist() == [0, 1]


def test_the_checkpoint_has_the_five_keys_and_the_same_network(project: Path) -> None:
    run(epochs="3")
    path = project / "checkpoints" / "reward_model.pt"
    content = torch.load(path, weights_only=True)
    assert tuple(content) == CHECKPOINT_KEYS
    model = load_reward_model(path.with_suffix(""))
    assert isinstance(model, ClassifierRewardModel)
    assert content["epoch"] == model.training["best_epoch"]
    assert content["train_acc"] == model.training["best_report"]["train_acc"]
    checkpoint = read_checkpoint_pt(path, image_keys=["base_camera"], image_size=[3, 64, 64])
    for name, value in checkpoint.classifier.state_dict().items():
        assert torch.equal(value, model.classifier.state_dict()[name]), name
    # The optimiser's state fits the optimiser of such a network.
    trained = [value for value in checkpoint.classifier.parameters() if value.requires_grad]
    torch.optim.Adam(trained).load_state_dict(checkpoint.optimizer_state_dict)


def test_without_weights_the_encoder_is_trained_and_that_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--out", "elsewhere", pretrained_encoder_path=None, epochs="1")
    assert "use_pretrain=False, freeze_encoder=False" in capsys.readouterr().out
    arguments = json.loads((project / "elsewhere" / "config.json").read_text())["arguments"]
    assert (arguments["use_pretrain"], arguments["freeze_encoder"]) == (False, False)
    assert not (project / "checkpoints" / "reward_model").exists()


def test_a_second_run_goes_on_from_its_checkpoints(project: Path) -> None:
    run("--checkpoint-dir", "state", epochs="2")
    path = project / "checkpoints" / "reward_model.pt"
    path.unlink()
    run("--checkpoint-dir", "state", epochs="2")
    assert len(read_curves(path.with_suffix("") / "curves.csv")) == 2
    assert read_checkpoint_pt(path).epoch in (1, 2)
    run("--checkpoint-dir", "state", epochs="3")
    assert len(read_curves(path.with_suffix("") / "curves.csv")) == 3


def test_one_file_of_both_outcomes_is_learnt_from_too(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EpisodeWriter(project / "episodes.hdf5") as writer:
        for number, path in enumerate(sorted(project.glob("reward_data/*/*.npy"))):
            images, labels = read_trajectory(path)
            pixels = np.round(images["base_camera"] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
            observations = {"base_camera": np.concatenate([pixels[:1], pixels])}
            success = bool(labels.any())
            metadata = {"orientation": "upright", "episode": number}
            episode = Episode(
                observations, np.zeros((N_FRAMES, 7)), labels, success, success, metadata=metadata
            )
            writer.append(episode)
    run("--data", "episodes.hdf5", "--frames-per-epoch", "60", "--max-shift-px", "1",
        positive_dir=None, negative_dir=None)  # fmt: skip
    printed = capsys.readouterr().out
    assert "episodes.hdf5: successes" in printed
    model = load_reward_model(project / "checkpoints" / "reward_model")
    assert isinstance(model, ClassifierRewardModel)
    assert model.training["orientation"] == "upright"
    assert model.training["settings"]["frames_per_epoch"] == 60
    assert model.training["settings"]["max_shift_px"] == 1


def test_the_defaults_are_the_requirements() -> None:
    args = TrainClassifierArgs(Path("c.pt"), Path("p"), Path("n"))
    assert args.pretrained_encoder_path is None
    assert args.backbone == "resnet10"
    assert args.image_key == ("base_camera",)
    assert args.image_size == (3, 64, 64)
    assert (args.batch_size, args.epochs, args.lr) == (32, 100, 1e-4)
    assert (args.hidden_dim, args.num_spatial_blocks) == (256, 8)
    assert args.visualize_positive is False
    assert args.vis_output_dir == Path("positive_samples_vis")


@pytest.mark.parametrize(
    ("changes", "values", "message"),
    [
        ((), {"positive_dir": "nowhere"}, "there is no such folder"),
        ((), {"negative_dir": "./reward_data/positive"}, "Give two"),
        (("--data", "reward_data"), {}, "Expected either --data, for one file, or both"),
        ((), {"negative_dir": None}, "Expected either --data, for one file, or both"),
        ((), {"positive_dir": None, "negative_dir": None}, "Expected either --data"),
        ((), {"image_key": "wrist"}, "no images 'wrist'"),
        (("--image-size", "3", "32", "32"), {}, "(3, 32, 32)"),
        ((), {"pretrained_encoder_path": "nowhere.pt"}, "No file 'nowhere.pt'"),
        ((), {"output_checkpoint": "reward_model"}, "Let --output-checkpoint end in .pt"),
        ((), {"output_checkpoint": "reward_data"}, "for both"),
        (("--out", "resnet10_pretrained.pt"), {}, "Expected a folder"),
        ((), {"epochs": "0"}, "`n_epochs` must be at least 1"),
        (("--holdout-fraction", "1"), {}, "`holdout_fraction` must be in (0, 1)"),
        (("--target-false-positive-rate", "1"), {}, "must be in [0, 1)"),
        (("--device", "nonsense"), {}, "device"),
    ],
)
def test_bad_input_is_named_without_a_traceback(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...],
    values: dict[str, str | None],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*changes, **values)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert not (project / "checkpoints").exists()


def test_one_outcome_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (project / "reward_data" / "positive").iterdir():
        path.unlink()
    with pytest.raises(SystemExit):
        run()
    assert "Expected frames of both labels" in capsys.readouterr().err
