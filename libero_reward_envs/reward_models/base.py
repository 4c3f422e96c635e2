"""What a reward model is, and how one is saved to and loaded from a folder or the Hugging Face Hub.

A saved reward model is a folder of three files: `config.json`, which alone is enough to rebuild the
model, `model.safetensors` with its weights, and `README.md`, its card. Nothing is ever unpickled.
"""

import abc
import importlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np

from libero_reward_envs.reward_models.saving import (
    CONFIG_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    check_weights,
    make_card,
    read_config,
    read_weights,
    write_folder,
)

BOX_OBSERVATION_KEY = "state"  # where the observation of an env with a plain Box space stands
# What only a finished episode knows, (n,) float32 each; a model may name them among what it reads.
EPISODE_RETURN_KEY = "episode/return"  # sum of the env's own rewards
EPISODE_LENGTH_KEY = "episode/length"

# Strings, so that a method's libraries are imported when a model of it is loaded, not before.
REWARD_MODEL_CLASSES: dict[str, str] = {
    "RRDRewardModel": "libero_reward_envs.reward_models.rrd:RRDRewardModel",
    "UniformRewardModel": "libero_reward_envs.reward_models.redistribution:UniformRewardModel",
    "IRCRRewardModel": "libero_reward_envs.reward_models.redistribution:IRCRRewardModel",
    "ClassifierRewardModel": "libero_reward_envs.reward_models.classifier:ClassifierRewardModel",
    "FeatureClassifierRewardModel": (
        "libero_reward_envs.reward_models.feature_classifier:FeatureClassifierRewardModel"
    ),
}
# A file rather than a folder, and always that of a success classifier.
CHECKPOINT_SUFFIX = ".pt"
_CHECKPOINT_LOADER = "libero_reward_envs.reward_models.classifier_files:load_classifier"


