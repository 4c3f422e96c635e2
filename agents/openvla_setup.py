"""What a fine-tuning run begins with: its data, its rows, and the model with what is trained."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from libero_reward_envs.agents.openvla_adapters import (
    add_adapters,
    keep_layers_trainable,
    load_adapters,
    make_trainable,
    prepare_quantized,
)
from libero_reward_envs.agents.openvla_config import FinetuneConfig
from libero_reward_envs.agents.openvla_estimate import find_training_dtype
from libero_reward_envs.agents.openvla_examples import OpenVLAExamples
from libero_reward_envs.agents.openvla_loading import make_quantization_config
from libero_reward_envs.agents.openvla_rows import RowEncoder
from libero_reward_envs.data.episodes import EpisodeDataset, chain_datasets
from libero_reward_envs.data.formats import load_episodes
from libero_reward_envs.evaluation.reward_quality import split_episodes
from libero_reward_envs.openvla.config import OpenVLAConfig
from libero_reward_envs.openvla.guard import check_sees_inputs
from libero_reward_envs.openvla.image_augmentation import ImageAugmentation
from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction
from libero_reward_envs.openvla.policy_images import ORIENTATION
from libero_reward_envs.openvla.processor import OpenVLAProcessor


class FinetuneData(NamedTuple):
    """What a run is trained on.

    Attributes:
        train: Steps of the episodes to fit.
        holdout: Those held out; None if none are.
        encoder: Makes rows of them.
        unnorm_key: Name of their statistics.
        note: What there is, in words.
    """

    train: OpenVLAExamples
    holdout: OpenVLAExamples | None
    encoder: RowEncoder
    unnorm_key: str
    note: str

    def describe_statistics(self) -> dict[str, Any]:
        """Return the contents of `dataset_statistics.json`, in the published layout."""
        action = self.encoder.statistics.as_json()
        # The published files hold zeros for what OpenVLA does not read.
        proprio = {name: [0.0] * len(value) for name, value in action.items() if name != "mask"}
        counts = {
            "num_transitions": len(self.train),
            "num_trajectories": len(self.train.lengths),
        }
        return {self.unnorm_key: {"action": action, "proprio": proprio, **counts}}

    def describe_policy(self, config: FinetuneConfig) -> dict[str, Any]:
        """Return how a policy is to be used that was trained on them, as JSON holds it."""
        augmentation = self.encoder.augmentation
        return {
            "format_version": 1,
            "base_model": config.model,
            "unnorm_key": self.unnorm_key,
            "image_keys": list(self.train.image_keys),
            "orientation": ORIENTATION,
            "jpeg": True,
            "center_crop": augmentation is not None,
            "crop_area": None if augmentation is None else augmentation.crop_area,
            "gripper": self.train.gripper,
            "action_dim": self.train.action_dim,
            "control_freq_hz": self.train.control_freq_hz,
            "prompt_version": self.encoder.prompt_version,
            "normalization": self.encoder.normalization,
        }


def load_finetune_data(
    config: FinetuneConfig, model_config: OpenVLAConfig, processor: OpenVLAProcessor
) -> FinetuneData:
    """Load the episodes' actions, split off those held out, and compute statistics.

    Raises:
        FileNotFoundError: If there is nothing at a path.
        ValueError: If no path is given, or the data do not fit the settings.
    """
    if not config.data:
        raise ValueError("Say by `data` (--data) which episodes to train on.")
    everything = chain_datasets([load_episodes(path) for path in config.data])
    n_all = len(everything)
    if config.only_successes:
        everything = everything.filter(lambda summary: summary.success)
    if not len(everything):
        raise ValueError(
            f"Expected episodes with success, got none among {n_all}. Set `only_successes` to "
            "false to train on failures as well."
        )
    fit, held_out = everything, None
    if config.holdout_fraction and len(everything) > 1:
        rng = np.random.default_rng(config.seed)
        fit, held_out = split_episodes(everything, config.holdout_fraction, rng)
    train = make_examples(fit, config)
    holdout = None if held_out is None else make_examples(held_out, config)
    if holdout is not None and holdout.action_dim != train.action_dim:
        raise ValueError(
            f"Expected actions of {train.action_dim} numbers in all episodes, got some of "
            f"{holdout.action_dim}. Train on one kind of robot at a time."
        )
    augmentation = ImageAugmentation(crop_area=config.augment_crop_ratio)
    encoder = RowEncoder.make(
        model_config,
        processor,
        train.compute_statistics(),
        augmentation=augmentation if config.image_aug else None,
        jpeg=not train.had_jpeg if config.jpeg is None else config.jpeg,
        max_length=config.max_length,
        prompt_version=config.prompt_version,
    )
    note = (
        f"{len(train)} steps of {len(fit)} episodes to fit, "
        f"{0 if holdout is None else len(holdout)} of {0 if held_out is None else len(held_out)} "
        f"held out; {n_all - len(everything)} failures left out; cameras "
        f"{', '.join(train.image_keys)}; {train.action_dim} numbers an action, gripper as "
        f"{train.gripper}."
    )
    return FinetuneData(train, holdout, encoder, _find_key(config, everything), note)


def make_examples(dataset: EpisodeDataset, config: FinetuneConfig) -> OpenVLAExamples:
    """Return the steps of episodes as the settings have them."""
    return OpenVLAExamples(
        dataset,
        config.camera_names,
        orientation=config.orientation,
        gripper=config.gripper,
        filter_no_ops=config.filter_no_ops,
        control_freq_hz=config.control_freq_hz,
        resample=config.resample,
        instruction=config.instruction,
        action_dim=config.action_dim,
    )


def load_trained_model(
    config: FinetuneConfig, folder: Path, device: torch.device, checkpoint: Path | None = None
) -> Any:
    """Load the model, with adapters or all of it to be trained.

    Args:
        config: Of the run.
        folder: The model's checkpoint.
        device: Where it is to be.
        checkpoint: Folder of the run's checkpoint to go on from.

    Returns:
        `OpenVLAForActionPrediction`, or PEFT's wrapper around it.

    Raises:
        ImportError: If a package is missing.
        MemoryError: If the device has no room for the weights.
    """
    is_full = config.training_mode == "full"
    options: dict[str, Any] = {}
    if config.use_quantization:
        options["quantization_config"] = make_quantization_config("4bit")
    if device.type != "cpu" or config.use_quantization:
        options["device_map"] = {"": str(device)}
    model = OpenVLAForActionPrediction.from_pretrained(
        checkpoint if is_full and checkpoint is not None else folder,
        dtype=find_training_dtype(config, device),
        attn_implementation=config.attn_implementation,
        check=False if config.use_quantization else None,
        **options,
    )
    if config.use_quantization:
        keep_layers_trainable(model)
        check_sees_inputs(model)
        model = prepare_quantized(model, gradient_checkpointing=config.gradient_checkpointing)
    elif config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if is_full:
        make_trainable(model)
        return model
    if checkpoint is not None:
        return load_adapters(model, checkpoint, trainable=True)
    torch.manual_seed(config.seed)  # the first values of the adapters
    target = config.lora_target
    return add_adapters(
        model,
        r=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target=target[0] if len(target) == 1 else target,
        dtype=torch.float32 if config.adapter_dtype == "float32" else torch.bfloat16,
        base_name=config.model,
    )


def _find_key(config: FinetuneConfig, dataset: EpisodeDataset) -> str:
    if config.unnorm_key is not None:
        return config.unnorm_key
    suites = {summary.task.partition("/")[0] for summary in dataset.summaries()}
    if len(suites) == 1 and (suite := suites.pop()):
        return suite
    return Path(config.data[0]).stem or "data"
