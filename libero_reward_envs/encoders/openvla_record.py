"""What a reward model on OpenVLA's features keeps of them, so that they can be made again."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.reward_models.base import CHECKPOINT_SUFFIX, find_folder, read_training
from libero_reward_envs.reward_models.saving import read_config

if TYPE_CHECKING:
    from libero_reward_envs.encoders.openvla import OpenVLALanguageEncoder, OpenVLAVisionEncoder

    Encoders = tuple[OpenVLAVisionEncoder, OpenVLALanguageEncoder]

RECORD_KEY = "openvla_features"  # where it stands in the `training` of a reward model
_FIELDS = (
    *("checkpoint", "image_keys", "image_sizes", "orientation", "pool", "dtype", "stored_dtype"),
    *("task_description", "n_tokens", "random_weights", "fingerprints"),
)


def describe_openvla_features(
    checkpoint: str | Path, encoders: "Encoders", dataset: EpisodeDataset
) -> dict[str, Any]:
    """Return how the features of a dataset were made, as JSON would hold it.

    Args:
        checkpoint: What the encoders were loaded from.
        encoders: What made them.
        dataset: The episodes before, with images; at least one.
    """
    vision, language = encoders
    images = dataset.read(0, vision.observation_keys).observations
    return {
        # A folder is found again from anywhere.
        "checkpoint": str(Path(checkpoint).resolve() if Path(checkpoint).is_dir() else checkpoint),
        "random_weights": vision.has_random_weights,
        "image_keys": list(vision.observation_keys),
        "image_sizes": {key: list(images[key].shape[1:3]) for key in vision.observation_keys},
        "orientation": vision.orientation,
        "pool": vision.pool,
        "dtype": vision.settings["precision"],
        "stored_dtype": vision.stored_dtype,
        "task_description": language.task_description,
        "n_tokens": language.settings["n_tokens"],
        "fingerprints": {encoder.key: encoder.fingerprint for encoder in encoders},
    }


def find_record(reward_model: Any) -> Mapping[str, Any] | None:
    """Return what a reward model says of its features, None if it reads none of OpenVLA's.

    Args:
        reward_model: A reward model, or the folder or Hub id of a saved one.

    Raises:
        FileNotFoundError: If there is no such folder, here or on the Hub.
        ValueError: If its configuration is damaged.
    """
    if isinstance(reward_model, str | Path):
        if Path(reward_model).suffix == CHECKPOINT_SUFFIX:
            return None
        training = read_config(find_folder(reward_model))["training"]
    else:
        training = read_training(reward_model)
    record = training.get(RECORD_KEY)
    if record is not None and not set(_FIELDS) <= set(record):
        raise ValueError(
            f"Expected {', '.join(_FIELDS)} among what the reward model says of OpenVLA's "
            f"features, got {', '.join(map(str, record))}. Train it again with this version."
        )
    return record


def load_recorded_encoders(
    record: Mapping[str, Any], checkpoint: str | Path | None = None, *, device: str = "auto"
) -> "Encoders":
    """Return encoders that make the same features again.

    Args:
        record: What `describe_openvla_features` returned.
        checkpoint: Where the checkpoint is now; None for where it was.
        device: See `load_openvla_encoders`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If features of this checkpoint differ from those that were recorded.
    """
    from libero_reward_envs.encoders.openvla import load_openvla_encoders

    name = record["checkpoint"] if checkpoint is None else checkpoint
    if checkpoint is None and Path(name).is_absolute() and not Path(name).is_dir():
        raise FileNotFoundError(
            f"The OpenVLA checkpoint that the reward model was trained on is not at {name!r} any "
            "more. Say where it is now with `features`."
        )
    n_tokens = {} if record["n_tokens"] is None else {"n_tokens": record["n_tokens"]}
    encoders = load_openvla_encoders(
        name,
        image_keys=record["image_keys"],
        pool=record["pool"],
        orientation=record["orientation"],
        device=device,
        dtype=record["dtype"],
        stored_dtype=record["stored_dtype"],
        task_description=record["task_description"],
        **n_tokens,
    )
    for encoder in encoders:
        expected = record["fingerprints"][encoder.key]
        if encoder.fingerprint != expected:
            raise ValueError(
                f"Expected features {encoder.key!r} of fingerprint {expected[:12]}, those that the "
                f"reward model was trained on, got {encoder.fingerprint[:12]} of {str(name)!r}. "
                f"Give the checkpoint that it was trained on ({record['checkpoint']!r}) as "
                "`features`, or train a reward model on this one."
            )
    return encoders
