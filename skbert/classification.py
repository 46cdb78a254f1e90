"""What is specific to classifiers: labels → codes on the way in, logits → probabilities on the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from skbert.data import outputs
from skbert.data.containers import computed
from skbert.data.inputs import Texts
from skbert.data.labels import (
    Labels,
    LabelsType,
    check_same_classes,
    encode_known_labels,
    encode_labels,
    known_labels,
    labels_to_score,
)
from skbert.data.mistakes import check_labels_of_texts
from skbert.data.weights import check_text_weights, check_weights
from skbert.learning import LearningMixin
from skbert.prediction import PredictionMixin
from skbert.training.callbacks import with_callbacks
from skbert.training.distributed import on_all_ranks


class ClassificationMixin(PredictionMixin, ClassifierMixin, LearningMixin):
    """Classes and labels: `partial_fit`, predictions, probabilities."""

    _learns_numbers: ClassVar = False
    if TYPE_CHECKING:
        class_weight: Any
        classes_: np.ndarray
        target_type_: LabelsType

    @with_callbacks
    @on_all_ranks
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on these texts; an unfitted estimator starts from the checkpoint.

        The optimizer's state carries over from call to call (it starts anew for a model that was stored and
        loaded). The learning rate rises over the first 20 steps, or not at all if `warmup_ratio` is 0, and
        then stays constant. Sample weights are relative to the other texts of the call. Scores of an earlier
        validation stay only in `history_`.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,), (n_samples, 1) or (n_samples, 2)
            Texts, or pairs of texts.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, as in `fit`.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever occur. Required in the first call, unless y is an indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text.

        Returns
        -------
        self : BertClassifier
            If anything fails, the estimator is as it was before the call.

        Raises
        ------
        InputError
            If y holds an unknown class, `classes` differ from those of earlier calls, or a parameter is set
            that `partial_fit` does not support: `early_stopping`, `lora`, `class_weight` "balanced", `freeze`
            "gradual", `checkpoint`. And everything that `fit` raises.
        """

        def read(texts: Texts) -> tuple[Labels, np.ndarray, np.ndarray]:
            known = self._known_target() if hasattr(self, "model_") else known_labels(classes, y)
            check_same_classes(classes, known)
            return self._read_target(y, texts, sample_weight, known)

        return self._fit_one_epoch(X, y, sample_weight, read)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each text, or an indicator matrix of the labels more likely than not.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            In the labels' dtype; int64 for an indicator matrix.

        Raises
        ------
        NotFittedError
            Before `fit`.
        InputError, InputTypeError
            If texts cannot be used (the first bad row is named), or the device is not available.
        ValueError
            If the text columns have other names than in `fit`.
        NonFiniteOutputError
            If the model gives NaN or infinity for a text.
        InsufficientMemoryError
            If a single text, or the model, does not fit into memory.
        """
        now = self._snapshot()
        return outputs.decode(now.predict_proba(X), now.classes_, now.target_type_)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, in the order of `classes_`.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Rows sum to one, except for an indicator matrix: there each label has its own probability.
            float64 if `precision` is "float64".

        Raises
        ------
        NotFittedError, InputError, InputTypeError, ValueError, NonFiniteOutputError, InsufficientMemoryError
            As `predict` does.
        """
        now = self._snapshot()
        return outputs.probabilities(now._run(X, "logits"), now.target_type_)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of `predict_proba`, finite even where a probability rounds to zero.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            float64 if `precision` is "float64".

        Raises
        ------
        NotFittedError, InputError, InputTypeError, ValueError, NonFiniteOutputError, InsufficientMemoryError
            As `predict` does.
        """
        now = self._snapshot()
        return outputs.log_probabilities(now._run(X, "logits"), now.target_type_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of the classes or labels; for two classes the log-odds of the second.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes), float32
            float64 if `precision` is "float64".

        Raises
        ------
        NotFittedError, InputError, InputTypeError, ValueError, NonFiniteOutputError, InsufficientMemoryError
            As `predict` does.
        """
        now = self._snapshot()
        return outputs.decision_values(now._run(X, "logits"), now.target_type_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy: the fraction of texts whose label is predicted correctly, or all of whose labels are.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text.

        Returns
        -------
        float

        Raises
        ------
        InputError
            If y cannot be used, is of another form or kind than the classes, or has columns with other names
            or in another order than those of `fit`; if a weight is missing or negative. And everything that
            `predict` raises.
        """
        check_is_fitted(self)
        now, X = self._snapshot(), computed(X)
        labels = labels_to_score(y, len(now._texts(X)), now._known_target())
        weights = None if sample_weight is None else check_text_weights(len(labels), sample_weight)
        return float(accuracy_score(labels, now.predict(X), sample_weight=weights))

    def _known_target(self) -> Labels:
        """The classes of the fit, without any text."""
        shape = (0, len(self.classes_)) if self.target_type_ == "multilabel-indicator" else (0,)
        return Labels(np.empty(shape, np.int64), self.classes_, self.target_type_)

    def _read_target(
        self, y: Any, texts: Texts, sample_weight: Any, known: Any
    ) -> tuple[Labels, np.ndarray, np.ndarray]:
        """Labels, the weight of each text, and the weight of each class."""
        goes_on = known is not None and hasattr(self, "model_")
        if known is None:
            labels, min_classes = encode_labels(y, len(texts)), 2
        else:
            labels, min_classes = encode_known_labels(y, len(texts), known, are_fitted=goes_on), 1
        check_labels_of_texts(texts, labels, goes_on=goes_on)
        return labels, *check_weights(labels, sample_weight, self.class_weight, min_classes, goes_on=goes_on)
