"""Scores on held-out texts after each epoch, early stopping, and the best epoch's weights.

1. `hold_out` splits rows off the training texts, stratified by class; of an indicator matrix, or of numbers,
   at random.
2. After each epoch the model in training predicts the held-out texts, and a scikit-learn scorer judges.
   Higher is better, whatever the scorer.
3. The best epoch's weights are kept in memory, and put back at the end. `should_stop` tells when no epoch out
   of `patience` was better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_log_loss_score, get_scorer, log_loss
from sklearn.model_selection import train_test_split

from skbert.data import outputs
from skbert.data.encoding import Encodings
from skbert.data.labels import Labels
from skbert.data.numbers import Numbers, are_numbers
from skbert.exceptions import InputError, holding_warning_filters
from skbert.inference import run_working_model
from skbert.runtime import Runtime
from skbert.training.ranks import current

if TYPE_CHECKING:
    import torch

    from skbert.network.model import SequenceClassifier
    from skbert.training.optimizer import MasterAdamW


# scikit-learn takes the rows of an indicator matrix as probabilities of one label.
_OF_ONE_LABEL = (log_loss, d2_log_loss_score)


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
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Their labels or numbers, as they were given.
    target : Labels or Numbers
        Of the training texts.
    scoring : str, callable or None
        As scikit-learn takes it; None is accuracy, and R² of numbers.
    patience : int or None
        Epochs without a better score before `should_stop`; None never stops.
    runtime : Runtime
    """

    def __init__(
        self,
        encodings: Encodings,
        y: np.ndarray,
        target: Labels | Numbers,
        scoring: str | Callable[..., float] | None,
        patience: int | None,
        runtime: Runtime,
    ) -> None:
        super().__init__()
        default = "r2" if isinstance(target, Numbers) else "accuracy"
        self.scoring = default if scoring is None else scoring
        self._scorer = get_scorer(self.scoring)
        of_one_label = getattr(self._scorer, "_score_func", None) in _OF_ONE_LABEL
        if of_one_label and target.target_type == "multilabel-indicator":
            raise InputError(
                f"scoring={scoring!r} counts the labels that a text has, and not those that it has not: to "
                "predict all of them would score best. For an indicator matrix take another scorer, such as "
                "'f1_macro' or 'average_precision'."
            )
        self.encodings = encodings
        self.y = y
        self.target = target
        self.patience = patience
        self.runtime = runtime

    @property
    def should_stop(self) -> bool:  # type: ignore[override]  # a constant in the base, which never stops
        """Whether the last `patience` epochs brought no better score."""
        return self.patience is not None and len(self.scores) - 1 - _best(self.scores) >= self.patience

    def check(self, model: SequenceClassifier) -> None:
        """Score once before the first step: a scorer that fails or gives NaN is named at once."""
        self._score(model)

    def after_epoch(self, model: SequenceClassifier, optimizer: MasterAdamW) -> None:
        """Score, and keep the weights of the best epoch so far (of equal ones the first)."""
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
        logits = run_working_model(model.eval(), self.encodings, self.runtime)
        predictions = (
            HeldOutNumbers(self.target, logits)
            if isinstance(self.target, Numbers)
            else HeldOutPredictions(self.target, logits)
        )
        try:
            with holding_warning_filters():
                score = float(self._scorer(predictions, None, self.y))
        except (MemoryError, RecursionError):  # say nothing of the scorer
            raise
        except Exception as error:
            remedy = self._remedy(str(error))
            raise InputError(
                f"scoring={self.scoring!r} failed on the validation texts ({error}). {remedy}"
            ) from error
        if math.isnan(score):
            raise InputError(
                f"scoring={self.scoring!r} gave NaN on the {len(self.y)} validation texts. Expected a "
                "number; take another scorer, or more validation texts."
            )
        return score

    def _remedy(self, said: str) -> str:
        """What to do about a scorer that fails, from what it says."""
        if isinstance(self.target, Numbers) and isinstance(self.scoring, str):
            return "Take a scorer of numbers, such as 'r2' or 'neg_mean_absolute_error'."
        if "average=" in said:
            return "Take a scorer of all classes, such as 'f1_macro', or make_scorer with another average."
        if "multi_class" in said:
            return "Take a scorer of all classes, such as 'roc_auc_ovr'."
        if "pos_label" in said:
            return "Take a scorer of both classes, such as 'f1_macro', or make_scorer with a pos_label."
        lacking: list[Any] = []
        if isinstance(self.target, Labels) and self.y.ndim == 1:
            lacking = np.setdiff1d(self.target.classes, self.y).tolist()
        if lacking and hasattr(self._scorer, "_score_func"):  # one of scikit-learn's
            return (
                f"They have no text of {', '.join(map(repr, lacking[:3]))}, which it may need: raise "
                "validation_fraction, or pass X_val and y_val with all classes."
            )
        if isinstance(self.scoring, str):
            return "Take another scorer."
        name = getattr(self.scoring, "__name__", "metric")
        return (
            "Expected a name or a callable that gives one number for (estimator, None, y). Of a metric, "
            f"which takes (y_true, y_pred), make one: make_scorer({name})."
        )


class HeldOutPredictions(ClassifierMixin, BaseEstimator):
    """What a scorer sees of a model in training: its predictions on the held-out texts, whatever X is.

    Parameters
    ----------
    labels : Labels
        Of the training texts.
    logits : ndarray of shape (n_samples, n_outputs)
    """

    def __init__(self, labels: Labels, logits: np.ndarray) -> None:
        self.labels = labels
        self.logits = logits
        self.classes_ = labels.classes

    def predict(self, X: Any) -> np.ndarray:
        """Labels of the held-out texts."""
        return outputs.decode(self.predict_proba(X), self.classes_, self.labels.target_type)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the held-out texts."""
        return outputs.probabilities(self.logits, self.labels.target_type)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log-probabilities of the held-out texts."""
        return outputs.log_probabilities(self.logits, self.labels.target_type)

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds or logits of the held-out texts."""
        return outputs.decision_values(self.logits, self.labels.target_type)


class HeldOutNumbers(RegressorMixin, BaseEstimator):
    """The same of a regression.

    Parameters
    ----------
    numbers : Numbers
        Of the training texts.
    outputs : ndarray of shape (n_samples, n_outputs)
    """

    def __init__(self, numbers: Numbers, outputs: np.ndarray) -> None:
        self.numbers = numbers
        self.outputs = outputs

    def predict(self, X: Any) -> np.ndarray:
        """Numbers of the held-out texts."""
        known = self.numbers
        return outputs.in_units(self.outputs, known.means, known.scales, known.target_type)


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
    return max(range(len(scores)), key=scores.__getitem__)
