"""Memory that the steps of a fit free stays with the process until the fit ends.

A step frees what its forward pass has kept, and the next one asks for as much. In between glibc gives it back
to the system, which clears every page anew when it is touched again: time that counts where products are
fast. (To be measured in separate processes: fits in one process share a heap that has grown already.) So

1. while any fit runs, glibc keeps what is freed, and makes no mapping of its own for blocks below 32 MiB;
2. after the last one it goes on with the thresholds that it comes to by itself once a block of 32 MiB has
   been freed (mallopt(3), under M_MMAP_THRESHOLD): what is freed then goes back as ever, beyond 64 MiB. What
   the thresholds were before, nobody can ask.

To give all back at the end (`malloc_trim`) would cost the next fit what this one has saved.

Settings of `MALLOC_*` or of `GLIBC_TUNABLES` are the user's: with them, or without glibc, nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from skbert.forks import renew
from skbert.scopes import scope

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER = -1
_LARGEST = 32 << 20  # bytes; DEFAULT_MMAP_THRESHOLD_MAX, of which glibc's own trim threshold is twice as much


@scope
def freed_memory_kept() -> Iterator[None]:
    """Let a block, or a function that is decorated so, use the same memory again and again."""
    fit = object()
    try:
        _begin(fit)
        yield
    finally:
        _end(fit)


def _begin(fit: object) -> None:
    with _lock:
        _running.add(fit)
        _set_thresholds(trim=_NEVER)


def _end(fit: object) -> None:
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
    """For a forked process: the fits of its parent do not go on in it."""
    if _running:
        _set_thresholds(trim=2 * _LARGEST)
    return set()


_libc = _find_libc()
_lock = threading.Lock()
_running: set[object] = set()
renew(globals(), _lock=threading.Lock, _running=_none_running)
