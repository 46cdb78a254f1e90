"""Release, at the end of a call, the OpenMP thread pools that it would leave behind.

torch splits an operation on a CPU among a pool of threads. Each Python thread has a pool of its own, from its
first operation until it ends. With GNU's OpenMP, which torch's Linux wheels have, the threads of a pool spin
while they wait for the next operation. But if all pools together have more threads than the machine has
processors, the threads go to sleep after every operation, even if the other pools are idle. So once a second
thread has computed anything, as in a server, small operations wait for threads to wake up, and a fit takes
half as long again. The next operation recreates a released pool, in some ten microseconds per thread: too
long for short calls of a program that has no other thread.

Intel's MKL, which torch's Linux wheels multiply with, frees a thread's memory as the thread ends: a pool's
threads as the pool is released, Python's own when Python has already forgotten them. Meanwhile it holds the
locks of all threads, and a process forked at this moment would wait for them forever. So a fork waits for
the release of a pool, and for threads that have computed here until the system has ended them.
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
_TIMEOUT = 5.0  # seconds


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
    """End the pool of the calling thread, if it has one.

    In a forked process, the pool of the thread that forked consists of threads that do not exist there;
    ending it would wait for them.
    """
    pause = None if forks.torch_was_forked else _pause_function()
    if pause is not None:
        with _lock:
            pause(_SOFT)
    if threading.current_thread() is not threading.main_thread() and not hasattr(_local, "end"):
        _local.end = _End()


class _End:
    """Deleted by Python when the thread that made it has run all of its code, and is about to end."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def __del__(self) -> None:
        if self.thread == threading.get_ident():  # a forked process deletes those of threads that it has not
            with _lock:
                _ending.difference_update([thread for thread in _ending if not _is_there(thread)])
                _ending.add(threading.get_native_id())


def _is_there(thread: int) -> bool:
    return os.path.exists(f"/proc/self/task/{thread}")


@cache
def _pause_function() -> Any:
    """`omp_pause_resource_all` of the library that torch computes with, if that is GNU's; else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(torch._C.__file__)  # its dependencies are searched, too
    if hasattr(library, "__kmpc_fork_call"):  # LLVM's or Intel's, whose threads do not count each other
        return None
    return getattr(library, "omp_pause_resource_all", None)


def _wait_for_ends() -> None:
    """Let no thread begin to end, and wait for those that do: not for ever, as the system reuses numbers."""
    _lock.acquire()
    begin = time.monotonic()
    while any(map(_is_there, _ending)) and time.monotonic() - begin < _TIMEOUT:
        time.sleep(0.001)


def _go_on() -> None:
    _lock.release()


_local = threading.local()
_ending: set[int] = set()  # native ids
_lock = threading.RLock()  # as a signal's handler may fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_ends, after_in_parent=_go_on)
forks.renew(globals(), _lock=threading.RLock, _ending=set)
