"""The flags by which a reward is trained on OpenVLA's features, and what they come to."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from libero_reward_envs.data.episodes import EpisodeDataset
    from libero_reward_envs.encoders.openvla_record import Encoders


RANDOM_WEIGHTS = (
    "This OpenVLA has random weights and knows nothing: no figure that follows means anything."
)


@dataclasses.dataclass(frozen=True)
class OpenVLAFeatureArgs:
    """Reward on the features of an OpenVLA checkpoint. They are computed once and kept on disk."""

    use_openvla_features: bool = False
    """Read features of images and instruction instead of observations."""
    openvla_model: Annotated[
        str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(required for features)")
    ] = None
    """Folder or Hub id of the checkpoint, or tiny-random-openvla for trying things out."""
    openvla_processor: Annotated[
        str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: the model's)")
    ] = None
    """Image processor and tokenizer are those of the checkpoint; nothing else can be given."""
    task_description: Annotated[
        str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: each episode's)")
    ] = None
    """Instruction for all episodes."""
    openvla_pool: Literal["mean", "none"] = "mean"
    """Average over patches and tokens, or keep them all, which takes hundreds of times the room."""
    openvla_orientation: Annotated[
        Literal["upright", "raw", "vla180"] | None,
        tyro.conf.arg(help_behavior_hint="(default: what the data say)"),
    ] = None
    """How images are turned, for data that do not say it."""
    openvla_device: str = "auto"
    """Where features are computed; "auto" for a GPU if there is one."""
    openvla_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        tyro.conf.arg(help_behavior_hint="(default: float32 on a CPU, else the checkpoint's)"),
    ] = None
    """Precision in which they are computed."""
    openvla_stored_dtype: Literal["float16", "bfloat16"] = "float16"
    """What they are kept in, and rounded to everywhere."""
    openvla_batch_size: int = 32
    """Images a batch."""
    openvla_reward_hidden_dim: int = 512
    """Width of the reward network."""
    openvla_reward_num_layers: int = 3
    """Its layers, the one that puts out the reward included."""
    feature_cache: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: DATA.features)")
    ] = None
    """Folder in which features are kept."""

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Width of each hidden layer of the reward network."""
        return (self.openvla_reward_hidden_dim,) * (self.openvla_reward_num_layers - 1)


def check_openvla_args(args: OpenVLAFeatureArgs) -> None:
    """Raise a ValueError if the flags cannot be followed together."""
    if not args.use_openvla_features:
        given = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(args)
            if getattr(args, field.name) != field.default
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)} would change nothing without --use-openvla-features. Give "
                "that too, or leave them out."
            )
        return
    if args.openvla_model is None:
        raise ValueError(
            "Expected --openvla-model with --use-openvla-features: a folder or Hub id of a "
            "checkpoint, or tiny-random-openvla, which knows nothing, to try things out."
        )
    if args.openvla_processor not in (None, args.openvla_model):
        raise ValueError(
            "Image processor and tokenizer belong to the weights: expected --openvla-processor "
            f"{args.openvla_model!r} or none, got {args.openvla_processor!r}."
        )
    if args.openvla_reward_num_layers < 2 or args.openvla_reward_hidden_dim < 2:
        raise ValueError(
            "Expected `openvla_reward_num_layers` and `openvla_reward_hidden_dim` of at least 2, "
            f"got {args.openvla_reward_num_layers} and {args.openvla_reward_hidden_dim}."
        )


def load_encoders(
    args: OpenVLAFeatureArgs, dataset: "EpisodeDataset", image_keys: "Sequence[str]"
) -> "Encoders":
    """Return the encoders for the images of a dataset.

    Raises:
        ValueError: If nothing says how the images are turned; for more see `load_openvla_encoders`.
    """
    from libero_reward_envs.encoders.openvla import load_openvla_encoders
    from libero_reward_envs.encoders.orientation import find_orientation

    assert args.openvla_model is not None
    check_instructions(dataset, args.task_description)
    orientation = args.openvla_orientation or find_orientation(dataset, "--openvla-orientation")
    print_memory(
        args.openvla_model,
        args.openvla_device,
        args.openvla_dtype,
        args.openvla_batch_size,
        image_keys,
    )
    encoders = load_openvla_encoders(
        args.openvla_model,
        image_keys=image_keys,
        pool=args.openvla_pool,
        orientation=orientation,
        device=args.openvla_device,
        dtype=args.openvla_dtype,
        stored_dtype=args.openvla_stored_dtype,
        task_description=args.task_description,
    )
    if encoders[0].has_random_weights:
        print(RANDOM_WEIGHTS)
    return encoders


def print_memory(
    checkpoint: str, device: str, dtype: str | None, batch_size: int, image_keys: "Sequence[str]"
) -> None:
    """Print what computing features takes, before anything is loaded."""
    from libero_reward_envs.openvla.memory_description import describe_memory

    print(
        describe_memory(
            checkpoint,
            device=device,
            dtype=dtype,
            features_only=True,
            n_rows=batch_size,
            n_views=len(image_keys),
        )
    )


def check_instructions(dataset: "EpisodeDataset", task_description: str | None) -> None:
    """Raise a ValueError if an episode lacks the instruction, before any image is encoded."""
    if task_description is not None:
        return
    for index, summary in enumerate(dataset.summaries()):
        if not summary.instruction.strip():
            raise ValueError(
                f"Expected an instruction of each episode for its features, episode {index} has "
                "none. Give one for all by --task-description."
            )


def encode_with_cache(
    dataset: "EpisodeDataset", path: Path, encoders: "Encoders", args: OpenVLAFeatureArgs
) -> "EpisodeDataset":
    """Compute the features that are not in the cache yet, and return the episodes with features.

    Args:
        dataset: The episodes.
        path: Where they come from; features are kept beside it, unless `feature_cache` is given.
        encoders: What computes features.
        args: The flags.
    """
    from tqdm import tqdm

    from libero_reward_envs.encoders.cache import get_features_folder
    from libero_reward_envs.encoders.dataset import encode_dataset
    from libero_reward_envs.encoders.extraction import extract_features

    cache = args.feature_cache or get_features_folder(path)
    batch: dict[str, Any] = {"batch_size": args.openvla_batch_size}
    n_frames = sum(len(summary) + 1 for summary in dataset.summaries())
    with tqdm(total=n_frames, desc="features", unit="frame") as bar:
        done = extract_features(
            dataset, encoders, cache, on_frames=lambda n: bar.update(n - bar.n), **batch
        )
    print(f"Features of {n_frames} frames, {max(done.n_encoded.values())} of them new: {cache}")
    return encode_dataset(dataset, encoders, cache, **batch)
