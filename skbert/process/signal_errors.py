"""Tell errors that a signal handler raised, such as a time limit, from those of files and libraries."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from functools import partial
from traceback import walk_tb
from types import FrameType
from typing import Any


def raise_if_of_a_handler(error: Exception) -> None:
    """Re-raise what a Python signal handler raised (a time limit, for instance): it is no error of a file.

    Libraries may have wrapped it in an error of their own. A TimeoutError without an errno is also taken for
    a handler's: those of the system have one, and libraries use other types.
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
    """The error, or one that caused it, if a handler raised it; `frame` is where it was caught."""
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
    """An error and those that caused it, except those that callers were already handling."""
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
    """Whether a frame got its caller's, as a handler does: it is called between two steps of that frame."""
    if frame.f_back is None:
        return False
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return any(frame.f_locals.get(name) is frame.f_back for name in names)


def _code(handler: Any) -> Any:
    """The code that runs when a handler is called; None if it is not Python code."""
    while isinstance(handler, partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)
