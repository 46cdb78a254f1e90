"""Forked processes: locks held by threads that a fork does not copy, and torch's threads.

A server that forks workers while one of its threads predicts would leave them with a lock that is never
released. So a forked process creates its locks anew (`renew`), or none are used (`lazy`). Torch's threads
are missing there, too (`torch_was_forked`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_FORKED = 0x40  # PF_FORKNOEXEC of Linux: forked, and no program started since


def renew(namespace: dict[str, Any], **makers: Callable[[], Any]) -> None:
    """Give names of a module or an object new values in every process forked from this one.

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
    """Whether this process was forked, by any code; False where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _FORKED)


# Whether torch was loaded when this process was forked: any threads it had are then missing here. This module
# is imported with the package; a module loaded before that may have been loaded before the fork, too.
torch_was_forked = _was_forked() and "torch" in sys.modules
renew(globals(), torch_was_forked=lambda: "torch" in sys.modules)


class lazy(Generic[T]):  # noqa: N801  # it is used as a decorator, as `property` is
    """`functools.cached_property` without its lock, which up to Python 3.11 all instances and threads share.

    Two threads that access it on one instance at once may both compute the value, but get the same object.

    Parameters
    ----------
    compute : callable
        A method without arguments.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: object | None, owner: type) -> T:
        """The value, which is stored on the instance under the method's name."""
        if instance is None:
            return self  # type: ignore[return-value]  # only where somebody looks at the class
        return vars(instance).setdefault(self.name, self.compute(instance))
