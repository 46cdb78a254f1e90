"""Work that has to fit into the available memory.

1. `MicroBatches` runs a function over the texts of a batch: all at once or, after memory has run out, in
   halves, quarters and so on. The number of texts that fitted is kept for later batches.
2. `checkpoint_layers` recomputes a layer's inner activations in the backward pass instead of keeping them
   (Chen et al., 2016, arXiv:1604.06174).
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from skbert.exceptions import InsufficientMemoryError, first_line
from skbert.network.layers import encoder_layers
from skbert.network.memory_errors import is_out_of_memory
from skbert.network.model import SequenceClassifier
from skbert.process.signal_errors import raise_if_of_a_handler
from skbert.randomness import DrawsFrom

T = TypeVar("T")


class MicroBatches:
    """Runs a function over the texts of a batch, in as few parts as memory allows.

    Parameters
    ----------
    verbose : int
        1 reports on stderr when the parts become smaller.
    free : callable, optional
        Frees, after memory has run out, what can be had again.
    """

    def __init__(self, verbose: int = 0, free: Callable[[], None] = lambda: None) -> None:
        self.verbose = verbose
        self.free = free
        self.size: int | None = None  # texts that fit; None until memory has run out

    def run(
        self,
        function: Callable[[np.ndarray], T],
        indices: np.ndarray,
        undo: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """Results of `function` on each part of `indices`.

        Parameters
        ----------
        function : callable
            Takes the indices of one part.
        indices : ndarray of int
        undo : callable, optional
            Undoes what the parts that succeeded have done, before all parts are repeated.

        Raises
        ------
        InsufficientMemoryError
            If one text alone does not fit.
        """
        while True:
            size = min(self.size or len(indices), len(indices))
            try:
                return [function(part) for part in np.split(indices, range(size, len(indices), size))]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(size, error)
            # Memory is free only here, after the error and the tensors that its traceback holds are gone.
            undo()
            self.free()
            gc.collect()  # reference cycles may hold models of other code
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _shrink(self, size: int, error: BaseException) -> None:
        if size == 1:
            raise InsufficientMemoryError(
                f"Memory ran out on a single text ({first_line(error)}). Use a smaller model or "
                "another device; a fit needs less memory with a lower max_length, "
                "gradient_checkpointing=True or freeze."
            ) from error
        self.size = size // 2
        if self.verbose:
            _say(f"skbert: out of memory with {size} texts, continuing with {self.size}")


def _say(message: str) -> None:
    if sys.stderr is None:  # tqdm would then write to stdout
        return
    try:
        tqdm.write(message, sys.stderr)
    except Exception as error:  # nobody reads it
        raise_if_of_a_handler(error)


def checkpoint_layers(model: SequenceClassifier) -> None:
    """Keep only each layer's input for the backward pass, and recompute the rest."""
    # Families that generate text cache keys and values: a recomputed layer would find its own there.
    model.encoder.config.use_cache = False
    for layer in encoder_layers(model.encoder):
        # A layer that held its model would keep it in memory until Python collects reference cycles.
        layer.forward = partial(_run_twice, weakref.ref(model), weakref.ref(layer))


def _run_twice(of_model: Any, of_layer: Any, *args: Any, **kwargs: Any) -> Any:
    model, layer = of_model(), of_layer()
    forward = partial(type(layer).forward, layer)
    device = model.head.weight.device
    # On CUDA all masks are drawn from the device's own generator.
    draws = torch.cuda.default_generators[device.index] if device.type == "cuda" else model.generator
    contexts = partial(_contexts, draws)
    # torch's own replay would also set the CPU's global generator, while other threads use it.
    return checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs
    )


def _contexts(
    generator: torch.Generator | None,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    if generator is None:
        return nullcontext(), nullcontext()
    return nullcontext(), _replayed(generator, generator.get_state())


@contextmanager
def _replayed(generator: torch.Generator, state: torch.Tensor) -> Iterator[None]:
    """Draw the dropout masks of the forward pass again, then restore the generator's state."""
    now = generator.get_state()
    generator.set_state(state)
    try:
        with DrawsFrom(generator) if generator.device.type == "cpu" else nullcontext():
            yield
    finally:
        generator.set_state(now)
