"""The flags of `libero-reward train-rrd`, in the groups that its help shows."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from libero_reward_envs.cli.openvla_features import OpenVLAFeatureArgs

DEFAULT_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class MethodArgs:
    """What is minimised. The defaults are RRD as released by its authors (L-Rand-RD)."""

    alg: Annotated[str, tyro.conf.arg(metavar="{rrd,lrd}")] = "rrd"
    """"rrd" predicts the return from some steps of an episode, "lrd" from all of them."""
    rrd_bias_correction: bool = False
    """Take the variance of the sampled steps off the loss: RRD-L(RD), an unbiased L-RD."""
    variance_weight: float | Literal["paper"] = "paper"
    """Weight of the variance of the reward within an episode; "paper" is 1/K - 1/T."""
    scale: Literal["mean", "return"] = "mean"
    """Errors of the mean reward per step, or of the return, which long episodes dominate."""
    episode_sampling: Literal["length", "uniform"] = "length"
    """Draw an episode in proportion to its length, or every one alike."""
    rrd_batch_size: int = 256
    """Steps in a batch, of `rrd_batch_size // rrd_sample_size` episodes."""
    rrd_sample_size: int = 64
    """K, the steps of one episode in a batch."""
    return_scale: float | Literal["auto"] = "auto"
    """What returns are multiplied with; "auto" makes the rewards of a size that suits agents."""
    offset_margin: float = 0.25
    """How far below zero the reward is put, in spreads of the reward: a reward above zero makes an
    agent linger rather than finish. Negative for no offset."""


@dataclasses.dataclass(frozen=True)
class ScheduleArgs:
    """How long, how fast, where. Give --steps, or the four counts whose product it is."""

    steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=f"(default: {DEFAULT_STEPS})")
    ] = None
    """Steps of the optimiser."""
    epochs: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1)")
    ] = None
    """Steps are epochs x cycles x iterations x train_batches, of which those left out are 1."""
    cycles: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1)")
    ] = None
    """Cycles in an epoch. The curves get a point each cycle, at most 1000 in all."""
    iterations: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1)")
    ] = None
    """Iterations in a cycle."""
    train_batches: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1)")
    ] = None
    """Steps of the optimiser in an iteration."""
    save_freq: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: a tenth, at most 10000 steps)"),
    ] = None
    """Write a checkpoint after so many cycles, or after so many steps if --steps counts."""
    learning_rate: float = 3e-4
    """Of Adam."""
    seed: int = 0
    """Draws the held-out episodes, the initial weights and the batches."""
    device: str = "cpu"
    """Where the model is fitted."""
    cuda: bool = False
    """The same as --device cuda; an error where torch finds no such device."""


@dataclasses.dataclass(frozen=True)
class PolicyArgs:
    """Flags of commands that train a policy too. This one trains a reward only."""

    env_type: Literal["normal", "ep_rews"] = "normal"
    """Rewards as they come, or their sum at the end: the same here, where only returns count."""
    basis_alg: Annotated[
        Literal["sac", "td3", "ddpg", "dqn"] | None,
        tyro.conf.arg(metavar="{sac,td3,ddpg,dqn}", help_behavior_hint="(not used)"),
    ] = None
    """Learner of the policy."""
    batch_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(not used)")
    ] = None
    """Batch of the policy's learner."""
    rrd_reward_only: bool = True
    """Must be True."""


@dataclasses.dataclass(frozen=True)
class TrainRRDArgs:
    """Fit an RRD reward to recorded episodes, successes and failures, without a policy.

    Writes the reward model, curves.csv, cumulative_reward.csv, curves.png and events for
    TensorBoard into OUT, and checkpoints. The same command goes on where a stopped one was.
    Flags may be spelled --with-dashes or --with_underscores, and yes or no is said by --flag,
    --no-flag, or --flag True or False.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(required)")] = (
        None
    )
    """Episodes, as `libero-reward collect` writes them."""
    libero_dataset_path: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(give one of the two)")
    ] = None
    """Another name of --data."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: CHECKPOINT_DIR/TAG)"),
    ] = None
    """Folder for the reward model and the curves."""
    checkpoint_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: OUT/checkpoints)")
    ] = None
    """Folder for checkpoints. Without --out, those of a run go to CHECKPOINT_DIR/TAG/checkpoints,
    so that runs of different tags stay apart."""
    tag: Annotated[
        str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: rrd)")
    ] = None
    """Name of the run: in TensorBoard, on the model's card, and of its folder without --out."""
    save_final: bool = True
    """Write the reward model at the end. Without it only checkpoints and curves stay."""
    test: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none)")
    ] = None
    """Further episodes, to judge the finished reward on; they choose nothing."""
    env: Annotated[
        str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: all)")
    ] = None
    """Take only the episodes of this suite, such as libero-10."""
    observation_keys: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = (
        "state",
    )
    """Observations that the reward reads; images are read by a small convolutional network."""
    libero_image_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: as they are)")
    ] = None
    """Height and width that images among --observation-keys must have, in pixels."""
    openvla_image_keys: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = (
        "agentview_image",
    )
    """With --use-openvla-features, the images that it looks at: one a camera."""
    holdout_fraction: float = 0.2
    """Share of the episodes that are held out, to judge the reward."""
    method: Annotated[MethodArgs, tyro.conf.OmitArgPrefixes] = MethodArgs()
    schedule: Annotated[ScheduleArgs, tyro.conf.OmitArgPrefixes] = ScheduleArgs()
    openvla: Annotated[OpenVLAFeatureArgs, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OpenVLAFeatureArgs
    )
    policy: Annotated[PolicyArgs, tyro.conf.OmitArgPrefixes] = PolicyArgs()
