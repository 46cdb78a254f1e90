"""numpy's floating-point errors, ignored while a function runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def ignoring_float_errors(function: Callable[P, R]) -> Callable[P, R]:
    """The function; where it divides by zero, overflows, underflows or has no result, numpy goes on.

    It neither warns nor raises, whatever the caller has set. That is set again afterwards, even if Ctrl-C
    prevents the exit of `np.errstate`, which is written in Python (`scopes.py` explains why that matters).
    """

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        before = np.geterr()
        try:
            with np.errstate(all="ignore"):
                return function(*args, **kwargs)
        finally:
            try:
                np.seterr(**before)
            finally:
                np.seterr(**before)

    return inside
