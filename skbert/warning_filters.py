"""Warning filters, which belong to the whole process, changed by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import parallel, parallel_config

from skbert import forks

_filters_lock = threading.RLock()
forks.renew(globals(), _filters_lock=threading.RLock)


@contextmanager
def holding_warning_filters() -> Iterator[None]:
    """For code that changes the filters of warnings, ours or scikit-learn's: one thread at a time.

    Before Python 3.14 `catch_warnings` is of the whole process: two threads that leave it in another order
    than they entered leave filters changed. What runs in here uses joblib in this thread alone: a worker of
    Dask that waits for tasks of its own begins another fit meanwhile, which would wait for this one.
    """
    before = _of_joblib()
    with _filters_lock:
        try:
            with parallel_config("sequential"):
                yield
        finally:  # it is set before the `with` is entered, and stays where Ctrl-C hinders the exit
            try:
                _put_back(before)
            finally:
                _put_back(before)


def _of_joblib() -> Any:
    """What `parallel_config` has set in this thread; None if nothing."""
    return getattr(getattr(parallel, "_backend", None), "config", None)


def _put_back(before: Any) -> None:
    if _of_joblib() is before:
        return
    if before is None:
        del parallel._backend.config
    else:
        parallel._backend.config = before
