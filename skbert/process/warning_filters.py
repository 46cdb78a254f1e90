"""Warning filters, which belong to the whole process, changed by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import parallel, parallel_config

from skbert.process import forks

_filters_lock = threading.RLock()
forks.renew(globals(), _filters_lock=threading.RLock)


@contextmanager
def holding_warning_filters() -> Iterator[None]:
    """Let one thread at a time run code that changes warning filters, skbert's or scikit-learn's.

    With the GIL, in Python 3.14 and later as a rule, too, `catch_warnings` affects the whole process: two
    threads that leave it in another order than they entered it leave filters changed. Code inside uses joblib
    in this thread only: a Dask worker that waits for tasks of its own meanwhile begins another fit, which
    would wait for this one.
    """
    before = _of_joblib()
    with _filters_lock:
        try:
            with parallel_config("sequential"):
                yield
        finally:  # the config is set before the `with` is entered, and stays if Ctrl-C prevents the exit
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
