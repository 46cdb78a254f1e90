"""The loop: train → run_epoch → train_step, one verb a level.

1. `train` moves the model to its device, makes the optimizer, runs the epochs, and leaves the model on
   the CPU in float32 with nothing of the optimizer behind.
2. `run_epoch` draws mini-batches afresh, packs each, and steps.
3. `train_step` is forward, loss, backward, update.

Nothing in an epoch asks the device for a value; losses are read once, at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from skbert.batching import Batch, collate, shuffled_minibatches
from skbert.callbacks import Progress
from skbert.encoding import Encodings
from skbert.exceptions import NonFiniteLossError
from skbert.labels import loss as weighted_loss
from skbert.model import SequenceClassifier
from skbert.optimizer import MasterAdamW, linear_schedule
from skbert.runtime import Generators, Runtime
from skbert.vocabulary import compact, restore


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads: tokens, class codes and weights of every row that counts."""

    encodings: Encodings
    targets: np.ndarray  # (n_samples,) int64
    weights: np.ndarray  # (n_samples,) float64, above zero

    def __len__(self) -> int:
        return len(self.encodings)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The recipe, every "auto" already resolved."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float | None

    def n_steps(self, n_texts: int) -> int:
        """Optimizer steps of the whole fit."""
        return self.epochs * -(-n_texts // self.batch_size)

    def learning_rates(self, n_texts: int) -> Iterator[float]:
        """Learning rate of every step in turn."""
        n_steps = self.n_steps(n_texts)
        for step in range(n_steps):
            yield self.learning_rate * linear_schedule(step, n_steps, self.warmup_ratio)

    def total_decay(self, n_texts: int) -> float:
        """What weight decay alone makes of a weight over the whole fit: a factor."""
        return math.prod(1 - rate * self.weight_decay for rate in self.learning_rates(n_texts))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What remains of a training besides the weights."""

    loss_curve: list[float]  # mean training loss of each epoch


def train(
    model: SequenceClassifier,
    data: TrainingData,
    settings: TrainingSettings,
    runtime: Runtime,
    generators: Generators,
    progress: Progress,
) -> TrainingResult:
    """Fine-tune `model` in place; it ends in eval mode on the CPU, in the masters' dtype.

    Raises
    ------
    NonFiniteLossError
        If the loss of a step is NaN or infinite.
    """
    model.to(runtime.master_dtype).requires_grad_().train()
    encodings, vocabulary = compact(model, data.encodings)
    # Scaled over the data set, not over each mini-batch: a row of weight two counts as the row given twice,
    # whatever it meets in its mini-batch.
    data = replace(data, encodings=encodings, weights=data.weights / data.weights.mean())
    model.to(runtime.device)
    optimizer = MasterAdamW(model, runtime, settings.weight_decay, settings.max_grad_norm)
    rates = settings.learning_rates(len(data))
    curve: list[float] = []
    for _ in range(settings.epochs):
        losses = run_epoch(model, data, settings, runtime, generators, optimizer, rates, progress)
        curve.append(_mean_loss(losses, len(data), len(curve), settings))
        progress.epoch_end(len(curve), curve[-1])
    optimizer.finish()
    model.to("cpu")
    restore(model, vocabulary, decay=settings.total_decay(len(data)))
    model.eval().requires_grad_(False)
    return TrainingResult(curve)


def run_epoch(
    model: SequenceClassifier,
    data: TrainingData,
    settings: TrainingSettings,
    runtime: Runtime,
    generators: Generators,
    optimizer: MasterAdamW,
    rates: Iterator[float],
    progress: Progress,
) -> list[torch.Tensor]:
    """One pass over the data; returns the summed loss of every step, still on the device."""
    losses = []
    for indices in shuffled_minibatches(len(data), settings.batch_size, generators.order):
        batch = collate(data.encodings, indices, data.targets, data.weights).to(runtime.device)
        loss = train_step(model, batch, optimizer, next(rates))
        losses.append(loss * len(indices))
        progress.step(len(indices))
    return losses


def train_step(
    model: SequenceClassifier, batch: Batch, optimizer: MasterAdamW, learning_rate: float
) -> torch.Tensor:
    """Forward, loss, backward, update."""
    logits = model(batch)  # (n_texts, n_outputs)
    loss = weighted_loss(logits, batch.targets, batch.weights)
    loss.backward()
    optimizer.step(learning_rate)
    return loss.detach()


def _mean_loss(losses: list[torch.Tensor], n_texts: int, epoch: int, settings: TrainingSettings) -> float:
    values = torch.stack(losses).cpu()
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        step = epoch * len(losses) + int(bad[0])
        raise NonFiniteLossError(
            f"The training loss became {values[bad[0]].item()} at step {step + 1} (epoch {epoch + 1}) with "
            f"a peak learning rate of {settings.learning_rate:g}. Nothing was kept of this fit. Lower "
            "learning_rate, lower max_grad_norm, or use precision='float32'."
        )
    return float(values.double().sum()) / n_texts
