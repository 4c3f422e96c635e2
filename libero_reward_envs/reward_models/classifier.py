"""The success classifier as a reward model: images in, success or its probability out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libero_reward_envs.reward_models.base import Transitions
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier_images import read_images, take_rows, to_tensors
from libero_reward_envs.reward_models.classifier_screen import ClassifierScreen, can_screen
from libero_reward_envs.reward_models.resnet10 import check_choice
from libero_reward_envs.reward_models.success_model import SuccessRewardModel

PRECISIONS = ("float32", "int8")

# Rows a forward pass: its largest layer takes a megabyte a row at 128 x 128 pixels.
_MAX_ROWS = 64
# In single precision the last digits of a logit depend on the batch, by 1e-6 as measured.
_LOGIT_ROUNDING = 1e-3
# Batch normalisation counts training batches, which no reward depends on.
_COUNTER = ".num_batches_tracked"


class ClassifierRewardModel(SuccessRewardModel):
    """Rewards images of o_{t+1} that a `BinaryRewardClassifier` takes for success.

    p = sigmoid(logit / `temperature`); r_t = p, or with `reward_type` "binary" 1 if p > `threshold`
    and 0 otherwise. The saved configuration holds all there is to know: the network, the images it
    reads and how they are normalised, temperature, threshold, class prior, and under `training`
    what it was trained on; nothing needs to be said again where the model is used.

    Probabilities are computed in single precision and can differ in the seventh digit between a row
    alone and the same row in a batch. Binary rewards do not: rows that close to the threshold are
    computed again, each alone. On a CPU a `ClassifierScreen` looks at binary rewards first, and
    only rows near the threshold are computed in single precision.

    Built by its constructor the model still lacks weights, and computing anything is an error until
    `set_weights`. Use `from_classifier` or `from_pretrained`.

    Args:
        image_keys: See `BinaryRewardClassifier`, also for the following ten.
        image_size: [C, H, W]; the observations themselves are (n, H, W, C), uint8.
        hidden_dim: See there.
        num_spatial_blocks: See there.
        use_pretrain: See there.
        freeze_encoder: See there.
        backbone: See there.
        padding: See there.
        normalization: See there.
        dropout: See there.
        layer_norm_eps: See there.
        reward_type: "binary" or "continuous".
        threshold: The probability above which a binary reward is 1, in [0, 1].
        temperature: Divides the logits, for calibration.
        class_prior: Share of positive frames in training, if known; not used in the reward.
        precision: "float32", or "int8" for probabilities from `Int8Trunk`s where the processor is
            fit for them. They take less than half the time and were off by 0.013 at most (root mean
            square 0.0006) with a trained classifier; a row alone and in a batch can differ by as
            much. Binary rewards are the same in both.
        device: Where rewards are computed.

    Raises:
        ImportError: If the backbone needs a library that is not installed.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        image_keys: Sequence[str],
        image_size: Sequence[int],
        *,
        hidden_dim: int = 256,
        num_spatial_blocks: int = 8,
        use_pretrain: bool = True,
        freeze_encoder: bool = True,
        backbone: str = "resnet10",
        padding: str = "symmetric",
        normalization: str = "imagenet",
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-5,
        reward_type: str = "binary",
        threshold: float = 0.5,
        temperature: float = 1.0,
        class_prior: float | None = None,
        precision: str = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(
            reward_type=reward_type,
            threshold=threshold,
            temperature=temperature,
            class_prior=class_prior,
        )
        check_choice("precision", precision, PRECISIONS)
        self.precision = precision
        self._screen: ClassifierScreen | None = None
        classifier = BinaryRewardClassifier(
            image_keys,
            image_size,
            hidden_dim,
            num_spatial_blocks,
            use_pretrain=use_pretrain,
            freeze_encoder=freeze_encoder,
            backbone=backbone,
            padding=padding,
            normalization=normalization,
            dropout=dropout,
            layer_norm_eps=layer_norm_eps,
            weights_follow=True,
        )
        self.classifier = classifier.to(device).eval()
        self.observation_keys = classifier.image_keys
        n_channels, height, width = classifier.image_size
        self.image_shape = (height, width, n_channels)

    @classmethod
    def from_classifier(
        cls,
        classifier: BinaryRewardClassifier,
        *,
        reward_type: str = "binary",
        threshold: float = 0.5,
        temperature: float = 1.0,
        class_prior: float | None = None,
        precision: str = "float32",
        training: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> "ClassifierRewardModel":
        """Return a reward model with a copy of a network, which may go on learning.

        Args:
            classifier: The network.
            reward_type: See the class, also for the following four.
            threshold: See the class.
            temperature: See the class.
            class_prior: See the class.
            precision: See the class.
            training: What it was trained on and how well it does, as JSON would hold it; the hash
                of its trunk is added as "encoder_hash".
            device: Where rewards are computed.
        """
        model = cls(
            **classifier.arguments,
            reward_type=reward_type,
            threshold=threshold,
            temperature=temperature,
            class_prior=class_prior,
            precision=precision,
            device=device,
        )
        model.classifier.load_state_dict(classifier.state_dict())
        model.training = {**(training or {}), "encoder_hash": classifier.encoder_hash}
        return model

    @property
    def device(self) -> torch.device:
        """Where rewards are computed."""
        return next(self.classifier.parameters()).device

    def to(self, device: str | torch.device) -> "ClassifierRewardModel":
        """Move the network to another device and return the model."""
        self.classifier.to(device)
        self._screen = None
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON would hold them."""
        return {
            **self.classifier.arguments,
            **self.calibration,
            "precision": self.precision,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_screen": None}  # its weights cannot be copied

    def get_weights(self) -> dict[str, np.ndarray]:
        """Return copies of the weights by name, on the CPU."""
        state = self.classifier.state_dict()
        return {
            name: np.array(value.cpu().numpy())
            for name, value in state.items()
            if not name.endswith(_COUNTER)
        }

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over weights."""
        state = self.classifier.state_dict()
        tensors = {name: value for name, value in state.items() if name.endswith(_COUNTER)}
        tensors.update({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
        self.classifier.load_state_dict(tensors)

    def compute_reward(self, transitions: Transitions) -> np.ndarray:
        """Return one reward a transition from its next observations, shape (n,), float32."""
        if self.reward_type == "continuous":
            return self.compute_probability(transitions.next_observations)
        images = self._read_images(transitions.next_observations)
        with np.errstate(divide="ignore"):  # a threshold of 0 or 1 is infinitely far from any row
            border = self.temperature * (np.log(self.threshold) - np.log1p(-self.threshold))
        logits = self._compute_logits_near(border, images)
        for row in np.flatnonzero(np.abs(logits - border) < _LOGIT_ROUNDING):
            logits[row] = self._compute_exact(take_rows(images, slice(row, row + 1)))[0]
        return self.to_binary(logits)

    def compute_probability(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of success, shape (n,), float32.

        Args:
            images: By key, each (n, H, W, C), uint8; other keys are not read.

        Raises:
            RuntimeError: If the model was only constructed and has no weights.
            ValueError: If images are missing, of another size, order of axes or type.
        """
        return self.to_probability(self._compute_logits(self._read_images(images)))

    def _read_images(self, observations: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return read_images(observations, self.observation_keys, self.image_shape)

    def _compute_logits(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return logits before calibration, (n,), float64, as `precision` asks for."""
        screen = self._find_screen() if self.precision == "int8" else None
        if screen is None:
            return self._compute_exact(images)
        return self._run(screen.compute_logits, images)

    def _compute_logits_near(self, border: float, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return logits, (n,), float64, of which those near the border are exact."""
        if (screen := self._find_screen()) is None:
            return self._compute_exact(images)
        logits = self._run(screen.compute_logits, images)
        unsure = ~(np.abs(logits - border) > screen.margin)
        if unsure.any():
            exact = self._compute_exact(take_rows(images, unsure))
            screen.compare(logits[unsure], exact)
            logits[unsure] = exact
        return logits

    def _compute_exact(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._run(self.classifier, images)

    def _run(
        self,
        network: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        images: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        n = len(next(iter(images.values())))
        logits = np.empty(n, np.float64)
        with torch.inference_mode(), _full_precision(self.device):
            for start in range(0, n, _MAX_ROWS):
                rows = slice(start, start + _MAX_ROWS)
                logits[rows] = network(to_tensors(take_rows(images, rows), self.device)).cpu()
        return logits

    def _find_screen(self) -> ClassifierScreen | None:
        if self._screen is None or not self._screen.is_current:
            fits = can_screen(self.classifier)
            self._screen = ClassifierScreen(self.classifier) if fits else None
        return self._screen


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Keep convolutions on a GPU from TF32, PyTorch's default there, which has three digits."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
