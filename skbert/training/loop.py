"""The loop: fit → run_epoch → train_step, one verb per level.

1. `Trainer` moves the model to its device and makes the optimizer.
2. `fit` runs the epochs, and returns the weights they ended with.
3. `run_epoch` draws new mini-batches and makes a step with each.
4. `train_step` adds up the gradients of a mini-batch, in parts where memory is short and over the ranks
   where there are several, and updates the weights.

Nothing in an epoch reads a value from the device but a progress bar, and a state that is due to be written;
losses are read once, at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skbert.data.batching import collate, shuffled_minibatches
from skbert.data.fit_data import TrainingData
from skbert.data.numbers import are_numbers
from skbert.exceptions import NonFiniteLossError
from skbert.inference import check_finite, release_all
from skbert.network.memory import MicroBatches
from skbert.network.model import SequenceClassifier
from skbert.process.float_errors import ignoring_float_errors
from skbert.process.scopes import inference_mode
from skbert.randomness import Generators
from skbert.runtime import Runtime
from skbert.training.callbacks import Watcher
from skbert.training.lora import Adapter, adapters_of, merged
from skbert.training.optimizer import MasterAdamW, Moments
from skbert.training.ranks import current
from skbert.training.resume import StateWriter
from skbert.training.validation import Validation
from skbert.training.vocabulary import compact

if TYPE_CHECKING:
    from skbert.data.outputs import LossFunction


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The recipe, with every "auto" already resolved."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Callable[[int, int], float]  # (step, steps in all) → factor of the learning rate
    layer_decay: float
    weight_decay: float
    max_grad_norm: float | None
    open_ended: bool = False  # one call of several: the next one may make the steps that this one skips
    verbose: int = 0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training ends with."""

    weights: dict[str, torch.Tensor]  # of a `SequenceClassifier`, adapters merged; on the CPU
    adapters: dict[str, Adapter]  # that were merged
    loss_curve: list[float]  # mean training loss of each epoch
    scores: list[float]  # validation score of each epoch, if there was validation


