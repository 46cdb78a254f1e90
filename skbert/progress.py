"""A bar on stderr for a pass over many texts, where `verbose` asks for it; silent where it is short.

The bars of epochs are a watcher's (`training/callbacks.py`).
"""

from __future__ import annotations

from typing import Any, Self

_SECONDS = 1.0  # a pass that takes no longer shows nothing


class Progress:
    """How far a pass over texts has come.

    Parameters
    ----------
    what : str, default=""
        Name of the bar.
    n_texts : int, default=0
        That the pass is over.
    verbose : int, default=0
        0 shows nothing.
    """

    def __init__(self, what: str = "", n_texts: int = 0, verbose: int = 0) -> None:
        self.verbose = verbose
        self._n_texts = n_texts
        self._seen = 0.0
        self._bar: Any = None
        if verbose:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=n_texts, desc=what, unit="text", delay=_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Close the bar, at its end if the pass came to its own: equal texts were counted once."""
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._n_texts - self._bar.n)
            self._bar.close()

    def move(self, n_texts: float) -> None:
        """Move on by so many texts; a window of a text counts as a part of it."""
        if self._bar is not None:
            self._seen += n_texts
            self._bar.update(round(self._seen) - self._bar.n)


SILENT = Progress()
