"""What may watch a fit. Null objects instead of `if progress is not None`."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Progress:
    """Watches nothing: the silent default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close whatever is shown, also after an error."""

    def step(self, n_texts: int) -> None:
        """Called after every optimizer step."""

    def epoch_end(self, epoch: int, loss: float) -> None:
        """Called after every epoch with its mean loss."""


class ProgressBar(Progress):
    """One tqdm bar per fit: texts seen, texts a second, remaining time, loss of the last epoch.

    Parameters
    ----------
    epochs : int
    n_texts : int
        Texts in one epoch.
    """

    def __init__(self, epochs: int, n_texts: int) -> None:
        from tqdm.auto import tqdm

        self.epochs = epochs
        self._bar = tqdm(total=epochs * n_texts, desc=f"epoch 1/{epochs}", unit="text")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def step(self, n_texts: int) -> None:
        """Move the bar on."""
        self._bar.update(n_texts)

    def epoch_end(self, epoch: int, loss: float) -> None:
        """Show the loss, and the number of the next epoch."""
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.set_description(f"epoch {min(epoch + 1, self.epochs)}/{self.epochs}")


def make_progress(verbose: int, epochs: int, n_texts: int) -> Progress:
    """The progress display that `verbose` asks for."""
    return ProgressBar(epochs, n_texts) if verbose else Progress()
