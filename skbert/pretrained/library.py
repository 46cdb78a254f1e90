"""Access to transformers, for one thread at a time. The only module that imports it."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

from skbert.process.scopes import keeping, scope
from skbert.randomness import building

# The lock of all loggers and their levels, which has no public name; without it, one that nobody holds.
_LOCK: Any = vars(logging).get("_lock", threading.RLock())


@scope
def quiet() -> Iterator[Any]:
    """Give transformers to one thread at a time, without its load report and progress bars.

    All use of transformers goes through here, including its import: it imports its parts when they are first
    accessed, and fails if two threads do so at once.
    """
    if sys.flags.optimize > 1:
        raise ImportError(
            "transformers reads docstrings when it is imported, but python -OO (PYTHONOPTIMIZE=2) removes "
            "them. Start Python with -O at most."
        )
    with building():
        import transformers

        before = _Loudness()
        with keeping(before):
            before.logging.set_verbosity_error()
            before.logging.disable_progress_bar()
            yield transformers


def import_family(family: str) -> None:
    """Import the modules of a family; a failure here says nothing about a file that names the family."""
    name = family.replace("-", "_")
    with quiet():
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")


class _Loudness:
    """How much transformers prints: its logger's level, and its progress bars, which are the hub's, too."""

    def __init__(self) -> None:
        from huggingface_hub import utils as hub
        from transformers.utils import logging as logging_of_transformers

        self.lock_was_held, self.is_back = _LOCK._is_owned(), False
        self.logging, self.hub = logging_of_transformers, hub
        self.verbosity, self.shown = self.logging.get_verbosity(), self.logging.is_progress_bar_enabled()
        self.hub_silent = hub.are_progress_bars_disabled()

    def put_back(self) -> None:
        """Restore what was found."""
        # Up to Python 3.12 Ctrl-C can leave the lock of `setLevel` held: other threads would wait for ever.
        while _LOCK._is_owned() and not self.lock_was_held:
            _LOCK.release()
        if not self.is_back:  # level and caches of the loggers; repeating it would repeat the risk
            self.logging.set_verbosity(self.verbosity)
            self.is_back = True
        if self.shown:
            self.logging.enable_progress_bar()
        if self.hub_silent and not self.hub.are_progress_bars_disabled():
            self.hub.disable_progress_bars()
