"""Errors and warnings of skbert.

Each error is both an `SkbertError` and the built-in that people already catch::

    SkbertError
    ├── InputError             (ValueError)      texts, labels, weights or parameters that cannot be used
    │   └── InputTypeError     (TypeError too)   a cell or a container of the wrong type
    ├── CheckpointError        (OSError, ValueError)  weights or tokenizer missing or incomplete
    ├── PersistenceError       (ValueError)      a model file that cannot be written or read exactly
    ├── NonFiniteLossError     (ArithmeticError) the training loss became NaN or infinite
    ├── NonFiniteOutputError   (ArithmeticError) a model gives NaN or infinity for a text
    ├── InsufficientMemoryError (MemoryError)    a single text does not fit into memory
    ├── MissingExtraError      (ImportError)     a parameter needs an optional dependency
    └── RankError              (RuntimeError)    ranks of one fit differ, or one of them failed

    SkbertWarning              (UserWarning)
    ├── TruncationWarning      texts longer than `max_length` were cut
    ├── UnknownTokensWarning   the tokenizer does not know much of the texts
    ├── CollapseWarning        the fitted model predicts the same for every text
    └── CacheWarning           a folder of `memory` cannot be written, or a file in it cannot be read
"""

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from traceback import walk_tb
from types import FrameType
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


def raise_if_of_a_handler(error: Exception) -> None:
    """Let go on what a signal's handler raised, such as a time limit: it says nothing of a file or a disk.

    Libraries may have made another error of it. A TimeoutError without a number is nobody else's either: the
    system's own have one, and those of libraries are of types of theirs.
    """
    own = type(error) is TimeoutError and error.errno is None
    found = error if own else _of_a_handler(error, sys._getframe(1))
    if found is None:
        return
    if found is not error:
        error.__cause__ = error.__context__ = None  # they would keep each other in memory
    try:
        raise found
    finally:
        del error, found  # and so would this frame


def _of_a_handler(error: BaseException, frame: FrameType | None) -> BaseException | None:
    """The error, or one that it came from, if a handler raised it; `frame` is where it was caught."""
    running = set()
    while frame is not None:
        running.add(frame)
        frame = frame.f_back
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    for each in _chain(error, running):
        for place, _line in walk_tb(each.__traceback__):
            # Locals of a frame that still runs would be kept with it.
            if place not in running and (place.f_code in handlers or _is_given_its_caller(place)):
                return each
    return None


def _chain(error: BaseException, running: set[FrameType]) -> Iterator[BaseException]:
    """An error and those that it came from, but for what callers were handling already."""
    seen = [error]
    yield error
    while True:
        last = seen[-1]
        inner = last.__context__ if last.__cause__ is None else last.__cause__
        if inner is None or any(inner is other for other in seen):
            return
        if inner.__traceback__ is None or inner.__traceback__.tb_frame in running:
            return
        seen.append(inner)
        yield inner


def _is_given_its_caller(frame: FrameType) -> bool:
    """As a handler is, which is called between two steps of the frame that it is given."""
    if frame.f_back is None:
        return False
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return any(frame.f_locals.get(name) is frame.f_back for name in names)


def _code(handler: Any) -> Any:
    """What runs when Python calls a handler; None if that is not Python's code."""
    while isinstance(handler, partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)


class SkbertError(Exception):
    """Base of the errors of estimators; those that scikit-learn raises come as they are."""


class InputError(SkbertError, ValueError):
    """Texts, labels, weights or parameters that cannot be used as given."""


class InputTypeError(InputError, TypeError):
    """A cell or a container of a type that is not text."""


class CheckpointError(SkbertError, OSError, ValueError):
    """A checkpoint that cannot be found, or whose files are incomplete."""


class PersistenceError(SkbertError, ValueError):
    """A model that cannot be written exactly, or a file that is not one, or not one any more."""


class NonFiniteLossError(SkbertError, ArithmeticError):
    """The training loss became NaN or infinite; nothing of the fit was kept."""


class NonFiniteOutputError(SkbertError, ArithmeticError):
    """A model gives NaN or infinity for a text, of which no label and no probability can be made."""


class InsufficientMemoryError(SkbertError, MemoryError):
    """A single text does not fit into the memory of the device."""


class MissingExtraError(SkbertError, ImportError):
    """An optional dependency that a parameter needs is not installed."""


class RankError(SkbertError, RuntimeError):
    """The processes of one fit (torchrun) were not given the same, or one of them failed or is gone."""


class SkbertWarning(UserWarning):
    """Base of every warning that skbert gives."""


def warn(message: str, category: type[Warning] = SkbertWarning) -> None:
    """Give a warning that points at the line that called skbert."""
    frame, level = sys._getframe(1), 3  # the level of the caller of `frame`
    # Decorators of scikit-learn and of contextlib stand between functions of skbert.
    inside = ("skbert.", "sklearn.callback", "contextlib")
    while frame.f_back is not None and frame.f_back.f_globals.get("__name__", "").startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class TruncationWarning(SkbertWarning):
    """Texts longer than `max_length` tokens were cut."""


class UnknownTokensWarning(SkbertWarning):
    """The checkpoint's tokenizer does not know much of the training texts."""


class CollapseWarning(SkbertWarning):
    """A fit ended with a model that predicts the same for every text."""


class CacheWarning(SkbertWarning):
    """A folder of `memory` cannot be written, or a file in it is damaged; the fit goes on without."""
