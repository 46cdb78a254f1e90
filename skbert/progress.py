"""A bar on stderr for a pass over many texts, if `verbose` asks for it; short passes show none.

The bars of epochs belong to a watcher (`training/callbacks.py`). Whatever happens to stderr, the pass
continues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from skbert.process.signal_errors import raise_if_of_a_handler

_SECONDS = 1.0  # a pass that takes no longer shows nothing


class Bar:
    """A tqdm bar that falls silent once nobody reads its output, as with ``| head``.

    Parameters
    ----------
    **settings
        tqdm's.
    """

    def __init__(self, **settings: Any) -> None:
        from tqdm.auto import tqdm

        self.n = 0  # texts so far
        self._is_read = True
        self._bar: Any = None
        self._tell(lambda: setattr(self, "_bar", tqdm(**settings)))

    def update(self, n_texts: int) -> None:
        """Advance by this many texts."""
        self.n += n_texts
        self._tell(lambda: self._bar.update(n_texts))

    def note(self, **shown: str) -> None:
        """Write something after the bar."""
        self._tell(lambda: self._bar.set_postfix(shown))

    def close(self) -> None:
        """Close the bar, and leave it as it is."""
        self._tell(lambda: self._bar.close())

    def _tell(self, what: Callable[[], None]) -> None:
        if not self._is_read:
            return
        try:
            what()
        except Exception as error:  # of any type: the stream may be anyone's, or closed, or None
            raise_if_of_a_handler(error)
            self._is_read = False
            if self._bar is not None:
                self._bar.disable = True  # else it would try again when it is deleted


class Progress:
    """Progress of a pass over texts.

    Parameters
    ----------
    what : str, default=""
        Name of the bar.
    n_texts : int, default=0
        Number of texts in the pass.
    verbose : int, default=0
        0 shows nothing.
    """

    def __init__(self, what: str = "", n_texts: int = 0, verbose: int = 0) -> None:
        self.verbose = verbose
        self._n_texts = n_texts
        self._seen = 0.0
        self._bar = Bar(total=n_texts, desc=what, unit="text", delay=_SECONDS) if verbose else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Close the bar, filling it up if the pass was completed: equal texts were counted only once."""
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._n_texts - self._bar.n)
            self._bar.close()

    def move(self, n_texts: float) -> None:
        """Advance by this many texts; a window of a text counts as a part of it."""
        if self._bar is not None:
            self._seen += n_texts
            self._bar.update(round(self._seen) - self._bar.n)


SILENT = Progress()
