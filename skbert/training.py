"""The loop: fit → run_epoch → train_step, one verb a level.

1. `Trainer` moves the model to its device and makes the optimizer.
2. `fit` runs the epochs, and leaves the model on the CPU in the masters' dtype with nothing of the optimizer
   behind.
3. `run_epoch` draws mini-batches afresh, packs each, and steps.
4. `train_step` is forward, loss, backward, update.

Nothing in an epoch asks the device for a value; losses are read once, at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from skbert.batching import Batch, collate, shuffled_minibatches
from skbert.callbacks import Progress
from skbert.encoding import Encodings
from skbert.exceptions import NonFiniteLossError
from skbert.model import SequenceClassifier
from skbert.optimizer import MasterAdamW, linear_schedule
from skbert.runtime import Generators, Runtime, wide_dtype
from skbert.validation import NoValidation
from skbert.vocabulary import compact, restore

if TYPE_CHECKING:
    from skbert.outputs import LossFunction


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
    layer_decay: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float | None

    def learning_rates(self, n_texts: int) -> Iterator[float]:
        """Learning rate of every step in turn."""
        n_steps = self.epochs * -(-n_texts // self.batch_size)
        for step in range(n_steps):
            yield self.learning_rate * linear_schedule(step, n_steps, self.warmup_ratio)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What remains of a training besides the weights."""

    loss_curve: list[float]  # mean training loss of each epoch
    scores: list[float]  # validation score of each epoch, if there was validation


class Trainer:
    """One training of one model, in place.

    Parameters
    ----------
    model : SequenceClassifier
        What trains is what requires a gradient.
    data : TrainingData
    settings : TrainingSettings
    loss : callable
        (logits, targets, weights) → mean loss of a batch.
    runtime : Runtime
    generators : Generators
    progress : Progress
    validation : NoValidation or Validation
        Scores each epoch, says when to stop and which epoch was best.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        data: TrainingData,
        settings: TrainingSettings,
        loss: LossFunction,
        runtime: Runtime,
        generators: Generators,
        progress: Progress,
        validation: NoValidation,
    ) -> None:
        self.model = model.to(runtime.master_dtype)
        (encodings, validation.encodings), self.vocabulary = compact(
            model, data.encodings, validation.encodings
        )
        # Scaled over the data set, not over each mini-batch: a row of weight two counts as the row given
        # twice, whatever it meets in its mini-batch.
        weights = (data.weights / data.weights.mean()).astype(wide_dtype(runtime))
        self.data = replace(data, encodings=encodings, weights=weights)
        self.settings = settings
        self.loss = loss
        self.runtime = runtime
        self.generators = generators
        self.progress = progress
        self.validation = validation
        model.to(runtime.device)
        self.optimizer = MasterAdamW(
            model, runtime, settings.weight_decay, settings.layer_decay, settings.max_grad_norm
        )
        self.rates = settings.learning_rates(len(data))

    def fit(self) -> TrainingResult:
        """Run the epochs; the model ends in eval mode on the CPU, in the masters' dtype.

        Raises
        ------
        NonFiniteLossError
            If the loss of a step, or a weight at the end, is NaN or infinite.
        """
        curve: list[float] = []
        for _ in range(self.settings.epochs):
            curve.append(self._mean_loss(self.run_epoch(), len(curve)))
            self.progress.epoch_end(len(curve), curve[-1])
            self.validation.after_epoch(self.model, self.optimizer)
            if self.validation.should_stop:
                break
        self.validation.restore_best(self.optimizer)
        self.optimizer.finish()
        restore(self.model.to("cpu"), self.vocabulary, self.optimizer.embedding_decay)
        self.model.eval().requires_grad_(False)
        self._check_weights()
        return TrainingResult(curve, self.validation.scores)

    def run_epoch(self) -> list[torch.Tensor]:
        """One pass over the data; returns the summed loss of every step, still on the device."""
        self.model.train()
        losses = []
        batch_size, order = self.settings.batch_size, self.generators.order
        for indices in shuffled_minibatches(len(self.data), batch_size, order):
            batch = collate(self.data.encodings, indices, self.data.targets, self.data.weights)
            losses.append(self.train_step(batch.to(self.runtime.device)) * len(indices))
            self.progress.step(len(indices))
        return losses

    def train_step(self, batch: Batch) -> torch.Tensor:
        """Forward, loss, backward, update."""
        logits = self.model(batch)  # (n_texts, n_outputs)
        loss = self.loss(logits, batch.targets, batch.weights)
        loss.backward()
        self.optimizer.step(next(self.rates))
        return loss.detach()

    def _mean_loss(self, losses: list[torch.Tensor], epoch: int) -> float:
        values = torch.stack(losses).cpu()
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            step = epoch * len(losses) + int(bad[0])
            raise NonFiniteLossError(
                f"The training loss became {values[bad[0]].item()} at step {step + 1} (epoch {epoch + 1}); "
                + self._remedy()
            )
        return float(values.double().sum()) / len(self.data)

    def _check_weights(self) -> None:
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            raise NonFiniteLossError(f"The last update gave weights that are not finite; {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"the peak learning rate was {self.settings.learning_rate:g}. Nothing was kept of this fit. "
            "Lower learning_rate, lower max_grad_norm, or use precision='float32'."
        )
