"""The flags of `libero-reward train-classifier`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from libero_reward_envs.cli.openvla_features import OpenVLAFeatureArgs


@dataclasses.dataclass(frozen=True)
class TrainClassifierArgs:
    """Fit a success classifier to trajectories of labelled images.

    Trajectories are held out whole; on them the best epoch, the calibration and the threshold are
    chosen. Everything the model must know later is stored with it.
    """

    output_checkpoint: Path
    """The checkpoint, such as ./checkpoints/reward_model.pt; its folder is made if needed."""
    positive_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or --data)")
    ] = None
    """Folder, or HDF5 file, of trajectories with success."""
    negative_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or --data)")
    ] = None
    """Folder, or HDF5 file, of trajectories without."""
    data: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(this or two folders)")
    ] = None
    """HDF5 file of both, as `libero-reward collect --out` writes it."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="PATH", help_behavior_hint="(default: OUTPUT_CHECKPOINT without .pt)"
        ),
    ] = None
    """Folder for the reward model and the curves."""
    pretrained_encoder_path: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none)")
    ] = None
    """Weights of the image encoder, such as ./resnet10_pretrained.pt. Without them it is trained
    from the start, which needs more data."""
    train_encoder: bool = False
    """Train the encoder that --pretrained-encoder-path gives too, rather than freeze it."""
    backbone: Literal["resnet10", "resnet18"] = "resnet10"
    """The image encoder; resnet18 needs torchvision."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """How the encoder pads: "same" for weights that come from SERL."""
    normalization: Literal["imagenet", "unit"] = "imagenet"
    """How it scales pixels: by ImageNet's mean and deviation, or to [0, 1] only."""
    image_key: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = ("base_camera",)
    """The images to use; several are joined."""
    image_size: Annotated[tuple[int, int, int], tyro.conf.arg(metavar="C H W")] = (3, 64, 64)
    """Their size."""
    batch_size: int = 32
    """Frames a step of Adam."""
    epochs: int = 100
    """How often every frame, or --frames-per-epoch of them, are learnt from."""
    frames_per_epoch: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
    ] = None
    """About how many frames are drawn for each epoch, as many of each label if they are balanced:
    frames of one episode are much alike."""
    max_shift_px: int = 0
    """Shift training images at random by up to this many pixels."""
    lr: float = 1e-4
    """Learning rate of Adam."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Whether it stays, or falls to zero over the epochs."""
    weight_decay: float = 0.0
    """Of Adam, decoupled from the gradient."""
    balance: bool = True
    """Let success and no success weigh the same, whatever their number."""
    hidden_dim: int = 256
    """Width of the classifier."""
    num_spatial_blocks: int = 8
    """Learned weightings of each feature over the image."""
    holdout_fraction: float = 0.2
    """Share of the trajectories that are held out."""
    target_false_positive_rate: float = 0.01
    """Share of held-out frames without success that the threshold may let pass."""
    seed: int = 0
    """Draws the held-out trajectories, the initial weights and the order of the frames."""
    device: str = "cpu"
    """Where the classifier is trained."""
    workers: int = 0
    """Processes that read images; 0 for none but this one."""
    checkpoint_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none)")
    ] = None
    """Folder for the training's state after each epoch, from which the same command goes on."""
    visualize_positive: bool = False
    """Write all frames of success as PNGs before training."""
    vis_output_dir: Path = Path("positive_samples_vis")
    """Where to."""
    openvla: Annotated[OpenVLAFeatureArgs, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OpenVLAFeatureArgs
    )
