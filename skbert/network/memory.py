"""Work that has to fit into the memory there is.

1. `MicroBatches` runs a function over the texts of a batch: all at once, or, when memory ran out, in halves,
   quarters and so on. The number that fitted is kept for the batches to come.
2. `checkpoint_layers` lets a layer's inner activations be computed again in the backward pass instead of
   kept (Chen et al., 2016, arXiv:1604.06174).
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

from skbert.exceptions import InsufficientMemoryError
from skbert.network.layers import encoder_layers
from skbert.network.model import SequenceClassifier
from skbert.randomness import DrawsFrom
from skbert.signal_errors import raise_if_of_a_handler

T = TypeVar("T")


class MicroBatches:
    """Runs a function over the texts of a batch, in as few parts as memory allows.

    Parameters
    ----------
    verbose : int
        1 says on stderr when the parts become smaller.
    """

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
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
            Takes back what parts that succeeded have done, before all of them are repeated.

        Raises
        ------
        InsufficientMemoryError
            If one text alone does not fit.
        """
        while True:
            try:
                return [function(part) for part in self._split(indices)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(min(self.size or len(indices), len(indices)), error)
            # Only here, with the error and the tensors that its traceback holds gone, is there memory again.
            undo()
            gc.collect()  # models of other code may be held by cycles
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _split(self, indices: np.ndarray) -> list[np.ndarray]:
        size = self.size or len(indices)
        return np.split(indices, range(size, len(indices), size))

    def _shrink(self, size: int, error: BaseException) -> None:
        if size == 1:
            raise InsufficientMemoryError(
                f"Memory ran out on a single text ({str(error).splitlines()[0]}). Take a smaller model or "
                "another device; a fit needs less with a lower max_length, gradient_checkpointing=True or "
                "freeze."
            ) from error
        self.size = size // 2
        if self.verbose:
            _say(f"skbert: out of memory with {size} texts, going on with {self.size}")


def _say(message: str) -> None:
    if sys.stderr is None:  # for which tqdm would take stdout
        return
    try:
        tqdm.write(message, sys.stderr)
    except Exception as error:  # nobody reads it
        raise_if_of_a_handler(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator", "BLAS_STATUS_ALLOC_FAILED", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)


def raise_if_out_of_memory(error: Exception) -> None:
    """Let a failed allocation go on as a MemoryError: torch has other types, and no file is to blame."""
    if isinstance(error, MemoryError):
        raise error
    if is_out_of_memory(error):
        raise MemoryError(str(error)) from error


def checkpoint_layers(model: SequenceClassifier) -> None:
    """Keep only each layer's input for the backward pass, and compute the rest again."""
    # Families that generate text keep keys and values: computed again, a layer would find its own there.
    model.encoder.config.use_cache = False
    for layer in encoder_layers(model.encoder):
        # A layer that held its model would keep it in memory, until Python looks for cycles.
        layer.forward = partial(_run_twice, weakref.ref(model), weakref.ref(layer))


def _run_twice(of_model: Any, of_layer: Any, *args: Any, **kwargs: Any) -> Any:
    model, layer = of_model(), of_layer()
    forward = partial(type(layer).forward, layer)
    if model.head.weight.is_cuda:  # all masks are drawn from the device's own generator
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    # To replay the global generators is to set them, under the hands of other threads.
    contexts = partial(_contexts, model)
    return checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs
    )


def _contexts(
    model: SequenceClassifier,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    generator = model.generator
    if generator is None:
        return nullcontext(), nullcontext()
    return nullcontext(), _replayed(generator, generator.get_state())


@contextmanager
def _replayed(generator: torch.Generator, state: torch.Tensor) -> Iterator[None]:
    """Draw the dropout masks of the forward pass again, and go on where the generator was."""
    now = generator.get_state()
    generator.set_state(state)
    try:
        with DrawsFrom(generator):
            yield
    finally:
        generator.set_state(now)
