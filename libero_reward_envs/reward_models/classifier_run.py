"""One training of a success classifier: epochs, the best of them, and its checkpoints."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from libero_reward_envs.checkpoints import read_newest_checkpoint, write_checkpoint
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier_batches import ClassifierBatches
from libero_reward_envs.reward_models.feature_batches import FeatureBatches, FeatureNetwork
from libero_reward_envs.reward_models.frame_scores import (
    FrameScores,
    compute_auroc,
    compute_average_precision,
)

Report = dict[str, float]


class ClassifierRun:
    """Trains a network by the weighted logistic loss, and keeps the weights of its best epoch.

    loss = mean_i w_i (log(1 + exp(z_i + b)) - y_i (z_i + b)), with z_i the network's logits. When
    balanced, w_i = 1 / (2 s) for label 1 and 1 / (2 (1 - s)) for label 0, s the share of label 1,
    and b = log((1 - s) / s); otherwise w_i = 1 and b = 0. The weights alone would make the network
    believe that half of all frames are successes; b takes this belief, so that sigmoid(z_i) is the
    probability at the share that the data have. Where an epoch is drawn (`FrameDraw`), w_i has the
    share of label 1 among the frames drawn, and b that of all.

    The best epoch has the highest average precision on held-out frames; of equals, the one of the
    lowest held-out loss, and of these the first.

    Args:
        classifier: The network; changed.
        batches: What it learns from.
        positive_share: s.
        balance: Whether both labels weigh the same.
        learning_rate: Of Adam.
        n_decay_epochs: Over how many epochs the learning rate falls to zero, as a half cosine; None
            to keep it.
        weight_decay: Of Adam, decoupled from the gradient (AdamW).
        seed: Decides what dropout drops.
    """

    def __init__(
        self,
        classifier: BinaryRewardClassifier | FeatureNetwork,
        batches: ClassifierBatches | FeatureBatches,
        *,
        positive_share: float,
        balance: bool,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        n_decay_epochs: int | None = None,
    ) -> None:
        self.classifier, self.batches = classifier, batches
        trained = [value for value in classifier.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
        self._learning_rate, self._n_decay_epochs = learning_rate, n_decay_epochs
        odds = positive_share / (1 - positive_share)
        self._shift = -math.log(odds) if balance else 0.0
        self._weights = _weigh(positive_share) if balance else (1, 1)
        self._train_weights = _weigh(batches.draw.positive_share) if balance else (1, 1)
        with torch.no_grad():  # begin where z + b is as without b
            last = classifier.classifier[-1]
            assert isinstance(last, torch.nn.Linear)
            last.bias.sub_(self._shift)
        self._seed = seed
        self._names = _list_trained(classifier)
        self.history: list[Report] = []
        self._best: dict[str, torch.Tensor] = {}

    @property
    def best(self) -> Report:
        """The report of the best epoch."""
        return max(self.history, key=_merit)  # the first of equals

    def train_epoch(self, on_batch: Callable[[int], object] | None = None) -> bool:
        """Train for an epoch, score the held-out frames, and return whether it is the best so far.

        Raises:
            RuntimeError: If the loss is no longer finite.
        """
        epoch = len(self.history) + 1
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate * self._decay(epoch)
        devices = [self._device] if self._device.type == "cuda" else []
        # Dropout knows only torch's global generator, which gets its state back afterwards.
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, epoch]).generate_state(1)[0]))
            report = {"epoch": epoch, **self._train_batches(epoch, on_batch)}
        report |= self._judge(self.batches.score())
        is_best = not self.history or _merit(report) > _merit(self.best)
        self.history.append(report)
        if is_best:
            state = self.classifier.state_dict()
            self._best = {name: state[name].detach().cpu().clone() for name in self._names}
        return is_best

    def load_best(self) -> None:
        """Give the network the weights of the best epoch, for good."""
        state = self.classifier.state_dict()
        self.classifier.load_state_dict({**state, **self._best})

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return what `set_state` takes to go on."""
        state = self.classifier.state_dict()
        arrays = {f"now/{name}": state[name].detach().cpu().numpy() for name in self._names}
        arrays |= {f"best/{name}": value.numpy() for name, value in self._best.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                arrays[f"adam/{number}/{name}"] = value.cpu().numpy()
        return arrays, {"history": self.history}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on as the run would have that gave this state."""
        kinds: dict[str, dict[str, torch.Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = torch.from_numpy(np.array(value))
        self.classifier.load_state_dict({**self.classifier.state_dict(), **kinds["now"]})
        self._best = kinds["best"]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in kinds["adam"].items():
            number, _, moment = name.partition("/")
            moments.setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.history = copy.deepcopy(list(values["history"]))

    @property
    def _device(self) -> torch.device:
        return next(self.classifier.parameters()).device

    def _decay(self, epoch: int) -> float:
        """Return the factor of the learning rate in an epoch, counted from 1."""
        if self._n_decay_epochs is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self._n_decay_epochs))

    def _train_batches(self, epoch: int, on_batch: Callable[[int], object] | None) -> Report:
        self.classifier.train()
        total, n_right, n = torch.zeros((), dtype=torch.float64, device=self._device), 0, 0
        for features, labels in self.batches.iterate(epoch):
            logits = self.classifier.classify(features)
            weights = torch.where(labels == 1, self._train_weights[1], self._train_weights[0])
            loss = functional.binary_cross_entropy_with_logits(
                logits + self._shift, labels, weights
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(labels)
            n_right = n_right + ((logits.detach() > 0) == (labels == 1)).sum()
            n += len(labels)
            if on_batch is not None:
                on_batch(len(labels))
        if not n:
            raise RuntimeError("No frame was drawn for an epoch. Raise `frames_per_epoch`.")
        mean = float(total) / n
        if not math.isfinite(mean):
            raise RuntimeError(
                f"Expected a finite loss, got {mean} in epoch {epoch}. Lower the learning rate."
            )
        return {"train_loss": mean, "train_acc": float(n_right) / n}

    def _judge(self, scores: FrameScores) -> Report:
        shifted = scores.logits + self._shift
        weights = np.where(scores.labels, self._weights[1], self._weights[0])
        losses = np.logaddexp(0, np.where(scores.labels, -shifted, shifted))
        if not np.isfinite(scores.logits).all():
            raise RuntimeError(
                "A logit of a held-out frame is not finite. Lower the learning rate."
            )
        return {
            "holdout_loss": float((weights * losses).mean()),
            "holdout_acc": float(((scores.logits > 0) == scores.labels).mean()),
            "holdout_average_precision": compute_average_precision(scores.logits, scores.labels),
            "holdout_auroc": compute_auroc(scores.logits, scores.labels),
        }


def train_with_checkpoints(
    run: ClassifierRun,
    n_epochs: int,
    folder: Path | None,
    belongs_to: Mapping[str, Any],
    on_epoch: Callable[[Report, bool], None],
    on_batch: Callable[[int], object] | None,
) -> None:
    """Train, with a checkpoint after each epoch, from the newest one on if there is one.

    `on_epoch` gets the report of each epoch, those before that checkpoint too, and whether it is
    better than all before it, False for those.

    Raises:
        ValueError: If that one belongs to other arguments or data, or is beyond `n_epochs`.
    """
    checkpoint = None if folder is None else read_newest_checkpoint(folder)
    if checkpoint is not None:
        found = checkpoint.values.get("belongs_to", {})
        differing = [name for name, value in belongs_to.items() if found.get(name) != value]
        if differing or checkpoint.step > n_epochs:
            reason = f"differs in {', '.join(differing)}" if differing else "is longer"
            raise ValueError(
                f"{str(checkpoint.path)!r} belongs to a training that {reason}. Continue with the "
                "same arguments and data, or choose another folder for checkpoints."
            )
        run.set_state(checkpoint.arrays, checkpoint.values["run"])
        for report in run.history:
            on_epoch(report, False)
    while len(run.history) < n_epochs:
        is_best = run.train_epoch(on_batch)
        on_epoch(run.history[-1], is_best)
        if folder is not None:
            arrays, values = run.get_state()
            content = {"belongs_to": dict(belongs_to), "run": values}
            write_checkpoint(folder, len(run.history), arrays, content)


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if a number of a training is out of range."""
    for name in ("n_epochs", "batch_size", "frames_per_epoch"):
        if settings[name] is not None and settings[name] < 1:
            raise ValueError(f"`{name}` must be at least 1, got {settings[name]}.")
    if not 0 < settings["learning_rate"] < math.inf:
        raise ValueError(f"`learning_rate` must be positive, got {settings['learning_rate']}.")
    if not 0 <= settings["weight_decay"] < math.inf:
        raise ValueError(f"`weight_decay` must not be negative, got {settings['weight_decay']}.")
    if not 0 <= settings["target_false_positive_rate"] < 1:
        raise ValueError(
            "`target_false_positive_rate` must be in [0, 1), got "
            f"{settings['target_false_positive_rate']}."
        )


def _weigh(positive_share: float) -> tuple[float, float]:
    """Return the weights of labels 0 and 1 with which both count the same."""
    return 0.5 / (1 - positive_share), 0.5 / positive_share


def _merit(report: Mapping[str, float]) -> tuple[float, float]:
    return report["holdout_average_precision"], -report["holdout_loss"]


def _list_trained(classifier: torch.nn.Module) -> list[str]:
    """Return the names of the tensors that training changes."""
    names = list(classifier.state_dict())
    if classifier.freeze_encoder:
        names = [name for name in names if ".resnet_backbone." not in name]
    return names
