"""Memory that the steps of a fit free stays with the process until the fit ends.

A step frees what its forward pass has kept, and the next one asks for as much. In between glibc returns it to
the system, which clears every page again when it is next touched. This time matters where matrix products are
fast. (Measure it in separate processes: fits in one process share a heap that has already grown.) Therefore

1. while any fit runs, glibc keeps what is freed, and makes no separate mapping for blocks below 32 MiB;
2. after the last one it uses the thresholds that it sets by itself once a block of 32 MiB has been freed
   (mallopt(3), under M_MMAP_THRESHOLD): beyond 64 MiB, freed memory is then returned as usual. What the
   thresholds were before cannot be queried.

Returning everything at the end (`malloc_trim`) would cost the next fit what this one has saved.

Settings in `MALLOC_*` or `GLIBC_TUNABLES` are the user's: if they are set, or without glibc, nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from skbert.process.forks import renew
from skbert.process.scopes import scope

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER = -1
_LARGEST = 32 << 20  # bytes; DEFAULT_MMAP_THRESHOLD_MAX, and glibc's own trim threshold is twice that


@scope
def freed_memory_kept() -> Iterator[None]:
    """Make a block, or a decorated function, reuse the same memory again and again."""
    fit = object()
    try:
        with _lock:
            _running.add(fit)
            _set_thresholds(trim=_NEVER)
        yield
    finally:
        with _lock:
            _running.discard(fit)
            if not _running:
                _set_thresholds(trim=2 * _LARGEST)


def _set_thresholds(trim: int) -> None:
    if _libc is not None:
        _libc.mallopt(_TRIM_THRESHOLD, trim)
        _libc.mallopt(_MMAP_THRESHOLD, _LARGEST)


def _find_libc() -> Any:
    """The C library, if it is glibc and its thresholds are its own; else None."""
    if sys.platform != "linux" or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None  # musl has none


def _none_running() -> set[object]:
    """For a forked process: the fits of its parent do not continue in it."""
    if _running:
        _set_thresholds(trim=2 * _LARGEST)
    return set()


_libc = _find_libc()
_lock = threading.Lock()
_running: set[object] = set()
renew(globals(), _lock=threading.Lock, _running=_none_running)
