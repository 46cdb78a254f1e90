"""OpenMP's pools of threads, which a call leaves behind, given back at its end.

torch shares an operation on a CPU among a pool of threads. Each thread of Python has a pool of its own, from
its first operation until it ends. With GNU's OpenMP, which torch's wheels for Linux have, the threads of a
pool spin while they wait for the next operation; but where all pools together have more threads than the
machine has processors, they go to sleep after every one, also if the other pools have nothing to do. So once
a second thread has computed anything, as in a server, small operations wait to be woken, and a fit takes half
as long again. A pool that is given back is made again by the next operation, in some ten microseconds a
thread: too long for short calls of a program that has no other thread.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from skbert import forks
from skbert.scopes import scope

_SOFT = 1  # omp_pause_soft of omp.h
_SHORT = 0.02  # seconds


@scope
def threads_given_back() -> Iterator[None]:
    """Let a block, or a function that is decorated so, leave no pool, unless it was short and is alone."""
    begin = time.monotonic()
    try:
        yield
    finally:
        if threading.active_count() > 1 or time.monotonic() - begin > _SHORT:
            _give_back()


def _give_back() -> None:
    """End the pool of the thread that calls this, if it has one.

    In a forked process the pool of the thread that has forked is one of threads that are not there, and whose
    end would be waited for.
    """
    pause = None if forks.torch_was_forked else _pause_function()
    if pause is not None:
        pause(_SOFT)


@cache
def _pause_function() -> Any:
    """`omp_pause_resource_all` of the library that torch computes with, if that is GNU's; else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(torch._C.__file__)  # what it depends on is searched, too
    if hasattr(library, "__kmpc_fork_call"):  # LLVM's or Intel's, whose threads do not count each other
        return None
    return getattr(library, "omp_pause_resource_all", None)
