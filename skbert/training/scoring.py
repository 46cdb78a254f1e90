"""Score held-out texts with a scorer of scikit-learn, from the outputs of a model in training.

1. `HeldOutScorer` finds the scorer, and refuses scorers that could not tell one epoch from another.
2. The scorer is given an estimator whose predictions are those for the held-out texts. If it fails, the error
   says which scorer to use instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any, Self

import numpy as np
from sklearn import metrics
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from skbert.data import outputs
from skbert.data.inputs import check_texts
from skbert.data.labels import Labels
from skbert.data.numbers import Numbers
from skbert.exceptions import InputError, warn
from skbert.process.warning_filters import holding_warning_filters

# scikit-learn takes the rows of an indicator matrix as probabilities of one label.
_OF_ONE_LABEL = (metrics.log_loss, metrics.d2_log_loss_score)
# They take the classes from the labels of the texts, unless they are given.
_OF_CLASSES = tuple(
    getattr(metrics, name)
    for name in ("log_loss", "brier_score_loss", "d2_log_loss_score", "d2_brier_score")
    if hasattr(metrics, name)
)
# Undefined where a prediction is negative, which it may become in any epoch.
_OF_POSITIVE_NUMBERS = (
    metrics.mean_squared_log_error,
    metrics.root_mean_squared_log_error,
    metrics.mean_poisson_deviance,
    metrics.mean_gamma_deviance,
    metrics.mean_tweedie_deviance,
    metrics.d2_tweedie_score,
)
_FEW = 20  # classes
# Relative to a constant prediction: nothing can be better where the numbers are all the same.
_RELATIVE = (
    metrics.r2_score,
    metrics.explained_variance_score,
    metrics.d2_absolute_error_score,
    metrics.d2_pinball_score,
)


class HeldOutScorer:
    """Scores a model's outputs for held-out texts.

    Parameters
    ----------
    scoring : str, callable or None
        As scikit-learn takes it; None is accuracy, or R² for numbers.
    target : Labels or Numbers
        Of the training texts.
    texts : list of str, or of tuple
        The held-out texts, or pairs.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Labels or numbers of the held-out texts, as they were given.
    """

    def __init__(
        self,
        scoring: str | Callable[..., float] | None,
        target: Labels | Numbers,
        texts: list[str] | list[tuple[str, str]],
        y: np.ndarray,
    ) -> None:
        self.target, self.texts, self.y = target, texts, y
        self.scoring = self._default() if scoring is None else scoring
        self._scorer = metrics.get_scorer(self.scoring)
        self._metric = getattr(self._scorer, "_score_func", None)  # of a scorer of scikit-learn
        if isinstance(target, Labels) and self._must_know_classes(target):
            self._scorer = copy(self._scorer)
            self._scorer._kwargs = {"labels": target.classes}
        self._check()

    def __call__(self, given: np.ndarray) -> float:
        """The score of logits, or of standardized numbers, (n_samples, n_outputs)."""
        kind = HeldOutNumbers if isinstance(self.target, Numbers) else HeldOutPredictions
        predictions = kind(self.target, self.texts, given)
        try:
            with holding_warning_filters():
                score = float(self._scorer(predictions, self.texts, self.y))
        except _SCORER_ERRORS as error:  # others are meant for other code, such as a search that prunes
            said = str(error).strip() or type(error).__name__
            raise InputError(
                f"scoring={self.scoring!r} failed on the validation texts ({said.splitlines()[0]}). "
                f"{self._remedy(said)}"
            ) from error
        if math.isnan(score):
            raise InputError(
                f"scoring={self.scoring!r} gave NaN on the {len(self.y)} validation texts. Expected a "
                f"number; {self._lacking() or 'use another scorer, or more validation texts.'}"
            )
        return score

    def _must_know_classes(self, labels: Labels) -> bool:
        """Whether the metric would fail where the held-out texts lack some classes, unless it is told all."""
        told = {"multiclass": _OF_CLASSES, "binary": (metrics.log_loss,)}.get(labels.target_type, ())
        return self._metric in told and getattr(self._scorer, "_kwargs", None) == {}

    def _default(self) -> str:
        if isinstance(self.target, Labels):
            if self.target.target_type == "multilabel-indicator":
                if self.y.any():
                    return "f1_micro"  # that all labels of a text are right is rare, and says little
                warn(
                    f"None of {len(self.y)} validation texts has a label, and F1 is undefined: epochs are "
                    "scored by accuracy. Raise validation_fraction, or pass X_val and y_val with labels."
                )
            return "accuracy"
        if len(self.y) < 2:
            raise InputError(
                "There is 1 validation text, and R² needs two. Raise validation_fraction, pass X_val and "
                "y_val, or set scoring='neg_mean_squared_error'."
            )
        if _all_the_same(self.y):
            warn(
                f"The numbers of {len(self.y)} validation texts are all the same, about which R² says "
                "nothing: epochs are scored by the negative mean squared error. Raise validation_fraction, "
                "or pass X_val and y_val with numbers that differ."
            )
            return "neg_mean_squared_error"
        return "r2"

    def _check(self) -> None:
        """Refuse scorers that could not tell a good epoch from a bad one."""
        of_labels = isinstance(self.target, Labels)
        if self._metric in _OF_ONE_LABEL and self.target.target_type == "multilabel-indicator":
            raise InputError(
                f"scoring={self.scoring!r} counts the labels that a text has, but not those that it lacks: "
                "predicting all of them would score best. For an indicator matrix, use another scorer, such "
                "as 'f1_macro' or 'average_precision'."
            )
        if of_labels:
            return
        if getattr(self._metric, "__module__", "").startswith("sklearn.metrics.cluster"):
            raise InputError(
                f"scoring={self.scoring!r} compares groups, not numbers. {_TAKE_A_REGRESSION_SCORER}"
            )
        if self._metric in _OF_POSITIVE_NUMBERS:
            raise InputError(
                f"scoring={self.scoring!r} is undefined for negative predictions, which may occur in any "
                f"epoch. {_TAKE_A_REGRESSION_SCORER} To learn logarithms, use scikit-learn's "
                "TransformedTargetRegressor."
            )
        if self._metric in _RELATIVE and _all_the_same(self.y):
            raise InputError(
                f"scoring={self.scoring!r} says nothing about numbers that are all the same, as are those of "
                f"the {len(self.y)} validation texts. Pass others, or use 'neg_mean_squared_error'."
            )

    def _remedy(self, said: str) -> str:
        """What to do about a scorer that fails, judging from its message."""
        if isinstance(self.target, Numbers) and isinstance(self.scoring, str):
            return _TAKE_A_REGRESSION_SCORER
        if "average=" in said:
            return "Use a scorer for all classes, such as 'f1_macro', or make_scorer with another average."
        if self.target.target_type == "binary" and str(self.scoring).startswith("roc_auc_ov"):
            return "Use the scorer for two classes, 'roc_auc'."
        if "multi_class" in said:
            return "Use a scorer for all classes, such as 'roc_auc_ovr'."
        if "pos_label" in said:
            return "Use a scorer for both classes, such as 'f1_macro', or make_scorer with a pos_label."
        lacking = self._lacking()
        if lacking:
            return lacking[0].upper() + lacking[1:]
        if isinstance(self.scoring, str) or self._metric is not None:
            return "Use another scorer."
        name = getattr(self.scoring, "__name__", "metric")
        return (
            "Expected a name or a callable that gives one number for (estimator, X, y). To use a metric, "
            f"which takes (y_true, y_pred), pass make_scorer({name})."
        )

    def _lacking(self) -> str:
        """Which classes have no text, where that may be why a metric fails; else an empty str."""
        if isinstance(self.target, Numbers) or self.y.ndim == 2 or self._metric is None:
            return ""
        lacking = np.setdiff1d(self.target.classes, self.y).tolist()
        if not lacking or not self._works_on(self.target.classes):
            return ""
        return (
            f"they have no text of {', '.join(map(repr, lacking[:3]))}, which the scorer may need: raise "
            "validation_fraction, or pass X_val and y_val with all classes."
        )

    def _works_on(self, classes: np.ndarray) -> bool:
        """Whether a metric of scikit-learn gives a number for right answers; True if it cannot be tried."""
        of_scikit_learn = getattr(self._metric, "__module__", "").startswith("sklearn.")
        if not of_scikit_learn or len(classes) > _FEW:  # pairs of classes take long
            return True
        texts = [str(number) for number in range(2 * len(classes))]
        predictions = HeldOutPredictions(self.target, texts, np.tile(np.eye(len(classes)), (2, 1)))
        try:
            with holding_warning_filters():
                return math.isfinite(self._scorer(predictions, texts, np.tile(classes, 2)))
        except _SCORER_ERRORS:
            return False


# What metrics raise where they cannot be computed.
_SCORER_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, Warning)
_TAKE_A_REGRESSION_SCORER = (
    "Use a scorer for numbers, such as 'neg_mean_squared_error' or 'neg_mean_absolute_error'."
)


def _all_the_same(y: np.ndarray) -> bool:
    return bool((y == y[0]).all())


class HeldOut(BaseEstimator):
    """What a scorer sees of a model in training: its outputs for the held-out texts.

    Parameters
    ----------
    target : Labels or Numbers
        Of the training texts.
    texts : list of str, or of tuple
    given : ndarray of shape (n_samples, n_outputs)
        Logits, or standardized numbers, of the texts.
    """

    def __init__(self, target: Any, texts: list[Any], given: np.ndarray) -> None:
        self.target, self.texts, self.given = target, texts, given

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing: it is already fitted, as scorers may check."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __repr__(self, *_: Any) -> str:
        return f"{type(self).__name__}({len(self.texts)} texts)"

    def _given(self, X: Any) -> np.ndarray:
        """Outputs of all texts, or of those that a scorer chooses: equal texts have equal rows."""
        if X is self.texts:
            return self.given
        rows = {text: row for row, text in enumerate(self.texts)}
        try:
            return self.given[[rows[text] for text in check_texts(X).rows] if len(X) else []]
        except LookupError as error:
            raise InputError(
                "the estimator that a scorer is given knows only the validation texts"
            ) from error


class HeldOutPredictions(ClassifierMixin, HeldOut):
    """The estimator that a scorer of a classification sees."""

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the training texts."""
        return self.target.classes

    def predict(self, X: Any) -> np.ndarray:
        """Labels of held-out texts."""
        return outputs.decode(self.predict_proba(X), self.classes_, self.target.target_type)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of held-out texts."""
        return outputs.probabilities(self._given(X), self.target.target_type)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log-probabilities of held-out texts."""
        return outputs.log_probabilities(self._given(X), self.target.target_type)

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds or logits of held-out texts."""
        return outputs.decision_values(self._given(X), self.target.target_type)


class HeldOutNumbers(RegressorMixin, HeldOut):
    """The estimator that a scorer of a regression sees."""

    def predict(self, X: Any) -> np.ndarray:
        """Numbers of held-out texts."""
        known = self.target
        return outputs.in_units(self._given(X), known.means, known.scales, known.target_type)
