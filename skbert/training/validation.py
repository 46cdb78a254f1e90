"""Scores on held-out texts after each epoch, early stopping, and the best epoch's weights.

1. `hold_out` splits rows off the training texts, stratified by class; of an indicator matrix, or of numbers,
   at random.
2. After each epoch the model in training is run over the held-out texts, and `scoring.Judge` scores what it
   gives. Higher is better.
3. The best epoch's weights (of equal ones the last) are kept in memory, and put back at the end.
   `should_stop` tells when no epoch out of `patience` was better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import train_test_split

from skbert.data.encoding import Encodings
from skbert.data.numbers import are_numbers
from skbert.exceptions import InputError
from skbert.inference import run_working_model
from skbert.runtime import Runtime
from skbert.training.ranks import current

if TYPE_CHECKING:
    import torch

    from skbert.network.model import SequenceClassifier
    from skbert.training.optimizer import MasterAdamW


class Validation:
    """Scores nothing and never stops: a fit without held-out texts."""

    encodings: Encodings | None = None
    should_stop = False
    best: tuple[list[torch.Tensor], float] | None = None  # the best epoch's weights, as `snapshot` gives them

    def __init__(self) -> None:
        self.scores: list[float] = []

    def check(self, model: SequenceClassifier) -> None:
        """Try the scorer before the first step, so that a bad one costs nothing."""

    def after_epoch(self, model: SequenceClassifier, optimizer: MasterAdamW) -> None:
        """Score the model, and keep its weights if they are the best so far."""

    def restore_best(self, optimizer: MasterAdamW) -> None:
        """Put the weights of the best epoch back."""


class HeldOutValidation(Validation):
    """Scores every epoch on held-out texts.

    Parameters
    ----------
    encodings : Encodings
        Of the held-out texts.
    judge : callable
        What a model gives for them → score.
    patience : int or None
        Epochs without a better score before `should_stop`; None never stops.
    runtime : Runtime
    """

    def __init__(
        self,
        encodings: Encodings,
        judge: Callable[[np.ndarray], float],
        patience: int | None,
        runtime: Runtime,
    ) -> None:
        super().__init__()
        self.encodings = encodings
        self.judge = judge
        self.patience = patience
        self.runtime = runtime

    @property
    def should_stop(self) -> bool:  # type: ignore[override]  # a constant in the base, which never stops
        """Whether the last `patience` epochs brought no better score."""
        if self.patience is None:
            return False
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= self.patience

    def check(self, model: SequenceClassifier) -> None:
        """Score once before the first step: a scorer that fails or gives NaN is named at once."""
        self._score(model)

    def after_epoch(self, model: SequenceClassifier, optimizer: MasterAdamW) -> None:
        """Score, and keep the weights of the best epoch so far.

        Of equal ones it is the last: few texts cannot tell epochs apart, and later ones have learned more.
        """
        self.scores.append(current().first(self._score(model)))
        if _best(self.scores) == len(self.scores) - 1:
            self.best = optimizer.snapshot()

    def restore_best(self, optimizer: MasterAdamW) -> None:
        """Put the best epoch's weights back, unless the last epoch was the best."""
        if _best(self.scores) != len(self.scores) - 1:
            assert self.best is not None
            optimizer.load_snapshot(self.best)

    def _score(self, model: SequenceClassifier) -> float:
        assert self.encodings is not None
        return self.judge(run_working_model(model.eval(), self.encodings, self.runtime))


def hold_out(codes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Split rows into training and validation, stratified by class.

    Where there are too few rows for that, one row of each class stays in training and the validation rows
    are drawn from the others, without regard to classes.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,) or (n_samples, n_labels)
        An indicator matrix is split at random, less one text of each label, which stays in training if that
        leaves enough; numbers altogether at random.
    fraction : float
        Of the rows for validation.
    seed : int

    Returns
    -------
    training, validation : ndarray of int
    complete : bool
        Whether the validation rows hold every class.
    """
    if codes.ndim == 2:
        return _hold_out_at_random(codes, fraction, seed)
    n_rows, classes, counts = len(codes), *np.unique(codes, return_counts=True)
    n_validation = round(fraction * n_rows)
    if not 0 < n_validation <= n_rows - len(classes):
        raise InputError(
            f"validation_fraction={fraction} of {n_rows} texts is {n_validation} texts for validation, which "
            f"leaves no text there or less than one of each of the {len(classes)} classes for training. Use "
            "another fraction, more texts, or early_stopping=False."
        )
    rows = np.arange(n_rows)
    training = rows[:0]
    if counts.min() > 1 and len(classes) <= n_validation:
        training, validation = train_test_split(
            rows, test_size=n_validation, stratify=codes, random_state=seed
        )
    if len(np.unique(codes[training])) < len(classes):  # a rare one may be on the larger side alone
        order = np.random.default_rng(seed).permutation(n_rows)
        one_of_each = order[np.unique(codes[order], return_index=True)[1]]
        validation = order[~np.isin(order, one_of_each)][:n_validation]
        training = np.setdiff1d(rows, validation)
    complete = len(np.unique(codes[validation])) == len(classes)
    return np.sort(training), np.sort(validation), complete


def _hold_out_at_random(codes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    n_validation = round(fraction * len(codes))
    if not 0 < n_validation < len(codes):
        raise InputError(
            f"validation_fraction={fraction} of {len(codes)} texts is {n_validation} texts for validation: "
            "one side would be empty. Use another fraction, more texts, or early_stopping=False."
        )
    order = np.random.default_rng(seed).permutation(len(codes))
    if are_numbers(codes):
        return np.sort(order[n_validation:]), np.sort(order[:n_validation]), True
    # One text of each label goes to the end of the queue: training should see what validation asks for.
    occurring = np.flatnonzero(codes.any(axis=0))
    last = np.isin(order, order[codes[order][:, occurring].argmax(axis=0)])
    order = np.concatenate([order[~last], order[last]])
    training, validation = np.sort(order[n_validation:]), np.sort(order[:n_validation])
    return training, validation, bool(codes[validation][:, occurring].any(axis=0).all())


def _best(scores: list[float]) -> int:
    return max(range(len(scores)), key=lambda epoch: (scores[epoch], epoch))