class Transitions(NamedTuple):
    """n transitions, each from within one episode.

    Attributes:
        observations: o_t by key, each (n, ...). A Box observation stands under "state".
        actions: a_t, shape (n, a), float32, in [-1, 1].
        next_observations: o_{t+1} of the same episode, never the auto-reset one.
        terminated: Whether the step ended its episode, shape (n,), bool. A time-out is not an end.
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    next_observations: Mapping[str, np.ndarray]
    terminated: np.ndarray

    def rows(self, rows: slice | np.ndarray) -> "Transitions":
        """Return some of the transitions; `len` would count the four fields, not them."""
        return Transitions(
            {key: value[rows] for key, value in self.observations.items()},
            self.actions[rows],
            {key: value[rows] for key, value in self.next_observations.items()},
            self.terminated[rows],
        )


@runtime_checkable
class RewardModel(Protocol):
    """Anything that turns transitions into rewards."""

    # A property here, so that type checkers take any attribute that can be read as such a tuple.
    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The observations it reads; the pipeline keeps these keys alive."""
        ...

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition, shape (n,), float32, finite."""
        ...


def read_training(model: object) -> Mapping[str, Any]:
    """Return what a reward model says of its training, {} if it says nothing.

    A `torch.nn.Module` has a flag of that name.
    """
    training = getattr(model, "training", None)
    return training if isinstance(training, Mapping) else {}


def check_rewards(rewards: Any, n: int, model: object) -> np.ndarray:
    """Return `rewards` if they are n finite float32 numbers.

    Raises:
        ValueError: If they are not, naming the class of `model`.
    """
    name = type(model).__name__
    if not isinstance(rewards, np.ndarray):
        raise ValueError(f"Expected rewards as a NumPy array, got {type(rewards)} from {name}.")
    if rewards.shape != (n,):
        raise ValueError(f"Expected rewards of shape ({n},), got {rewards.shape} from {name}.")
    if rewards.dtype != np.float32:
        raise ValueError(f"Expected float32 rewards, got {rewards.dtype} from {name}.")
    if not np.isfinite(rewards).all():
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"Expected finite rewards, got {rewards[bad]} in row {bad} from {name}.")
    return rewards


class PretrainedRewardModel(abc.ABC):
    """Saves and loads a reward model; the methods are named as those of the Hub's `ModelHubMixin`.

    That mixin itself is not used: it deletes the old configuration before it writes the weights, so
    a killed save leaves a folder that holds neither the old model nor the new one.

    A subclass is rebuilt as `Class(**model.arguments)` followed by `set_weights`, so it gives
    `observation_keys`, `arguments`, `get_weights` and `set_weights`, and adds its name to
    `REWARD_MODEL_CLASSES` or calls `register_reward_model`.

    Attributes:
        training: How the model was made (data, arguments, losses), as JSON would hold it.
    """

    observation_keys: tuple[str, ...]
    training: dict[str, Any]

    @property
    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""

    @abc.abstractmethod
    def get_weights(self) -> dict[str, np.ndarray]:
        """Return the weights by name, on the CPU."""

    @abc.abstractmethod
    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over weights whose names, shapes and types were checked before."""

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and `README.md`, whole or not at all.

        Other files in the folder stay. A save that is killed leaves the model that was there.
        """
        from libero_reward_envs import __version__

        config = {
            "class_name": type(self).__name__,
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "observation_keys": list(self.observation_keys),
            "arguments": self.arguments,
            "training": getattr(self, "training", {}),
        }
        weights = self.get_weights()
        check_weights(weights, weights, type(self).__name__)
        write_folder(Path(save_directory), config, weights, make_card(config, type(self).__doc__))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "PretrainedRewardModel":
        """Load a model of this class from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: A folder, or a Hub id such as "name/rrd-libero-object".
            revision: Branch, tag or commit on the Hub.
            token: As in `huggingface_hub`.
            cache_dir: As in `huggingface_hub`.
            local_files_only: Whether to take only what is in the cache.

        Raises:
            FileNotFoundError: If there is no such folder or file, here or on the Hub.
            ValueError: If a file is damaged, is of another class, or its weights do not fit.
        """
        folder = find_folder(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        config = read_config(folder)
        if config["class_name"] != cls.__name__:
            raise ValueError(
                f"Expected a {cls.__name__}, got a {config['class_name']} in {str(folder)!r}. "
                "Use load_reward_model, which takes any class."
            )
        try:
            model = cls(**config["arguments"])
        except TypeError as error:
            raise ValueError(
                f"`arguments` in {folder / CONFIG_FILE} do not fit: {error}"
            ) from error
        weights = read_weights(folder, config)
        check_weights(weights, model.get_weights(), str(folder / WEIGHTS_FILE))
        model.set_weights(weights)
        model.training = config["training"]
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload reward model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload the three files in one commit and return its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=branch
            )


def register_reward_model(class_name: str, entry_point: str) -> None:
    """Make `load_reward_model` know a class of your own.

    Args:
        class_name: The name of the class, as its `config.json` holds it.
        entry_point: Where it is, as "package.module:Class"; imported when first loaded.
    """
    known = REWARD_MODEL_CLASSES.setdefault(class_name, entry_point)
    if known != entry_point:
        raise ValueError(f"{class_name!r} is already registered as {known!r}, got {entry_point!r}.")


def load_reward_model(folder_or_hub_id: str | Path) -> RewardModel:
    """Load a saved reward model of any known class.

    Args:
        folder_or_hub_id: A folder written by `save_pretrained`, a Hub id, or the `.pt` checkpoint
            of a success classifier.

    Raises:
        FileNotFoundError: If there is no such folder or file, here or on the Hub.
        ValueError: If a file is damaged, the class is unknown, or the weights do not fit.
    """
    if Path(folder_or_hub_id).suffix == CHECKPOINT_SUFFIX:
        return cast("RewardModel", _import(_CHECKPOINT_LOADER)(folder_or_hub_id))
    folder = find_folder(folder_or_hub_id)
    name = read_config(folder)["class_name"]
    if name not in REWARD_MODEL_CLASSES:
        raise ValueError(
            f"Unknown class {name!r} in {folder / CONFIG_FILE}. "
            f"Known: {', '.join(REWARD_MODEL_CLASSES)}. Add yours with register_reward_model."
        )
    return cast("RewardModel", _import(REWARD_MODEL_CLASSES[name]).from_pretrained(folder))


def _import(entry_point: str) -> Any:
    module, _, attribute = entry_point.partition(":")
    return getattr(importlib.import_module(module), attribute)


def find_folder(folder_or_hub_id: str | Path, **hub_options: Any) -> Path:
    """Return the folder itself, or download the three files from the Hub.

    Raises:
        FileNotFoundError: If it is neither a folder nor a repository that can be reached.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    # A path object, or a string that no Hub id can be, is never looked up on the network.
    if isinstance(folder_or_hub_id, Path) or not re.fullmatch(
        r"[\w-][\w.-]*/[\w.-]+", folder_or_hub_id
    ):
        raise FileNotFoundError(f"No folder {str(folder)!r} with a saved reward model.")
    from huggingface_hub import snapshot_download

    try:
        files = [CONFIG_FILE, WEIGHTS_FILE, "README.md"]
        return Path(snapshot_download(folder_or_hub_id, allow_patterns=files, **hub_options))
    except (OSError, ValueError) as error:  # what the Hub raises are kinds of OSError or ValueError
        raise FileNotFoundError(
            f"{folder_or_hub_id!r} is neither a folder here nor a repository of the Hub "
            f"that can be reached: {error}"
        ) from error
