"""What a forked process makes anew: locks, which threads may have held that are not in it.

A server that forks workers while a thread of it predicts would leave them with a lock that nobody lets go.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


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
