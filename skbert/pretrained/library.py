"""transformers, handed to one thread at a time. The only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skbert.runtime import building


@contextmanager
def quiet() -> Iterator[Any]:
    """Give transformers to one thread at a time, without its load report and progress bars.

    All use of it goes through here, its import, too: it imports its parts when they are first asked for, and
    fails if two threads ask.
    """
    with building():
        import transformers
        from transformers.utils import logging

        verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield transformers
        finally:
            logging.set_verbosity(verbosity)
            if shown:
                logging.enable_progress_bar()
