"""The updates of a fine-tuning run, its evaluations, and its checkpoints."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from libero_reward_envs.agents.openvla_batches import PolicyBatches, iterate_holdout
from libero_reward_envs.agents.openvla_config import FinetuneConfig
from libero_reward_envs.agents.openvla_logs import FinetuneLog
from libero_reward_envs.agents.openvla_loss import (
    MODEL_INPUTS,
    ActionErrors,
    compute_action_loss,
    measure_errors,
)
from libero_reward_envs.agents.openvla_rows import Batch
from libero_reward_envs.agents.openvla_samples import Sample, draw_samples
from libero_reward_envs.agents.openvla_setup import FinetuneData
from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.openvla.action_normalization import unnormalize

SAMPLES_FOLDER = "samples"
BAD_BATCH_FILE = "bad_batch.safetensors"
_DRAWN_SAMPLES = 4


class FinetuneTrainer:
    """Trains a model that `accelerate` has prepared; each update's randomness is its own.

    Before every update torch's generators are seeded by the seed, its number and the process, so
    that a run that goes on draws what it would have drawn.

    Args:
        config: Of the run.
        data: What it is trained on.
        accelerator: Of accelerate.
        model: Prepared.
        optimizer: Prepared.
        folder: Of the run.

    Attributes:
        step: Updates so far.
        n_steps: Updates at the end.
        batches: What is trained on, for this process.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: FinetuneData,
        accelerator: Any,
        model: Any,
        optimizer: Any,
        folder: Path,
    ) -> None:
        self.config, self.data, self.accelerator = config, data, accelerator
        self.model, self.optimizer = model, optimizer
        self.folder = folder
        self.step = 0
        self.batches = PolicyBatches(
            data.train,
            data.encoder,
            batch_size=config.batch_size,
            accumulate=config.gradient_accumulate_every,
            n_processes=accelerator.num_processes,
            process=accelerator.process_index,
            seed=config.seed,
            buffer_steps=config.buffer_steps,
            n_threads=config.num_workers,
        )
        self.n_steps = config.max_steps or (config.num_epochs or 0) * len(self.batches)

    def train(
        self,
        log: FinetuneLog | None,
        save: Callable[["FinetuneTrainer"], object],
        on_step: Callable[[Mapping[str, float]], object],
    ) -> None:
        """Train until the end, with evaluations and checkpoints on the way.

        Args:
            log: Takes the curves; None in all processes but the first.
            save: Called when a checkpoint is due, in all processes.
            on_step: Called with the values of each update.

        Raises:
            OSError: If a checkpoint cannot be written.
            RuntimeError: If a loss is not finite; the batch lies in `bad_batch.safetensors` then.
        """
        while self.step < self.n_steps:
            epoch, start = divmod(self.step, len(self.batches))
            with contextlib.closing(self.batches.iterate(epoch, start)) as batches:  # pyright: ignore[reportArgumentType] (a generator)
                while self.step < min(self.n_steps, (epoch + 1) * len(self.batches)):
                    values = self._update(batches, epoch)
                    holdout = self._evaluate(log) if self._is_due("eval") else {}
                    others = {name: values.pop(name) for name in ("rows_per_s", "waited_share")}
                    is_logged = holdout or self.step % self.config.log_every == 0
                    if log is not None and (is_logged or self.step == self.n_steps):
                        log.write({**values, **holdout}, others)
                    on_step({**values, **holdout, **others})
                    if self._is_due("checkpoint"):
                        save(self)

    def _is_due(self, what: str) -> bool:
        """Whether it is time to evaluate, or to save; both are done at the end."""
        every = getattr(self.config, f"{what}_every") or self.config.checkpoint_every
        if every is None or self.step == self.n_steps:
            return self.step == self.n_steps
        return self.step % (every if self.counts_steps else every * len(self.batches)) == 0

    @property
    def counts_steps(self) -> bool:
        """Whether the run is as long as so many updates, and not passes."""
        return self.config.max_steps is not None

    def _update(self, batches: Iterator[Batch], epoch: int) -> dict[str, float]:
        """Take the batches of one update, change the weights, and return what is logged."""
        config, accelerator = self.config, self.accelerator
        self.model.train()
        number = self.step * accelerator.num_processes + accelerator.process_index
        torch.manual_seed((config.seed * 1_000_003 + number) % 2**63)
        learning_rate = self.find_learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        begun, waited = time.perf_counter(), 0.0
        losses, predicted, target = [], [], []
        for index in range(config.gradient_accumulate_every):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            is_last = index + 1 == config.gradient_accumulate_every
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                loss = self._compute(batch, self.model)
                mean = loss.losses.mean()
                self._check_finite(mean.detach(), batch)
                accelerator.backward(mean / config.gradient_accumulate_every)
            losses.append(mean.detach())
            predicted.append(loss.predicted)
            target.append(loss.target)
        if config.max_grad_norm is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        values = {"step": self.step, "epoch": epoch, "learning_rate": learning_rate}
        values["loss"] = self._mean(torch.stack(losses).mean())
        values.update(self._measure(torch.cat(predicted), torch.cat(target)))
        took = time.perf_counter() - begun
        values["rows_per_s"] = self.batches.rows_per_update / took
        values["waited_share"] = waited / took
        return values

    def find_learning_rate(self, step: int) -> float:
        """Return the learning rate of an update: rising to its peak, then constant or a cosine."""
        config = self.config
        peak = config.peak_learning_rate
        if step < config.warmup_steps:
            return peak * (step + 1) / config.warmup_steps
        if config.lr_schedule == "constant":
            return peak
        progress = (step - config.warmup_steps) / max(1, self.n_steps - config.warmup_steps)
        return peak * 0.5 * (1 + math.cos(math.pi * progress))

    def _compute(self, batch: Batch, model: Any) -> Any:
        inputs = {
            name: batch[name].to(self.accelerator.device, non_blocking=True)
            for name in (*MODEL_INPUTS, "labels")
        }
        with self.accelerator.autocast():
            return compute_action_loss(model, inputs)

    def _check_finite(self, loss: torch.Tensor, batch: Batch) -> None:
        """Raise RuntimeError, in all processes, if the loss of one is not finite."""
        is_bad = not bool(torch.isfinite(loss))
        if self._mean(torch.tensor(float(is_bad), device=loss.device)) == 0:
            return
        path = self.folder / BAD_BATCH_FILE
        if is_bad:
            rows = [[int(e), int(self.data.train.steps[e][p])] for e, p in batch["rows"].tolist()]
            told = {"step": str(self.step), "episodes_and_steps": json.dumps(rows)}
            save_file({name: value.contiguous() for name, value in batch.items()}, path, told)
        raise RuntimeError(
            f"The loss of update {self.step + 1} is {float(loss)}. Nothing was changed by it; its "
            f"batch is in {str(path)!r}. Lower `learning_rate`, set `max_grad_norm` to 1, or look "
            "at these episodes. The same command goes on from the last checkpoint."
        )

    def _measure(self, predicted: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
        encoder = self.data.encoder
        errors = measure_errors(
            predicted.cpu().numpy(), target.cpu().numpy(), encoder.tokenizer, encoder.statistics
        )
        gathered = torch.tensor(errors, dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            gathered = self.accelerator.reduce(
                gathered.float().to(self.accelerator.device), reduction="mean"
            )
        return dict(zip(ActionErrors._fields, gathered.tolist(), strict=True))

    def _mean(self, value: torch.Tensor) -> float:
        """Return the mean over all processes."""
        if self.accelerator.num_processes > 1:
            value = self.accelerator.reduce(value.float(), reduction="mean")
        return float(value)

    @torch.no_grad()
    def _evaluate(self, log: FinetuneLog | None) -> dict[str, float]:
        """Return loss and errors on held-out steps, and write them by episode, and pictures."""
        holdout = self.data.holdout
        if holdout is None:
            return {}
        from accelerate.utils import gather_object

        accelerator, encoder = self.accelerator, self.data.encoder
        self.model.eval()
        # Without DDP around it, which waits for all processes; FSDP has the weights.
        is_sharded = accelerator.distributed_type.value == "FSDP"
        model = self.model if is_sharded else accelerator.unwrap_model(self.model)
        found: list[tuple[int, int, float, list[int], list[int]]] = []
        for batch in iterate_holdout(
            holdout,
            encoder,
            batch_size=self.config.batch_size,
            max_rows=self.config.eval_steps,
            n_processes=accelerator.num_processes,
            process=accelerator.process_index,
            n_threads=self.config.num_workers,
        ):
            loss = self._compute(batch, model)
            parts = (loss.losses, loss.predicted, loss.target)
            for (episode, position), *row in zip(
                batch["rows"].tolist(), *(part.tolist() for part in parts), strict=True
            ):
                found.append((episode, position, *row))
        found = sorted(gather_object(found))
        predicted, target = (np.array([row[i] for row in found]) for i in (3, 4))
        errors = measure_errors(predicted, target, encoder.tokenizer, encoder.statistics)
        losses = np.array([row[2] for row in found])
        if log is not None:
            episodes = np.array([row[0] for row in found])
            right = (predicted == target).mean(axis=1)
            log.write_episodes(
                self.step,
                [
                    (int(e), int(m.sum()), float(losses[m].mean()), float(right[m].mean()))
                    for e in np.unique(episodes)
                    for m in [episodes == e]
                ],
            )
            log.write_picture(self.step, self._draw(found))
        named = {f"holdout_{name}": value for name, value in errors._asdict().items()}
        return {"holdout_loss": float(losses.mean()), **named}

    def _draw(self, found: Sequence[tuple[int, int, float, list[int], list[int]]]) -> np.ndarray:
        """Draw some held-out steps with their actions; return the drawing."""
        holdout, encoder = self.data.holdout, self.data.encoder
        assert holdout is not None
        samples = []
        for index in np.linspace(0, len(found) - 1, min(_DRAWN_SAMPLES, len(found))).astype(int):
            episode, position, _, *ids = found[index]
            actions = [
                unnormalize(encoder.tokenizer.decode(np.array(row)), encoder.statistics)
                for row in ids
            ]
            views = [
                turn_images(view[position], holdout.orientations[episode], "upright")
                for view in holdout.read_images(episode)
            ]
            samples.append(Sample(views, holdout.instructions[episode], *actions))
        path = self.folder / SAMPLES_FOLDER / f"step_{self.step}.png"
        return draw_samples(samples, f"held-out steps after {self.step} updates", path)
