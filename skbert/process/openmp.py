"""Release, at the end of a call, what it would leave behind: OpenMP's thread pools and MKL's memory.

torch splits an operation on a CPU among a pool of threads. Each Python thread has a pool of its own, from its
first operation until it ends. With GNU's OpenMP, which torch's Linux wheels have, the threads of a pool spin
while they wait for the next operation. But if all pools together have more threads than the machine has
processors, the threads go to sleep after every operation, even if the other pools are idle. So once a second
thread has computed anything, as in a server, small operations wait for threads to wake up, and a fit takes
half as long again. The next operation recreates a released pool, in some ten microseconds per thread: too
long for short calls of a program that has no other thread.

Intel's MKL, which torch's Linux wheels multiply with, keeps memory for each thread, and frees it as the
thread ends: a pool's threads as it is released, others when Python has already forgotten them. Meanwhile it
holds the locks of all threads, and a process forked at this moment would wait for them forever. So a fork
waits for the release of a pool, and memory is freed earlier, as Python clears what is local to the thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from skbert.process import forks
from skbert.process.scopes import scope

_SOFT = 1  # omp_pause_soft of omp.h
_SHORT = 0.02  # seconds


@scope
def threads_given_back() -> Iterator[None]:
    """Let a block or a decorated function leave no pool, unless it was short and no other thread runs."""
    begin = time.monotonic()
    try:
        yield
    finally:
        if threading.active_count() > 1 or time.monotonic() - begin > _SHORT:
            _give_back()


def _give_back() -> None:
    """End the pool of the calling thread, if it has one, and have its memory freed as it ends.

    In a forked process, the pool of the thread that forked consists of threads that do not exist there;
    ending it would wait for them.
    """
    pause = None if forks.torch_was_forked else _pause_function()
    if pause is not None:
        with _lock:
            pause(_SOFT)
    if threading.current_thread() is not threading.main_thread() and not hasattr(_local, "memory"):
        _local.memory = _Memory()


class _Memory:
    """MKL's memory of the thread that made this object, freed with it."""

    def __init__(self) -> None:
        self.thread, self.free = threading.get_ident(), _free_function()

    def __del__(self) -> None:
        # A forked process clears the threads that it has not.
        if self.free is not None and self.thread == threading.get_ident():
            with _lock:
                self.free()


@cache
def _pause_function() -> Any:
    """`omp_pause_resource_all` of the library that torch computes with, if that is GNU's; else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(torch._C.__file__)  # its dependencies are searched, too
    if hasattr(library, "__kmpc_fork_call"):  # LLVM's or Intel's, whose threads do not count each other
        return None
    return getattr(library, "omp_pause_resource_all", None)


@cache
def _free_function() -> Any:
    """`mkl_thread_free_buffers`, by the name that MKL has for it inside torch; None if torch has no MKL."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(torch._C.__file__), "mkl_serv_thread_free_buffers", None)


def _wait() -> None:
    _lock.acquire()


def _go_on() -> None:
    _lock.release()


_local = threading.local()
_lock = threading.RLock()  # as a signal's handler may fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait, after_in_parent=_go_on)
forks.renew(globals(), _lock=threading.RLock)
