"""A training that was killed resumes where it was, with the same bits.

1. `state_of` collects all that a trainer's next step reads: weights, AdamW's state, generators, the place in
   the epoch, losses and scores so far, the best weights so far. `restore` puts it back.
2. `FolderStateWriter` writes this state before the first step, and again after a step once 20 times the
   duration of the last write has passed since: at most a twentieth of a fit's time, plus the first write.
3. Which weights train follows from the epoch (`freezing.GradualUnfreezing`), and the order of the texts from
   the state of the generator when the epoch began. Neither is kept.

How the state is written and read, and where, is passed in: `persistence/unfinished.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skbert.exceptions import MALFORMED, PersistenceError, warn
from skbert.network.memory_errors import raise_if_no_fault_of_a_file
from skbert.process.signal_errors import raise_if_of_a_handler
from skbert.training.optimizer import WeightState

if TYPE_CHECKING:
    from skbert.training.loop import Trainer

_SHARE = 20  # times the duration of a write is the wait before the next
_PARTS = ("weight", "first", "second")


State = tuple[dict[str, Any], dict[str, np.ndarray]]  # values that JSON holds exactly, and arrays


class StateWriter:
    """Keeps nothing: a fit without `checkpoint`."""

    def put_back(self, trainer: Trainer) -> None:
        """Called when the trainer is made."""

    def begin(self, trainer: Trainer) -> None:
        """Called before the first step."""

    def step(self, trainer: Trainer) -> None:
        """Called after each step."""


class FolderStateWriter(StateWriter):
    """Writes the state of a training at intervals.

    Parameters
    ----------
    write : callable
        Takes the values and the arrays of a state.
    found : tuple or None
        State of a training that was interrupted, from which this one continues.
    file : str
        Where states are, for the error message.
    """

    def __init__(self, write: Callable[..., None], found: State | None, file: str) -> None:
        self._write = write
        self._file = file
        self._found = found
        self._is_written = found is not None
        self._due = 0.0  # on the monotonic clock

    def put_back(self, trainer: Trainer) -> None:
        """Make the trainer continue from the state that was found."""
        if self._found is not None:
            try:
                restore(trainer, *self._found)
            except MALFORMED as error:
                raise_if_no_fault_of_a_file(error)
                # Its checksums are right, so this content is what its author wrote.
                raise PersistenceError(
                    f"{self._file!r} does not hold the state of a fit ({type(error).__name__}: "
                    f"{str(error)[:200]}). Delete it to start over."
                ) from error
            self._found = None  # several times as large as the model

    def begin(self, trainer: Trainer) -> None:
        """Write once, so that what prevents writing is reported before hours are spent."""
        if not self._is_written:
            self._write_timed(trainer)

    def step(self, trainer: Trainer) -> None:
        """Write if it is due. If that fails, the fit continues; the last file should still be there."""
        if time.monotonic() < self._due:
            return
        try:
            self._write_timed(trainer)
        except (OSError, PersistenceError) as error:
            raise_if_of_a_handler(error)
            warn(
                f"The state of the fit could not be written to its checkpoint ({error}). The fit continues "
                "and will try again; if it is killed before that succeeds, it resumes from the previous "
                "state, if that is still there. Free disk space or grant access there."
            )

    def _write_timed(self, trainer: Trainer) -> None:
        if trainer.runtime.device.type == "cuda":
            torch.cuda.synchronize(trainer.runtime.device)  # what was queued before is no cost of writing
        begun = time.monotonic()
        try:
            self._write(*state_of(trainer))
        finally:
            ended = time.monotonic()
            self._due = ended + _SHARE * (ended - begun)


def state_of(trainer: Trainer) -> State:
    """All that the next step of a trainer depends on; on a CPU the arrays are the trainer's own."""
    weights = trainer.optimizer.state()
    best, best_decay = _best_so_far(trainer)
    values = {
        "steps": trainer.steps,
        "loss_curve": trainer.loss_curve,
        "scores": trainer.validation.scores,
        "part_size": trainer.micro_batches.size,
        "embedding_decay": trainer.optimizer.embedding_decay,
        "loss_scale": trainer.optimizer.scaler.state_dict(),
        "best_decay": best_decay,
        "n_losses": len(trainer.losses),
        "n_best": len(best),
        "order": trainer.order_state,
        "steps_of": {name: weight.steps for name, weight in weights.items()},
    }
    tensors = {"generator/dropout": trainer.generators.dropout.get_state()}
    if trainer.runtime.device.type == "cuda":
        tensors["generator/cuda"] = torch.cuda.get_rng_state(trainer.runtime.device)
    if trainer.losses:
        tensors["losses"] = torch.stack(trainer.losses)
    for name, weight in weights.items():
        tensors |= {f"{part}/{name}": getattr(weight, part) for part in _PARTS}
    tensors |= {f"best/{number}": weight for number, weight in enumerate(best)}
    return values, {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _best_so_far(trainer: Trainer) -> tuple[list[torch.Tensor], float | None]:
    """The best weights; until there are any, the current ones, so that no state is larger than the first."""
    if trainer.data.held_out is None:
        return [], None
    return trainer.validation.best or trainer.optimizer.snapshot()


def restore(trainer: Trainer, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Make a new trainer of the same fit continue from a state."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    weights = {
        name: WeightState(**{part: tensors[f"{part}/{name}"] for part in _PARTS}, steps=steps)
        for name, steps in values["steps_of"].items()
    }
    trainer.optimizer.load_state(weights)
    trainer.optimizer.embedding_decay = values["embedding_decay"]
    trainer.optimizer.load_loss_scale(values["loss_scale"])
    trainer.steps = int(values["steps"])
    trainer.loss_curve = list(values["loss_curve"])
    trainer.validation.scores = list(values["scores"])
    if values["n_best"]:
        best = [tensors[f"best/{number}"] for number in range(values["n_best"])]
        trainer.validation.best = (best, values["best_decay"])
    trainer.micro_batches.size = None if values["part_size"] is None else int(values["part_size"])
    if values["n_losses"]:
        trainer.losses = list(tensors["losses"].to(trainer.runtime.device))
    trainer.generators.order.bit_generator.state = trainer.order_state = values["order"]
    trainer.generators.dropout.set_state(tensors["generator/dropout"])
    if trainer.runtime.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["generator/cuda"], trainer.runtime.device)
