"""What may watch a fit: the progress bar, scikit-learn's callbacks, and anything that implements `Watcher`.

The loop calls `fit_begin`, then for each epoch `epoch_begin`, `step` after every optimizer step and
`epoch_end`, then `fit_end`. `skip` follows `epoch_begin` where a fit resumes in the middle of an epoch. Null
objects replace `if watcher is not None`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from skbert.progress import Bar

if TYPE_CHECKING:
    import torch

F = TypeVar("F", bound=Callable[..., Any])

try:
    from sklearn import callback as sklearn_callback
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin  # to be imported from here

    HAS_CALLBACKS = True
except ImportError:  # scikit-learn < 1.9 has no callbacks
    HAS_CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's own."""


def with_callbacks(method: F) -> F:
    """Apply scikit-learn's own decorator where it has callbacks; type checkers see the method unchanged."""
    return cast(F, sklearn_callback.with_callbacks(method)) if HAS_CALLBACKS else method


class Watcher:
    """Watches nothing: the silent default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close whatever is shown, also after an error."""

    def fit_begin(self, epochs: int, n_texts: int) -> None:
        """Called before the first step."""

    def epoch_begin(self, epoch: int) -> None:
        """Called before each epoch, counted from 0; a resumed fit begins with the interrupted one."""

    def skip(self, n_texts: int, loss: torch.Tensor) -> None:
        """Called after `epoch_begin` of an epoch that an interrupted fit had begun.

        Parameters
        ----------
        n_texts : int
            Texts that were seen then.
        loss : Tensor
            The sum of their losses.
        """

    def step(self, n_texts: int, loss: torch.Tensor, learning_rate: float) -> None:
        """Called after every optimizer step; reading the loss makes a GPU wait."""

    def epoch_end(self, record: dict[str, float], result: Callable[[], Any]) -> bool:
        """Called after every epoch; True ends the fit.

        Parameters
        ----------
        record : dict
            "epoch" (from 1), "loss" and, if there is validation, "validation_score".
        result : callable
            Returns the result as it would be if training ended here: with a copy of the weights.
        """
        return False

    def fit_end(self, result: Callable[[], Any]) -> None:
        """Called after the last epoch; `result` as in `epoch_end`."""


class Watchers(Watcher):
    """Several watchers, any of which may end the fit; they get what `finish` makes of a `TrainingResult`."""

    def __init__(
        self, watchers: Iterable[Watcher], finish: Callable[[Any], Any] = lambda result: result
    ) -> None:
        self._watchers, self._finish = list(watchers), finish
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for watcher in self._watchers:
            self._open.enter_context(watcher)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def fit_begin(self, epochs: int, n_texts: int) -> None:
        """Notify all watchers."""
        for watcher in self._watchers:
            watcher.fit_begin(epochs, n_texts)

    def epoch_begin(self, epoch: int) -> None:
        """Notify all watchers."""
        for watcher in self._watchers:
            watcher.epoch_begin(epoch)

    def skip(self, n_texts: int, loss: torch.Tensor) -> None:
        """Notify all watchers."""
        for watcher in self._watchers:
            watcher.skip(n_texts, loss)

    def step(self, n_texts: int, loss: torch.Tensor, learning_rate: float) -> None:
        """Notify all watchers."""
        for watcher in self._watchers:
            watcher.step(n_texts, loss, learning_rate)

    def epoch_end(self, record: dict[str, float], result: Callable[[], Any]) -> bool:
        """Notify all watchers, including those after one that ends the fit."""
        return any([watcher.epoch_end(record, lambda: self._finish(result())) for watcher in self._watchers])

    def fit_end(self, result: Callable[[], Any]) -> None:
        """Notify all watchers."""
        for watcher in self._watchers:
            watcher.fit_end(lambda: self._finish(result()))


class ProgressBar(Watcher):
    """One tqdm bar per epoch: texts seen, texts per second, time left, mean loss so far, learning rate."""

    _SECONDS_BETWEEN_LOSSES = 1.0  # reading a loss makes a GPU wait

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def fit_begin(self, epochs: int, n_texts: int) -> None:
        """Remember how long the bars will be."""
        self._epochs, self._n_texts = epochs, n_texts

    def epoch_begin(self, epoch: int) -> None:
        """Start a bar."""
        self._bar = Bar(total=self._n_texts, desc=f"epoch {epoch + 1}/{self._epochs}", unit="text")
        self._sum: Any = 0.0
        self._read_at = time.monotonic()

    def skip(self, n_texts: int, loss: torch.Tensor) -> None:
        """Start the bar where the fit was interrupted."""
        assert self._bar is not None
        self._sum = self._sum + loss
        self._bar.update(n_texts)

    def step(self, n_texts: int, loss: torch.Tensor, learning_rate: float) -> None:
        """Advance the bar; now and then show the mean loss so far."""
        assert self._bar is not None
        self._sum = self._sum + loss * n_texts
        self._bar.update(n_texts)
        if time.monotonic() - self._read_at > self._SECONDS_BETWEEN_LOSSES:
            mean = float(self._sum) / self._bar.n
            self._bar.note(loss=f"{mean:.4f}", rate=f"{learning_rate:.1e}")
            self._read_at = time.monotonic()

    def epoch_end(self, record: dict[str, float], result: Callable[[], Any]) -> bool:
        """Show the results of the epoch, and close the bar."""
        assert self._bar is not None
        self._bar.note(**{name: f"{value:.4f}" for name, value in record.items() if name != "epoch"})
        self._bar.close()
        return False


class ScikitLearnCallbacks(Watcher):
    """Notifies the callbacks that `set_callbacks` gave an estimator (scikit-learn 1.9).

    Parameters
    ----------
    estimator : estimator
        With scikit-learn's CallbackSupportMixin.
    data : dict
        "X", "y" and "metadata" of `fit`, for the callbacks that ask for them.
    attributes : callable
        FittedModel → the fitted attributes of an estimator whose training ended there.
    """

    def __init__(
        self, estimator: Any, data: dict[str, Any], attributes: Callable[[Any], dict[str, Any]]
    ) -> None:
        self._about = {"estimator": estimator, **data}
        self._attributes = attributes
        self._begun = 0  # epochs

    def fit_begin(self, epochs: int, n_texts: int) -> None:
        """Begin the task "fit"."""
        self._fit = self._about["estimator"]._init_callback_context(max_subtasks=epochs)
        self._fit.call_on_fit_task_begin(**self._about)

    def epoch_begin(self, epoch: int) -> None:
        """Begin a task "epoch" in the fit; its task_id is the epoch's number, even where a fit is resumed."""
        while self._begun <= epoch:
            self._epoch = self._fit.subcontext(task_name="epoch")
            self._begun += 1
        self._epoch.call_on_fit_task_begin(**self._about)

    def epoch_end(self, record: dict[str, float], result: Callable[[], Any]) -> bool:
        """End the task "epoch"; a callback may end the fit."""
        return bool(self._end(self._epoch, result))

    def fit_end(self, result: Callable[[], Any]) -> None:
        """End the task "fit"."""
        self._end(self._fit, result)

    def _end(self, task: Any, result: Callable[[], Any]) -> Any:
        return task.call_on_fit_task_end(
            **self._about, reconstruction_attributes=lambda: self._attributes(result())
        )
