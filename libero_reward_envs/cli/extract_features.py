"""Compute OpenVLA's features of recorded episodes once: `libero-reward extract-features DATASET`.

Writes them into `<DATASET>.features` beside the data, which stays as it is; `encode_dataset` gives
the episodes with them. The same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ExtractFeaturesArgs:
    """Compute OpenVLA's features of recorded episodes into a folder beside them."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """File or folder of episodes of any known format."""
    openvla_model: str
    """Folder or Hub id of an OpenVLA checkpoint, or tiny-random-openvla, which knows nothing."""
    image_keys: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY [KEY ...]")] = (
        "agentview_image",
    )
    """The images of one or several cameras."""
    pool: Literal["mean", "none"] = "mean"
    """Whether patches and tokens are averaged, or kept each."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """What features are kept in."""
    batch_size: int = 32
    """Frames that the model sees at once."""
    device: str = "auto"
    """Where the model runs: cpu, cuda, cuda:1; auto is a GPU if there is one."""
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """What the model computes in; by default float32 on a CPU, else what the checkpoint is in."""
    orientation: Literal["upright", "raw", "vla180"] | None = None
    """How the images are turned, for data that do not say it."""
    task_description: str | None = None
    """Instruction of all episodes; by default each one's own."""
    n_tokens: int = 64
    """Tokens that instructions are filled up to, for pool none."""
    threads: int = 4
    """Threads that resize images while the model runs."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: DATASET.features)"),
    ] = None
    """Folder of the features."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Arguments of the reader of the data, such as assume_success=true."""


def main(args: ExtractFeaturesArgs) -> None:
    """Extract with a progress bar, and say where the features are and how fast they came."""
    from tqdm import tqdm

    from libero_reward_envs.cli.convert import parse_options
    from libero_reward_envs.cli.openvla_features import check_instructions, print_memory
    from libero_reward_envs.data.formats import load_episodes
    from libero_reward_envs.encoders.cache import get_features_folder
    from libero_reward_envs.encoders.extraction import extract_features
    from libero_reward_envs.encoders.openvla import load_openvla_encoders
    from libero_reward_envs.encoders.orientation import find_orientation

    data = args.data.resolve()  # "." has no name to put features beside
    dataset = load_episodes(data, **parse_options(args.option))
    check_instructions(dataset, args.task_description)
    print_memory(args.openvla_model, args.device, args.precision, args.batch_size, args.image_keys)
    encoders = load_openvla_encoders(
        args.openvla_model,
        image_keys=args.image_keys,
        pool=args.pool,
        orientation=args.orientation or find_orientation(dataset),
        device=args.device,
        dtype=args.precision,
        task_description=args.task_description,
        n_tokens=args.n_tokens,
        stored_dtype=args.dtype,
    )
    n_frames = sum(len(summary) + 1 for summary in dataset.summaries())
    with tqdm(total=n_frames, desc="extract-features", unit="frame") as bar:
        done = extract_features(
            dataset,
            encoders,
            args.out or get_features_folder(data),
            batch_size=args.batch_size,
            n_threads=args.threads,
            on_frames=lambda n: bar.update(n - bar.n),
        )
    for reason in dataset.skipped:
        print(f"Left out: {reason}")
    for reason in done.damaged:
        print(f"Made anew: {reason}")
    n_encoded = done.n_encoded[encoders[0].key]
    speed = f", {n_encoded / done.seconds:.4g} frames/s" if n_encoded else ""
    print(f"{n_encoded} of {done.n_frames} frames encoded now{speed}.")
    for key, folder in done.folders.items():
        print(f"Features {key}: {folder}")