class Trainer:
    """One training of one model, which is consumed: its weights are returned as the result.

    Parameters
    ----------
    model : SequenceClassifier
        Weights that require a gradient are trained.
    data : TrainingData
        What the training reads, including the texts to validate on.
    settings : TrainingSettings
    loss : callable
        (logits, targets, weights) → mean loss of a batch.
    runtime : Runtime
    generators : Generators
    watcher : Watcher
    validation : Validation
        Scores each epoch, and decides when to stop and which epoch was best.
    moments : Moments, default=None
        Of an optimizer to continue from.
    state_writer : StateWriter
        Saves the state of the training, and restores it when an interrupted one is started again.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        data: TrainingData,
        settings: TrainingSettings,
        loss: LossFunction,
        runtime: Runtime,
        generators: Generators,
        watcher: Watcher,
        validation: Validation,
        moments: Moments | None = None,
        state_writer: StateWriter | None = None,
    ) -> None:
        self.model = model.to(runtime.master_dtype)
        data, self.vocabulary = compact(model, data, moments)
        # Scaled over the data set, not over each mini-batch: a row of weight two counts as much as the row
        # given twice, whatever else is in its mini-batch.
        dtype = runtime.master_dtype_in_numpy
        weights = _of_mean_one(data.weights, dtype)
        targets = data.targets.astype(dtype) if are_numbers(data.targets) else data.targets
        self.data = replace(data, targets=targets, weights=weights)
        self.settings = settings
        self.loss = loss
        self.runtime = runtime
        self.generators = generators
        self.watcher = watcher
        self.validation = validation
        self.state_writer = state_writer or StateWriter()
        if runtime.device.type != "cpu":
            release_all()  # the fit needs the room more than predictions that may never come
        model.to(runtime.device)
        self.optimizer = MasterAdamW(
            model, runtime, settings.weight_decay, settings.layer_decay, settings.max_grad_norm
        )
        if moments is not None:
            self.optimizer.load_moments(self.vocabulary.with_table_moments(moments))
        self.micro_batches = MicroBatches(settings.verbose, free=release_all)
        self.ranks = current()
        self.steps = 0
        self.n_steps = settings.epochs * -(-len(data) // settings.batch_size)
        self.loss_curve: list[float] = []
        self.losses: list[torch.Tensor] = []  # summed loss of each step of this epoch; on the device
        self.order_state: Any = generators.order.bit_generator.state  # when this epoch began
        self.state_writer.put_back(self)

    def fit(self) -> TrainingResult:
        """Try the scorer, if there is one, and run the epochs.

        Raises
        ------
        InputError
            If the scorer gives no number.
        NonFiniteOutputError
            If the model gives no finite numbers before the first step.
        NonFiniteLossError
            If the loss of a step, or a weight at the end, is NaN or infinite.
        """
        self.validation.check(self.model, self.data.held_out)
        self.state_writer.begin(self)
        if self.steps == 0:
            self._check_start()
        self.watcher.fit_begin(self.settings.epochs, len(self.data))
        for epoch in range(len(self.loss_curve), self.settings.epochs):
            self.watcher.epoch_begin(epoch)
            self.loss_curve.append(self._mean_loss(self.run_epoch(), epoch))
            if self.data.held_out is not None:
                self._check_logits()
            self.validation.after_epoch(self.model, self.data.held_out, self.optimizer)
            stop = self.ranks.any(self.watcher.epoch_end(self._record(), self.result))
            if stop or self.validation.should_stop:
                break
        self.validation.restore_best(self.optimizer)
        self.ranks.broadcast(self.optimizer.masters)
        result = self.result()
        self._check_weights(result.weights)
        self._check_logits()
        self._check_steps()
        self.watcher.fit_end(self.result)
        return result

    def run_epoch(self) -> list[torch.Tensor]:
        """One pass over the data, or the rest of it; returns the summed loss of every step, on the device."""
        self.model.train()
        batch_size, order = self.settings.batch_size, self.generators.order
        self.order_state = order.bit_generator.state
        groups = shuffled_minibatches(len(self.data), batch_size, order)
        if self.losses:  # of an epoch that was interrupted
            n_seen = sum(map(len, groups[: len(self.losses)]))
            self.watcher.skip(n_seen, torch.stack(self.losses).sum())
        for indices in groups[len(self.losses) :]:
            self.losses.append(self.train_step(indices) * len(indices))
            self.state_writer.step(self)
        losses, self.losses = self.losses, []
        return losses

    def train_step(self, indices: np.ndarray) -> torch.Tensor:
        """Compute the gradients of a mini-batch and update once; returns the mean loss."""
        mine, n_texts = self.ranks.share(indices, self.data.encodings.offsets)
        losses = self.micro_batches.run(partial(self.gradients, n_texts), mine, undo=self.model.zero_grad)
        loss = torch.stack(losses).sum()
        rate = self.settings.learning_rate * self.settings.schedule(self.steps, self.n_steps)
        self.optimizer.step(rate, lambda gradients: self.ranks.all_reduce([loss, *gradients]))
        self.steps += 1
        self.watcher.step(len(indices), loss, rate)
        return loss

    def gradients(self, n_texts: float, indices: np.ndarray) -> torch.Tensor:
        """Forward, loss, backward; returns what these of `n_texts` texts add to a mini-batch's mean loss."""
        batch = collate(self.data.encodings, indices, self.data.targets, self.data.weights)
        batch = batch.to(self.runtime.device)
        logits = self.model(batch)  # (n_texts, n_outputs)
        loss = self.loss(logits, batch.targets, batch.weights) * (len(indices) / n_texts)
        self.optimizer.backward(loss)
        return loss.detach()

    def result(self) -> TrainingResult:
        """The result so far: all weights, wide, with the whole vocabulary and adapters merged."""
        weights = self.model.state_dict() | self.optimizer.weights()
        weights = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        table = self.vocabulary.name
        weights[table] = self.vocabulary.whole_table(weights[table], self.optimizer.embedding_decay)
        adapters = adapters_of(self.model, weights)
        weights = merged(self.model, weights, adapters)
        return TrainingResult(weights, adapters, list(self.loss_curve), list(self.validation.scores))

    def moments(self) -> Moments:
        """What the optimizer remembers, for a training that continues."""
        return self.optimizer.moments(self.vocabulary.rows)

    def _record(self) -> dict[str, float]:
        record = {"epoch": len(self.loss_curve), "loss": self.loss_curve[-1]}
        if self.validation.scores:
            record["validation_score"] = self.validation.scores[-1]
        return record

    def _mean_loss(self, losses: list[torch.Tensor], epoch: int) -> float:
        values = torch.stack(losses).cpu()
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            step = epoch * len(losses) + int(bad[0])
            found = f"The training loss became {values[bad[0]].item()} at step {step + 1} (epoch {epoch + 1})"
            if step == 0:
                raise NonFiniteLossError(
                    f"{found}, before any update: the weights that the fit starts from give no finite loss "
                    "for some texts. Nothing of this fit was kept. Start from other "
                    f"weights{self._or_float32()}."
                )
            raise NonFiniteLossError(f"{found}; {self._remedy()}")
        return float(values.double().sum()) / len(self.data)

    def _check_weights(self, weights: dict[str, torch.Tensor]) -> None:
        fixed = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        # A sum of non-finite values is not finite either, and needs no copy of the weights' size.
        if not all(torch.isfinite(weight.sum()) for name, weight in weights.items() if name not in fixed):
            raise NonFiniteLossError(f"The last update gave non-finite weights; {self._remedy()}")

    def _some_logits(self) -> torch.Tensor:
        self.model.eval()

        def logits(rows: np.ndarray) -> torch.Tensor:
            return self.model(collate(self.data.encodings, rows).to(self.runtime.device))

        with inference_mode(True):
            return self.micro_batches.run(logits, np.arange(1))[0]

    def _check_start(self) -> None:
        """Check that the model gives finite numbers before hours are spent."""
        check_finite(self._some_logits().amax(dim=1).cpu().numpy(), self.model, self.runtime)

    def _check_logits(self) -> None:
        """Check that the weights give finite logits: they may be finite, yet too large to compute with."""
        if not torch.isfinite(self._some_logits()).all():
            raise NonFiniteLossError(
                f"After the last update the model gives no finite outputs; {self._remedy()}"
            )

    def _check_steps(self) -> None:
        """Check that float16 has not skipped most of the training."""
        if not self.optimizer.scaler.is_enabled() or self.settings.open_ended:
            return
        skipped = self.steps - self.optimizer.steps_taken()
        if 2 * skipped > self.steps:
            raise NonFiniteLossError(
                f"In {skipped} of {self.steps} steps gradients were too large for float16, and these steps "
                "were skipped. Nothing of this fit was kept. Use precision='bfloat16' or 'float32'."
            )

    def _remedy(self) -> str:
        norm = self.settings.max_grad_norm
        clipping = "set max_grad_norm=1.0" if norm is None else "lower max_grad_norm"
        return (
            f"the peak learning rate was {self.settings.learning_rate:g}. Nothing of this fit was kept. "
            f"Lower learning_rate, or {clipping}{self._or_float32()}."
        )

    def _or_float32(self) -> str:
        return ", or use precision='float32'" if self.runtime.dtype != self.runtime.master_dtype else ""


@ignoring_float_errors
def _of_mean_one(weights: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    return (weights / weights.mean()).astype(dtype)
