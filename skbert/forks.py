"""Forked processes: locks that threads may have held which are not in them, and torch's threads.

A server that forks workers while a thread of it predicts would leave them with a lock that nobody lets go. So
a forked process makes them anew (`renew`), or there are none (`lazy`). Nor has it torch's threads
(`torch_was_forked`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")
_FORKED = 0x40  # PF_FORKNOEXEC of Linux: forked, and no program started since


def renew(namespace: dict[str, Any], **makers: Callable[[], Any]) -> None:
    """Give names of a module or an object new values in every process that is forked from this one.

    Parameters
    ----------
    namespace : dict
        `globals()` of the module, or `vars` of the object.
    **makers : callable
        Makes the value of that name.
    """

    def made_anew() -> None:
        namespace.update({name: make() for name, make in makers.items()})

    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=made_anew)


def _was_forked() -> bool:
    """Whether this process was forked, and by whomever; False where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _FORKED)


# Whether torch was forked with this process: of the threads that it may have had, none is here. This module
# is imported with the package; what was loaded before that may have been loaded before a fork, too.
torch_was_forked = _was_forked() and "torch" in sys.modules
renew(globals(), torch_was_forked=lambda: "torch" in sys.modules)


class lazy(Generic[T]):  # noqa: N801  # it is written as a decorator, as `property` is
    """`functools.cached_property` without a lock: up to Python 3.11 all instances and threads share one.

    Two threads that ask an instance at once may both compute the value, and get the same one of the two.

    Parameters
    ----------
    compute : callable
        A method without arguments.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        """The value, which the instance keeps under the name of the method."""
        if instance is None:
            return self
        return vars(instance).setdefault(self.name, self.compute(instance))
