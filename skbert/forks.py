"""Locks, which threads may have held that are not in a forked process.

A server that forks workers while a thread of it predicts would leave them with a lock that nobody lets go. So
a forked process makes them anew (`renew`), or there are none (`lazy`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


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
