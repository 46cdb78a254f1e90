"""Which errors say that memory ran out, on whatever device, and how they are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skbert.exceptions import InsufficientMemoryError, SkbertError, first_line
from skbert.process.signal_errors import raise_if_of_a_handler


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator", "BLAS_STATUS_ALLOC_FAILED", "out of memory", "Cannot allocate memory")
    if isinstance(error, RuntimeError) and str(error) in _OF_ONEDNN:
        return True
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)


# All that it says if the memory for an operation's machine code, or for a buffer, cannot be had.
_OF_ONEDNN = {
    f"could not {what}" for what in ("create a primitive", "create a memory object", "execute a primitive")
}


@contextmanager
def telling_memory_errors() -> Iterator[None]:
    """Raise an allocation that torch could not make as an InsufficientMemoryError."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        # skbert's own errors may quote such words, of another rank or a path.
        if isinstance(error, SkbertError | MemoryError) or not is_out_of_memory(error):
            raise
        raise _insufficient(error) from error


def _insufficient(error: BaseException) -> InsufficientMemoryError:
    return InsufficientMemoryError(
        f"Memory ran out ({first_line(error)}). Use a smaller model or another device, pass fewer texts at a "
        "time, or end what else needs the memory."
    )


def raise_if_no_fault_of_a_file(error: Exception) -> None:
    """Re-raise a handler's error, and a failed allocation as a MemoryError, which torch's is not."""
    if isinstance(error, MemoryError):
        raise error
    if is_out_of_memory(error) and not isinstance(error, SkbertError):
        raise _insufficient(error) from error
    raise_if_of_a_handler(error)
